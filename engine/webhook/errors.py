"""Why a webhook gave no answer: the vendor's error codes, from what the network, TLS and HTTP reported."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import httpx

from engine.errors import SwitchhookError

Kind = Literal["4xx", "5xx", "ct", "rt", "other"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request on the wire. Times in ms from its start; None for what did not happen."""

    url: str
    status: int | None
    error: str | None
    connect_ms: float | None
    first_byte_ms: float | None
    total_ms: float


class WebhookError(SwitchhookError):
    """No usable answer. `code` is from the vendor's error dictionary; no text here holds credentials."""

    def __init__(self, code: int, message: str, url: str, attempts: tuple[Attempt, ...] = ()) -> None:
        super().__init__(f"{code}: {message} ({url})")
        self.code = code
        self.message = message
        self.url = url
        self.attempts = attempts

    @property
    def status(self) -> int | None:
        """The HTTP status of the last request, None if it got no answer."""
        return self.attempts[-1].status if self.attempts else None


class RequestError(Exception):
    """Why one request gave no answer; becomes a `WebhookError` unless it is tried again."""

    def __init__(self, code: int, message: str, kind: Kind = "other") -> None:
        super().__init__(message)
        self.code, self.message, self.kind = code, message, kind


def is_malformed(error: Exception) -> bool:
    # a peer that merely hung up raises bare; what the HTTP parser (h11) refused has its error behind it
    refused = any(type(cause).__module__.startswith("h11") for cause in _causes(error))
    return refused and isinstance(error, httpx.RemoteProtocolError)


def connect_failure(error: Exception) -> tuple[int, str]:
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _CERTIFICATE.get(
                cause.verify_code, (11237, "The certificate is not signed by a trusted CA")
            )
        if isinstance(cause, ssl.SSLError):
            return 11220, "The TLS handshake failed"
        if isinstance(cause, (socket.gaierror, UnicodeError)):
            return 11210, "The host name does not resolve"
        if isinstance(cause, ConnectionRefusedError):
            return 11202, "The connection was refused"
    return 11205, "The connection failed"


_CERTIFICATE = {
    10: (11236, "The certificate has expired"),
    62: (11235, "The certificate is for another host name"),
    64: (11235, "The certificate is for another address"),
}


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for inner in error.exceptions:
                yield from _causes(inner)
        error = error.__cause__ or error.__context__
