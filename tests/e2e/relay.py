"""Networks in user space: a UDP relay that does to datagrams what a test says, and one that carries a whole call.

No privileges and no kernel modules are needed, and with a seed every run loses the same packets.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeAlias

Address: TypeAlias = tuple[str, int]
Treat: TypeAlias = Callable[[bytes], list[bytes]]  # what goes on instead of a datagram, now

_CONNECTION = re.compile(rb"^c=IN IP4 (\S+)\r?$", re.MULTILINE)
_AUDIO = re.compile(rb"^m=audio (\d+) ", re.MULTILINE)
_LENGTH = re.compile(rb"^(?:Content-Length|l)\s*:\s*\d+", re.MULTILINE | re.IGNORECASE)


def untouched(payload: bytes) -> list[bytes]:
    return [payload]


class Lossy:
    """Drops a share of the datagrams and lets others be overtaken by the next."""

    def __init__(self, seed: int, loss: float, reorder: float) -> None:
        self.lost = self.reordered = 0
        self._random = random.Random(seed)
        self._loss, self._reorder = loss, reorder
        self._held: bytes | None = None

    def __call__(self, payload: bytes) -> list[bytes]:
        if self._random.random() < self._loss:
            self.lost += 1
            return []
        held, self._held = self._held, None
        if held is not None:
            return [payload, held]
        if self._random.random() < self._reorder:
            self.reordered += 1
            self._held = payload
            return []
        return [payload]


class _Socket(asyncio.DatagramProtocol):
    """One side of a relay: what comes in is treated and leaves on the other side."""

    def __init__(self, treat: Treat) -> None:
        self.treat = treat
        self.peer: Address | None = None
        self.other: _Socket | None = None
        self.transport: asyncio.DatagramTransport | None = None
        self.seen: list[tuple[float, bytes]] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    @property
    def address(self) -> Address:
        assert self.transport is not None
        host, port = self.transport.get_extra_info("sockname")[:2]
        return host, port

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self.seen.append((time.monotonic(), data))
        self.peer = addr[:2]
        assert self.other is not None
        for payload in self.treat(data):
            self.other.send(payload)

    def send(self, payload: bytes) -> None:
        if self.peer is not None and self.transport is not None:
            self.transport.sendto(payload, self.peer)

    def error_received(self, exc: Exception) -> None:
        """A port that closed meanwhile: loss, as in any network."""


class UdpRelay:
    """One client, one server: `near` faces the client, `far` the server. Each side keeps what came in on it."""

    def __init__(
        self, server: Address | None, to_server: Treat = untouched, to_client: Treat | None = None
    ) -> None:
        self.near = _Socket(to_server)
        self.far = _Socket(to_client or to_server)
        self.near.other, self.far.other = self.far, self.near
        self.far.peer = server

    @property
    def address(self) -> Address:
        """Where the client sends to."""
        return self.near.address

    async def __aenter__(self) -> UdpRelay:
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: self.near, local_addr=("127.0.0.1", 0))
        await loop.create_datagram_endpoint(lambda: self.far, local_addr=("127.0.0.1", 0))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for side in (self.near, self.far):
            if side.transport is not None:
                side.transport.close()


@dataclass
class CallRelay:
    """A call's SIP and RTP through one hop that rewrites the SDP, so that the audio passes here as well.

    Only the first offer and answer go through it: ACK and what follows go straight to the Contact.
    """

    server: Address
    to_server: Treat = untouched
    to_client: Treat = untouched
    audio: UdpRelay = field(init=False)
    sip: UdpRelay = field(init=False)

    def __post_init__(self) -> None:
        self.audio = UdpRelay(None, self.to_server, self.to_client)
        self.sip = UdpRelay(self.server, self._offer, self._answer)

    async def __aenter__(self) -> CallRelay:
        await self.audio.__aenter__()
        await self.sip.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.sip.__aexit__(kind, error, trace)
        await self.audio.__aexit__(kind, error, trace)

    def target(self, number: str = "1000") -> str:
        host, port = self.sip.address
        return f"sip:{number}@{host}:{port}"

    def _offer(self, message: bytes) -> list[bytes]:
        return [self._rewritten(message, told_by=self.audio.near, seen_as=self.audio.far)]

    def _answer(self, message: bytes) -> list[bytes]:
        return [self._rewritten(message, told_by=self.audio.far, seen_as=self.audio.near)]

    @staticmethod
    def _rewritten(message: bytes, told_by: _Socket, seen_as: _Socket) -> bytes:
        head, gap, body = message.partition(b"\r\n\r\n")
        host, port = _CONNECTION.search(body), _AUDIO.search(body)
        if host is None or port is None:
            return message
        told_by.peer = (host[1].decode(), int(port[1]))
        body = _AUDIO.sub(b"m=audio %d " % seen_as.address[1], body)
        body = _CONNECTION.sub(b"c=IN IP4 %s\r" % seen_as.address[0].encode(), body)
        return _LENGTH.sub(b"Content-Length: %d" % len(body), head) + gap + body
