"""RTCP for every leg: when to report, what we have sent, and what the far end says it heard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.ids import Ids
from engine.media.protocol import SAMPLE_RATE, Quality
from engine.media.worker import rtcp
from engine.media.worker.reception import Reception
from engine.media.worker.sockets import PacketIo

INTERVAL = 5.0  # seconds, RFC 3550 §6.2; each is drawn from half to one and a half of it so that legs spread


@dataclass(slots=True)
class _Far:
    """What the far end of one leg told us, and when (in compact NTP of our clock)."""

    sender_report: int = 0
    heard_at: int = 0
    lost: int | None = None
    jitter: int | None = None
    round_trip: float | None = None
    source: str | None = None
    expected_before: int = 0
    received_before: int = 0


class Reporter:
    """Columns for what was sent, and an exchange of reports every few seconds."""

    def __init__(
        self, capacity: int, reception: Reception, io: PacketIo, ids: Ids, wall: Callable[[], float]
    ) -> None:
        self._reception = reception
        self._io = io
        self._ids = ids
        self._wall = wall
        self._packets = np.zeros(capacity, np.int64)
        self._octets = np.zeros(capacity, np.int64)
        self._timestamp = np.zeros(capacity, np.uint32)
        self._ssrc: dict[int, int] = {}
        self._far: dict[int, _Far] = {}
        self._due: dict[int, float] = {}

    def open(self, leg: int, ssrc: int) -> None:
        self._packets[leg] = self._octets[leg] = 0
        self._ssrc[leg] = ssrc
        self._far[leg] = _Far()

    def close(self, leg: int) -> None:
        """Tell the far end that this source is gone (RFC 3550 §6.6)."""
        if self._packets[leg]:
            self._io.send_rtcp(leg, self._report(leg) + rtcp.goodbye(self._ssrc[leg]))
        self._due.pop(leg, None)

    def sent(self, legs: NDArray[np.int64], octets: int) -> None:
        self._packets[legs] += 1
        self._octets[legs] += octets

    def clock(self, legs: NDArray[np.int64], timestamps: NDArray[np.uint32]) -> None:
        self._timestamp[legs] = timestamps

    def source(self, leg: int, text: str) -> None:
        self._far[leg].source = text

    def receive(self) -> None:
        """Take in what arrived. Called every step: a report that waits makes the round trip look longer."""
        for leg, packet in self._io.receive_rtcp():
            for report in rtcp.parse(packet):
                self._take(leg, report)

    def send_due(self, now: float) -> None:
        """Send the reports that are due."""
        for leg in self._far:
            due = self._due.get(leg)
            if due is None:
                self._due[leg] = now + self._interval()
            elif due <= now:
                self._due[leg] = now + self._interval()
                self._io.send_rtcp(leg, self._report(leg))

    def quality(self, leg: int, late: int) -> Quality:
        """The final figures of a leg, which is forgotten by this."""
        far = self._far.pop(leg)
        return Quality(
            packets_received=self._reception.total(leg),
            packets_lost=self._reception.lost(leg),
            packets_late=late,
            packets_sent=int(self._packets[leg]),
            jitter_ms=round(float(self._reception.jitter[leg]) * 1000 / SAMPLE_RATE, 2),
            remote_packets_lost=far.lost,
            remote_jitter_ms=None if far.jitter is None else round(far.jitter * 1000 / SAMPLE_RATE, 2),
            round_trip_ms=None if far.round_trip is None else round(far.round_trip * 1000, 2),
            source=far.source,
        )

    def _interval(self) -> float:
        return INTERVAL * (0.5 + self._ids.number(16) / 65536)

    def _take(self, leg: int, report: rtcp.Report) -> None:
        far = self._far.get(leg)
        if far is None:
            return
        arrival = rtcp.compact_ntp(self._wall())
        if report.middle_ntp is not None:
            far.sender_report, far.heard_at = report.middle_ntp, arrival
        for block in report.blocks:
            if block.ssrc == self._ssrc[leg]:
                far.lost, far.jitter = block.lost, block.jitter
                if (seconds := rtcp.round_trip(arrival, block)) is not None:
                    far.round_trip = seconds

    def _report(self, leg: int) -> bytes:
        ssrc, wall = self._ssrc[leg], self._wall()
        blocks = [self._block(leg, wall)] if self._reception.started[leg] else []
        if self._packets[leg]:
            packets, octets = int(self._packets[leg]), int(self._octets[leg])
            report = rtcp.sender_report(ssrc, wall, int(self._timestamp[leg]), packets, octets, blocks)
        else:
            report = rtcp.receiver_report(ssrc, blocks)
        return report + rtcp.description(ssrc, f"{ssrc:08x}@switchhook")

    def _block(self, leg: int, wall: float) -> rtcp.ReportBlock:
        reception, far = self._reception, self._far[leg]
        received, lost = reception.total(leg), reception.lost(leg)
        expected = received + lost
        interval = expected - far.expected_before
        missing = interval - (received - far.received_before)
        far.expected_before, far.received_before = expected, received
        return rtcp.ReportBlock(
            ssrc=int(reception.ssrc[leg]),
            fraction_lost=min((max(missing, 0) << 8) // interval, 255) if interval > 0 else 0,
            lost=lost,
            highest=int(reception.highest[leg]),
            jitter=int(reception.jitter[leg]),
            last_sender_report=far.sender_report,
            delay=(rtcp.compact_ntp(wall) - far.heard_at) & 0xFFFFFFFF if far.sender_report else 0,
        )
