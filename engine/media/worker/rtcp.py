"""RTCP sender and receiver reports (RFC 3550 §6.4): what the far end heard, and what we did."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

SENDER_REPORT = 200
RECEIVER_REPORT = 201
SOURCE_DESCRIPTION = 202
GOODBYE = 203
CNAME = 1
NTP_EPOCH = 2_208_988_800  # seconds from 1900 to 1970
FRACTION = 1 << 16  # the compact NTP form counts 1/65536 s

_REPORT_BLOCK = struct.Struct(">IB3sIIII")
_SENDER_INFO = struct.Struct(">IIIII")


@dataclass(frozen=True, slots=True)
class ReportBlock:
    """Reception of one source as its receiver saw it. Jitter in timestamp units; delays in 1/65536 s."""

    ssrc: int
    fraction_lost: int
    lost: int
    highest: int
    jitter: int
    last_sender_report: int
    delay: int

    def pack(self) -> bytes:
        lost = max(-(1 << 23), min(self.lost, (1 << 23) - 1)) & 0xFFFFFF
        return _REPORT_BLOCK.pack(
            self.ssrc,
            self.fraction_lost,
            lost.to_bytes(3, "big"),
            self.highest & 0xFFFFFFFF,
            self.jitter,
            self.last_sender_report,
            self.delay,
        )


@dataclass(frozen=True, slots=True)
class Report:
    """A parsed SR or RR. `middle_ntp` is the compact time of an SR, None for an RR."""

    ssrc: int
    middle_ntp: int | None
    blocks: tuple[ReportBlock, ...]


def compact_ntp(wall: float) -> int:
    """The middle 32 bits of the NTP timestamp of a Unix time (RFC 3550 §4)."""
    return int((wall + NTP_EPOCH) * FRACTION) & 0xFFFFFFFF


def round_trip(now: int, block: ReportBlock) -> float | None:
    """Seconds there and back, RFC 3550 §6.4.1: arrival - last SR - delay since last SR."""
    if block.last_sender_report == 0:
        return None
    seconds = ((now - block.last_sender_report - block.delay) & 0xFFFFFFFF) / FRACTION
    return seconds if seconds < 60 else None  # more is a far end with a broken clock


def sender_report(
    ssrc: int, wall: float, timestamp: int, packets: int, octets: int, blocks: list[ReportBlock]
) -> bytes:
    ntp = wall + NTP_EPOCH
    info = _SENDER_INFO.pack(
        int(ntp) & 0xFFFFFFFF,
        int(ntp % 1 * (1 << 32)),
        timestamp & 0xFFFFFFFF,
        packets & 0xFFFFFFFF,
        octets & 0xFFFFFFFF,
    )
    return _packet(
        SENDER_REPORT, len(blocks), ssrc.to_bytes(4, "big") + info + b"".join(b.pack() for b in blocks)
    )


def receiver_report(ssrc: int, blocks: list[ReportBlock]) -> bytes:
    return _packet(RECEIVER_REPORT, len(blocks), ssrc.to_bytes(4, "big") + b"".join(b.pack() for b in blocks))


def description(ssrc: int, name: str) -> bytes:
    """SDES with a CNAME, which every compound packet must carry (RFC 3550 §6.1)."""
    item = bytes([CNAME, len(name)]) + name.encode() + b"\0"
    chunk = ssrc.to_bytes(4, "big") + item
    return _packet(SOURCE_DESCRIPTION, 1, chunk + bytes(-len(chunk) % 4))


def goodbye(ssrc: int) -> bytes:
    return _packet(GOODBYE, 1, ssrc.to_bytes(4, "big"))


def parse(compound: bytes) -> list[Report]:
    """The reports in a compound packet; what is malformed or of another kind is left out."""
    return [
        report
        for kind, count, body in _packets(compound)
        if kind in (SENDER_REPORT, RECEIVER_REPORT)
        and (report := _parse_report(kind, count, body)) is not None
    ]


def _packet(kind: int, count: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0x80 | count, kind, len(body) // 4) + body


def _packets(compound: bytes) -> Iterator[tuple[int, int, bytes]]:
    while len(compound) >= 4 and compound[0] >> 6 == 2:
        length = 4 * (int.from_bytes(compound[2:4], "big") + 1)
        if length > len(compound):
            return
        yield compound[1], compound[0] & 0x1F, compound[4:length]
        compound = compound[length:]


def _parse_report(kind: int, count: int, body: bytes) -> Report | None:
    start = 4 + (_SENDER_INFO.size if kind == SENDER_REPORT else 0)
    if len(body) < start + count * _REPORT_BLOCK.size:
        return None
    middle = int.from_bytes(body[6:10], "big") if kind == SENDER_REPORT else None
    blocks = tuple(_parse_block(body, start + i * _REPORT_BLOCK.size) for i in range(count))
    return Report(int.from_bytes(body[:4], "big"), middle, blocks)


def _parse_block(body: bytes, start: int) -> ReportBlock:
    ssrc, fraction, lost, highest, jitter, last, delay = _REPORT_BLOCK.unpack_from(body, start)
    return ReportBlock(ssrc, fraction, int.from_bytes(lost, "big", signed=True), highest, jitter, last, delay)
