"""A network in memory for the media tick: packets put in per leg, and what was sent kept with the step's time."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.ids import SeededIds
from engine.media import protocol as p
from engine.media.worker import rtp
from engine.media.worker.core import SLOT_SECONDS, MediaCore
from engine.media.worker.sockets import BATCH, ROW_OCTETS, Address, Batch

FIRST_PORT = 20000


@dataclass(frozen=True, slots=True)
class Sent:
    """One RTP packet that a leg sent, taken apart by hand."""

    at: float
    target: Address | None
    marker: bool
    payload_type: int
    sequence: int
    timestamp: int
    ssrc: int
    payload: bytes


def take_apart(at: float, target: Address | None, packet: bytes) -> Sent:
    assert packet[0] == 0x80, "version 2 and nothing else"
    return Sent(
        at,
        target,
        bool(packet[1] & 0x80),
        packet[1] & 0x7F,
        int.from_bytes(packet[2:4], "big"),
        int.from_bytes(packet[4:8], "big"),
        int.from_bytes(packet[8:12], "big"),
        packet[12:],
    )


@dataclass
class FakeIo:
    """`PacketIo` whose far ends are lists. `now` is set by whoever steps the core."""

    dropped: int = 0
    now: float = 0.0
    sent: dict[int, list[Sent]] = field(default_factory=lambda: defaultdict(list))
    sent_rtcp: dict[int, list[tuple[float, bytes]]] = field(default_factory=lambda: defaultdict(list))
    targets: dict[int, tuple[Address | None, Address | None]] = field(default_factory=dict)
    locks: list[tuple[int, Address]] = field(default_factory=list)
    sources: dict[int, Address] = field(default_factory=dict)
    closed: list[int] = field(default_factory=list)
    arrived: dict[int, deque[bytes]] = field(default_factory=lambda: defaultdict(deque))
    arrived_rtcp: list[tuple[int, bytes]] = field(default_factory=list)

    def open(self, leg: int, host: str) -> int:
        self.targets[leg] = (None, None)
        return FIRST_PORT + 2 * leg

    def aim(self, leg: int, rtp: Address | None, rtcp: Address | None) -> None:
        self.targets[leg] = (rtp, rtcp)

    def source(self, leg: int) -> Address | None:
        return self.sources.get(leg)

    def receive(self, batch: Batch) -> None:
        batch.count = 0
        for leg, packets in self.arrived.items():
            if not packets or batch.count == BATCH:
                continue
            packet = packets.popleft()
            if not rtp.HEADER_OCTETS <= len(packet) < ROW_OCTETS:
                self.dropped += 1
                continue
            batch.rows[batch.count, : len(packet)] = np.frombuffer(packet, np.uint8)
            batch.lengths[batch.count], batch.legs[batch.count] = len(packet), leg
            batch.count += 1

    def receive_rtcp(self) -> list[tuple[int, bytes]]:
        packets, self.arrived_rtcp = self.arrived_rtcp, []
        return packets

    def locked(self) -> list[tuple[int, Address]]:
        locks, self.locks = self.locks, []
        self.sources.update(locks)
        return locks

    def send(self, legs: NDArray[np.int64], packets: NDArray[np.void]) -> None:
        for leg, packet in zip(legs.tolist(), packets, strict=True):
            self.send_one(leg, packet.tobytes())

    def send_one(self, leg: int, packet: bytes) -> None:
        self.sent[leg].append(take_apart(self.now, self.targets[leg][0], packet))

    def send_rtcp(self, leg: int, packet: bytes) -> None:
        self.sent_rtcp[leg].append((self.now, packet))

    def close(self, leg: int) -> None:
        del self.targets[leg]
        self.sources.pop(leg, None)
        self.closed.append(leg)


class Bench:
    """A core on a fake network in virtual time. Legs are 100, 101, …; their rows are found by `row`."""

    def __init__(self, capacity: int = 16, seed: int = 1, wall: float = 1_800_000_000.0) -> None:
        self.now = 1000.0
        self._wall = wall - self.now
        self.io = FakeIo()
        self.core = MediaCore(self.io, SeededIds(seed), lambda: self.now + self._wall, capacity)
        self._legs = 100

    def open(self, **aim: object) -> int:
        """A leg that sends and receives mu-law, with telephone events as type 101."""
        leg, self._legs = self._legs, self._legs + 1
        self.do(p.Open(leg, "127.0.0.1"))
        self.aim(leg, **aim)
        return leg

    def aim(self, leg: int, **changes: object) -> None:
        settled: dict[str, object] = {
            "host": "192.0.2.1",
            "port": 4000,
            "rtcp_host": "192.0.2.1",
            "rtcp_port": 4001,
            "payload_type": 0,
            "receive_type": changes.get("payload_type", 0),
            "codec": p.PCMU,
            "dtmf_payload_type": 101,
            "dtmf_receive_type": 101,
            "send": True,
            "receive": True,
            "timeout": 0.0,
        }
        self.do(p.Aim(leg=leg, **(settled | changes)))  # type: ignore[arg-type]

    def do(self, command: p.Command) -> None:
        self.core.handle(command, self.now)

    def row(self, leg: int) -> int:
        return self.core._rows[leg]

    def sent(self, leg: int) -> list[Sent]:
        return self.io.sent[self.row(leg)]

    def arrive(self, leg: int, *packets: bytes) -> None:
        self.io.arrived[self.row(leg)].extend(packets)

    def step(self, steps: int = 1) -> None:
        for _ in range(steps):
            self.now += SLOT_SECONDS
            self.io.now = self.now
            self.core.step(self.now)

    def frames(self, frames: int) -> None:
        """So many times 20 ms: every leg sends so many packets."""
        self.step(10 * frames)

    def events(self, kind: type[p.Event] | None = None) -> list[p.Event]:
        """What happened so far, of one kind if so asked; everything is taken away."""
        events, self.core.events = self.core.events, []
        return [event for event in events if kind is None or isinstance(event, kind)]


def audio_packet(
    sequence: int, timestamp: int, payload: bytes, ssrc: int = 7, payload_type: int = 0, first: int = 0x80
) -> bytes:
    return (
        bytes([first, payload_type])
        + (sequence & 0xFFFF).to_bytes(2, "big")
        + (timestamp & 0xFFFFFFFF).to_bytes(4, "big")
        + ssrc.to_bytes(4, "big")
        + payload
    )
