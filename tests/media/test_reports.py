"""RTCP between two cores over a wire with delay and loss, both in virtual time."""

from __future__ import annotations

import itertools
from collections import deque

import pytest

from engine.media import protocol as p
from engine.media.worker import rtcp
from engine.media.worker.rtcp import ReportBlock
from tests.media.fake_io import Bench, audio_packet

DELAY_STEPS = 35  # 70 ms each way


class Pair:
    """Two legs aimed at each other; RTP of the left one is lost at every `lose`-th packet."""

    def __init__(self, lose: int = 0) -> None:
        self.left, self.right = Bench(seed=1), Bench(seed=2, wall=1_700_000_000.0)
        self.ends = [(self.left, self.left.open()), (self.right, self.right.open())]
        self.lose = lose
        self._wires: list[deque[tuple[int, bool, bytes]]] = [deque(), deque()]
        self._steps = 0

    def step(self, steps: int) -> None:
        for _ in range(steps):
            self._steps += 1
            for side in (0, 1):
                self._deliver(side)
                self.ends[side][0].step()
            for side in (0, 1):
                self._collect(side)

    def _collect(self, side: int) -> None:
        bench, leg = self.ends[side]
        for packet in bench.sent(leg):
            lost = side == 0 and self.lose and packet.sequence % self.lose == 0
            wire = audio_packet(packet.sequence, packet.timestamp, packet.payload, packet.ssrc)
            if not lost:
                self._wires[1 - side].append((self._steps + DELAY_STEPS, False, wire))
        bench.sent(leg).clear()
        for _, report in bench.io.sent_rtcp.pop(bench.row(leg), []):
            self._wires[1 - side].append((self._steps + DELAY_STEPS, True, report))

    def _deliver(self, side: int) -> None:
        bench, leg = self.ends[side]
        wire = self._wires[side]
        while wire and wire[0][0] <= self._steps:
            _, control, packet = wire.popleft()
            if control:
                bench.io.arrived_rtcp.append((bench.row(leg), packet))
            else:
                bench.arrive(leg, packet)

    def quality(self, side: int) -> p.Quality:
        bench, leg = self.ends[side]
        bench.do(p.Close(leg))
        (closed,) = bench.events(p.Closed)
        assert isinstance(closed, p.Closed)
        return closed.quality


def test_both_ends_learn_the_round_trip_though_their_clocks_differ_by_years() -> None:
    pair = Pair()
    pair.step(12000)  # 24 s
    for side in (0, 1):
        quality = pair.quality(side)
        # 140 ms of wire, and RTCP is read every 100 ms
        assert quality.round_trip_ms is not None
        assert 140 <= quality.round_trip_ms <= 345
        assert (quality.packets_lost, quality.remote_packets_lost) == (0, 0)
        assert quality.jitter_ms < 1
        assert quality.packets_sent == 1200


def test_loss_is_told_to_who_sent() -> None:
    pair = Pair(lose=10)
    pair.step(12000)
    left, right = pair.quality(0), pair.quality(1)
    assert right.packets_lost == pytest.approx(119, abs=2)
    assert left.packets_lost == 0
    assert left.remote_packets_lost == pytest.approx(119, abs=45)  # as of the last report
    assert right.remote_packets_lost == 0


def test_the_fraction_lost_is_of_the_time_since_the_last_report() -> None:
    bench = Bench()
    leg = bench.open()
    for start, lose in ((0, 4), (1000, 2)):
        for n in range(400):
            if n % lose:
                bench.arrive(leg, audio_packet(start + n, 160 * n, bytes(160)))
        bench.step(400)
        start += 400
        bench.now += 10
        bench.step(50)
    reports = [rtcp.parse(packet)[0] for _, packet in bench.io.sent_rtcp[bench.row(leg)]]
    fractions = [report.blocks[0].fraction_lost for report in reports if report.blocks]
    assert fractions[0] == pytest.approx(64, abs=2)
    assert 128 < fractions[-1] < 256


def test_reports_are_five_seconds_apart_on_average_and_compound() -> None:
    bench = Bench()
    leg = bench.open()
    bench.step(50_000)  # 100 s
    reports = bench.io.sent_rtcp[bench.row(leg)]
    assert 15 <= len(reports) <= 27
    gaps = [b - a for (a, _), (b, _) in itertools.pairwise(reports)]
    assert 2.4 <= min(gaps) < 4 < 6 < max(gaps) <= 7.7
    assert len({round(gap, 1) for gap in gaps}) > 5
    for _, packet in reports:
        assert packet[1] == rtcp.SENDER_REPORT
        length = 4 * (1 + int.from_bytes(packet[2:4], "big"))
        assert packet[length + 1] == rtcp.SOURCE_DESCRIPTION
        assert b"@switchhook" in packet


def test_a_sender_report_counts_what_was_sent() -> None:
    bench = Bench()
    leg = bench.open()
    bench.frames(500)
    at, packet = bench.io.sent_rtcp[bench.row(leg)][-1]
    before = [sent for sent in bench.sent(leg) if sent.at <= at]
    timestamp, packets, octets = (int.from_bytes(packet[i : i + 4], "big") for i in (16, 20, 24))
    assert (packets, octets) == (len(before), 160 * len(before))
    assert (timestamp - before[-1].timestamp) % 2**32 <= 160
    assert int.from_bytes(packet[4:8], "big") == before[0].ssrc


def test_a_listener_sends_receiver_reports_and_no_goodbye() -> None:
    bench = Bench()
    leg = bench.open(send=False)
    row = bench.row(leg)
    bench.frames(500)
    assert {packet[1] for _, packet in bench.io.sent_rtcp[row]} == {rtcp.RECEIVER_REPORT}
    count = len(bench.io.sent_rtcp[row])
    bench.do(p.Close(leg))
    assert len(bench.io.sent_rtcp[row]) == count


def test_goodbye_ends_a_source() -> None:
    bench = Bench()
    leg = bench.open()
    row = bench.row(leg)
    bench.frames(3)
    bench.do(p.Close(leg))
    packet = bench.io.sent_rtcp[row][-1][1]
    assert packet[-8:-4] == bytes([0x81, rtcp.GOODBYE, 0, 1])
    assert int.from_bytes(packet[-4:], "big") == bench.io.sent[row][0].ssrc


def test_reports_about_other_sources_and_rubbish_are_ignored() -> None:
    bench = Bench()
    leg = bench.open()
    row = bench.row(leg)
    stranger = ReportBlock(12345, 9, 99, 0, 800, 1, 1)
    report = rtcp.receiver_report(1, [stranger])
    bench.io.arrived_rtcp += [
        (row, packet) for packet in (report, b"", b"\x80", b"\x81\xc9\xff\xff" * 9, report[:-1])
    ]
    bench.io.arrived_rtcp.append((row + 1, report))  # a row that nobody has
    bench.step(100)
    bench.do(p.Close(leg))
    (closed,) = bench.events(p.Closed)
    assert isinstance(closed, p.Closed)
    assert (closed.quality.remote_packets_lost, closed.quality.round_trip_ms) == (None, None)
