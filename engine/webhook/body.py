"""An answer's body, read within its limits."""

from __future__ import annotations

import zlib

import httpx

from engine.webhook.errors import RequestError

MAX_BODY = 64 * 1024  # what the cloud takes (error 11750); a document that a person hears is far smaller


class BodyReader:
    """An answer's body, decoded and bounded, whatever it claims about its size."""

    def __init__(self, headers: httpx.Headers) -> None:
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", "", "gzip", "x-gzip"):
            raise RequestError(11206, "The app's answer is encoded in a way that was not asked for")
        self._inflate = zlib.decompressobj(16 + zlib.MAX_WBITS) if "gzip" in encoding else None
        self._chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        self._received = 0
        self._body = bytearray()

    def feed(self, chunk: bytes) -> None:
        """Take a packet; raises `RequestError` 11750 above `MAX_BODY`, before or after decoding."""
        self._received += len(chunk)
        if self._inflate is None:
            self._body += chunk
        else:
            try:  # never more than one byte beyond the limit: a kilobyte of gzip can hold a megabyte
                self._body += self._inflate.decompress(chunk, MAX_BODY + 1 - len(self._body))
            except zlib.error as error:
                raise RequestError(11206, "The app's answer is not the gzip it claims to be") from error
        if max(self._received, len(self._body)) > MAX_BODY:
            raise RequestError(11750, f"The app's answer is larger than {MAX_BODY} bytes")

    def end(self) -> bytes:
        """The whole body; raises `RequestError` if it is cut off, or empty and chunked (11770)."""
        if self._inflate is not None and self._received and not self._inflate.eof:
            raise RequestError(11206, "The app's gzip answer is cut off")
        if self._chunked and not self._body:
            raise RequestError(11770, "The app's answer is chunked and empty")
        return bytes(self._body)
