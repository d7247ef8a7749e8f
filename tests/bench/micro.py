"""The hot paths alone, in this process: the media tick without sockets, the SIP parser, documents and verbs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.call.instructions import Page
from engine.ids import SeededIds
from engine.media import protocol as p
from engine.media.worker import rtp
from engine.media.worker.core import SLOT_SECONDS, SLOTS, MediaCore
from engine.media.worker.sockets import Address, Batch
from engine.sip.parse import parse_datagram
from engine.verbs.interpreter import Interpreter
from markup import parse

LEGS = 1000
ROUNDS = 5  # the best counts: whatever is slower was somebody else's work on this machine

INVITE = (
    b"INVITE sip:1000@127.0.0.1:5060 SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP 127.0.0.1:5070;rport;branch=z9hG4bK74bf9\r\n"
    b"Max-Forwards: 70\r\n"
    b'From: "Alice" <sip:alice@127.0.0.1:5070>;tag=9fxced76sl\r\n'
    b"To: <sip:1000@127.0.0.1>\r\n"
    b"Call-ID: 3848276298220188511@127.0.0.1\r\n"
    b"CSeq: 1 INVITE\r\n"
    b"Contact: <sip:alice@127.0.0.1:5070>\r\n"
    b"Allow: INVITE, ACK, BYE, CANCEL, OPTIONS\r\n"
    b"User-Agent: bench\r\n"
    b"Content-Type: application/sdp\r\n"
    b"Content-Length: 0\r\n\r\n"
)
XML = b"""<Response>
  <Gather numDigits="1" timeout="5" action="/menu"><Say language="en-US">Press one, or stay on the line.</Say>
  </Gather><Say>Goodbye.</Say><Hangup/>
</Response>"""
VERBS = 40


@dataclass(frozen=True, slots=True)
class Micro:
    """`microseconds` for one `what`."""

    what: str
    microseconds: float


class StillIo:
    """`PacketIo` at no cost: in every step a tenth of the legs has a packet, and what is sent is dropped."""

    def __init__(self, legs: int) -> None:
        self.dropped = 0
        self._sequence = np.zeros(legs, np.uint16)
        self._groups = [np.arange(slot, legs, SLOTS) for slot in range(SLOTS)]
        self._step = 0
        self._given = False

    def open(self, leg: int, host: str) -> int:
        return 20000 + 2 * leg

    def aim(self, leg: int, rtp: Address | None, rtcp: Address | None) -> None:
        """Nowhere."""

    def source(self, leg: int) -> Address | None:
        """Nobody was heard from in particular."""
        return None

    def receive(self, batch: Batch) -> None:
        legs = self._groups[self._step % SLOTS]
        self._step += 1
        packets = np.zeros(len(legs), rtp.FRAME)
        packets["first"], packets["ssrc"] = rtp.VERSION_2, legs
        packets["sequence"], packets["timestamp"] = (
            self._sequence[legs],
            self._sequence[legs].astype(np.uint32) * 160,
        )
        self._sequence[legs] += 1
        batch.rows[: len(legs), : rtp.FRAME.itemsize] = packets.view(np.uint8).reshape(len(legs), -1)
        batch.lengths[: len(legs)] = rtp.FRAME.itemsize
        batch.legs[: len(legs)] = legs
        batch.count = len(legs)

    def receive_rtcp(self) -> list[tuple[int, bytes]]:
        return []

    def locked(self) -> list[tuple[int, Address]]:
        return []

    def send(self, legs: NDArray[np.int64], packets: NDArray[np.void]) -> None:
        """Into the void."""

    def send_one(self, leg: int, packet: bytes) -> None:
        """Into the void."""

    def send_rtcp(self, leg: int, packet: bytes) -> None:
        """Into the void."""

    def close(self, leg: int) -> None:
        """Nothing was open."""


def tick(folder: Path, legs: int = LEGS) -> Micro:
    """One step of 2 ms with all legs playing and receiving."""
    clip = folder / "tick.pcm"
    clip.write_bytes(bytes(2 * 60 * p.SAMPLE_RATE))
    core = MediaCore(StillIo(legs), SeededIds(), lambda: 1.8e9, legs)
    for leg in range(legs):
        core.handle(p.Open(leg, "127.0.0.1"), 0.0)
        core.handle(
            p.Aim(leg, "192.0.2.1", 4000, "192.0.2.1", 4001, 0, 0, p.PCMU, 101, 101, True, True, 30.0), 0.0
        )
        core.handle(p.Play(leg, 1, (p.Clip(str(clip), 0, 60 * p.SAMPLE_RATE),), True, 0, "0123456789*#"), 0.0)
    now = iter(SLOT_SECONDS * step for step in range(1_000_000_000))
    return Micro(f"media step, {legs} legs, no sockets", best(lambda: core.step(next(now)), 500))


def sip() -> Micro:
    return Micro("parse an INVITE", best(lambda: parse_datagram(INVITE), 500))


def markup() -> Micro:
    return Micro("parse a document of four verbs", best(lambda: parse(XML), 500))


class _NoCall:
    """What the interpreter touches of a call, doing nothing."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self.instructions = self.timeline = self.keys = self
        self.elapsed = 0.0

    def params(self) -> list[tuple[str, str]]:
        return []

    def note(self, kind: str, /, **data: Any) -> None:
        """Nobody reads it."""

    def clear(self) -> None:
        """No keys."""

    async def first(self, params: object) -> Page:
        return self._page

    async def answer(self) -> None:
        """Nobody listens."""


def verbs() -> Micro:
    """One verb through the interpreter: a Say of no words, which does nothing but note it."""
    document = parse(b"<Response>" + b"<Say/>" * VERBS + b"</Response>")
    call: Any = _NoCall(Page(document, "file:///bench.xml"))

    def run() -> None:
        asyncio.run(Interpreter(call).run())

    empty = best(lambda: asyncio.run(call.answer()), 20)
    return Micro("interpret a verb", (best(run, 20) - empty) / VERBS)


def best(work: Callable[[], object], repeats: int) -> float:
    """Microseconds of one call of `work`, the best of several rounds."""
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(repeats):
            work()
        times.append((time.perf_counter() - began) / repeats)
    return round(1e6 * min(times), 2)


def everything(folder: Path) -> list[Micro]:
    return [tick(folder), sip(), markup(), verbs()]
