"""Reception statistics against RFC 3550's appendix code, transcribed packet by packet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.media.worker.reception import MAX_DROPOUT, Reception

FAR = 2**32


@dataclass
class Source:
    """A.1's `source`, one packet at a time; a restart is taken at its first packet (no probation)."""

    ssrc: int | None = None
    max_seq: int = 0
    cycles: int = 0
    base_seq: int = 0
    received: int = 0
    transit: int | None = None
    jitter: float = 0.0
    received_before: int = 0
    lost_before: int = 0

    @property
    def lost(self) -> int:
        return self.cycles + self.max_seq - self.base_seq + 1 - self.received if self.ssrc is not None else 0

    def update(self, seq: int, timestamp: int, ssrc: int, arrival: int, timed: bool) -> bool:
        forward, backward = (seq - self.max_seq) % 65536, (self.max_seq - seq) % 65536
        restart = ssrc != self.ssrc or min(forward, backward) > MAX_DROPOUT
        if restart:
            self.received_before += self.received
            self.lost_before += max(self.lost, 0)
            self.ssrc, self.max_seq, self.base_seq, self.cycles, self.received = ssrc, seq, seq, 0, 0
            self.transit = None
        elif 0 < forward <= MAX_DROPOUT:
            self.cycles += 65536 * (seq < self.max_seq)
            self.max_seq = seq
        self.received += 1
        if timed:
            self.time((arrival - timestamp) % FAR)
        return restart

    def time(self, transit: int) -> None:
        if self.transit is not None:
            d = (transit - self.transit) % FAR
            self.jitter += (min(d, FAR - d) - self.jitter) / 16
        self.transit = transit


PACKET = st.tuples(
    st.sampled_from([1, 1, 1, 1, 1, 2, 3, 40, 0, -1, -2, 3000, 3001, -3001, 20000]),  # step in sequence
    st.sampled_from([160, 160, 160, 0, 320, -160, 2**31, 123456]),  # step in timestamp
    st.sampled_from([0, 0, 0, 0, 0, 0, 0, 1]),  # step in SSRC
    st.booleans(),
    st.floats(0, 0.5),
)


@given(
    st.integers(0, 65535), st.integers(0, FAR - 1), st.integers(0, FAR - 1), st.lists(PACKET, max_size=120)
)
def test_like_the_appendix(
    seq: int, timestamp: int, ssrc: int, packets: list[tuple[int, int, int, bool, float]]
) -> None:
    reception, source, now = Reception(3), Source(), 5.0
    for step, tick, change, timed, delay in packets:
        seq, timestamp, ssrc = (seq + step) % 65536, (timestamp + tick) % FAR, (ssrc + change) % FAR
        now += delay
        began = count(reception, 1, seq, timestamp, ssrc, now, timed)
        assert began == source.update(seq, timestamp, ssrc, int(now * 8000), timed)
    assert reception.total(1) == source.received + source.received_before
    assert reception.lost(1) == source.lost_before + max(source.lost, 0)
    assert reception.jitter[1] == pytest.approx(source.jitter)
    assert int(reception.highest[1]) == source.max_seq + source.cycles
    assert (reception.total(0), reception.lost(2), reception.jitter[0]) == (0, 0, 0)


def count(
    reception: Reception,
    leg: int,
    seq: int,
    timestamp: int = 0,
    ssrc: int = 1,
    now: float = 0.0,
    timed: bool = True,
) -> bool:
    began = reception.count(
        np.array([leg]),
        np.array([seq], np.uint16),
        np.array([timestamp], np.uint32),
        np.array([ssrc], np.uint32),
        now,
        np.array([timed]),
    )
    return bool(began[0])


def test_loss_over_a_wrap() -> None:
    reception = Reception(1)
    for seq in (65533, 65534, 1, 2):  # 65535 and 0 are missing
        count(reception, 0, seq)
    assert (reception.total(0), reception.lost(0)) == (4, 2)
    count(reception, 0, 65535)  # one of them was only late
    assert reception.lost(0) == 1
    assert int(reception.highest[0]) == 65536 + 2


def test_a_new_source_keeps_what_was_lost_before() -> None:
    reception = Reception(1)
    for seq in (10, 13):
        count(reception, 0, seq)
    assert count(reception, 0, 50000, ssrc=2)
    assert (reception.total(0), reception.lost(0)) == (3, 2)


def test_jitter_of_a_steady_stream_is_nothing_and_over_a_timestamp_wrap_too() -> None:
    reception = Reception(1)
    for n in range(50):
        count(reception, 0, n, (FAR - 2000 + 160 * n) % FAR, now=100 + 0.02 * n)
    assert reception.jitter[0] < 1  # the clock is read in whole samples


def test_one_batch_of_many_legs_is_the_same_as_one_by_one() -> None:
    rng = np.random.default_rng(3)
    together, apart = Reception(50), Reception(50)
    for n in range(40):
        legs = rng.permutation(50)[:20]
        seq = rng.integers(n, n + 4, 20).astype(np.uint16)
        timestamp = (160 * seq).astype(np.uint32)
        ssrc = legs.astype(np.uint32)
        together.count(legs, seq, timestamp, ssrc, n * 0.02, np.ones(20, bool))
        for i in range(20):
            count(apart, int(legs[i]), int(seq[i]), int(timestamp[i]), int(ssrc[i]), n * 0.02)
    for name, column in vars(together).items():
        assert np.array_equal(column, getattr(apart, name)), name


def test_reset_forgets_a_leg() -> None:
    reception = Reception(2)
    count(reception, 0, 1)
    count(reception, 1, 1)
    reception.reset(0)
    assert (reception.total(0), reception.total(1)) == (0, 1)
