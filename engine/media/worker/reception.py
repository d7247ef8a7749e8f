"""Reception statistics of every leg at once: RFC 3550 appendices A.1 (sequence), A.3 (loss) and A.8 (jitter).

State is one array per quantity, a row per leg; a batch of packets updates the rows it touches.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.media.protocol import SAMPLE_RATE

MAX_DROPOUT = 3000  # RFC 3550 A.1: a larger jump in sequence numbers is a restarted source, not loss


class Reception:
    """Columns over `capacity` legs. Counters of a restarted source go on from where they were."""

    def __init__(self, capacity: int) -> None:
        self.started = np.zeros(capacity, np.bool_)
        self.ssrc = np.zeros(capacity, np.uint32)
        self.highest = np.zeros(capacity, np.int64)  # extended highest sequence number received
        self.base = np.zeros(capacity, np.int64)
        self.received = np.zeros(capacity, np.int64)
        self.received_before = np.zeros(capacity, np.int64)  # of earlier sources on this leg
        self.lost_before = np.zeros(capacity, np.int64)
        self.transit = np.zeros(capacity, np.float64)
        self.clocked = np.zeros(capacity, np.bool_)  # `transit` is that of an earlier packet of this source
        self.jitter = np.zeros(capacity, np.float64)  # in timestamp units of 1/8000 s

    def reset(self, leg: int) -> None:
        for column in vars(self).values():
            column[leg] = 0

    def lost(self, leg: int) -> int:
        """Cumulative number of packets lost (never negative here: duplicates do not make up for loss)."""
        return int(self.lost_before[leg] + max(self._lost_now(leg), 0))

    def total(self, leg: int) -> int:
        return int(self.received_before[leg] + self.received[leg])

    def _lost_now(self, leg: int) -> int:
        if not self.started[leg]:
            return 0
        return int(self.highest[leg] - self.base[leg] + 1 - self.received[leg])

    def count(
        self,
        legs: NDArray[np.int64],
        sequence: NDArray[np.uint16],
        timestamp: NDArray[np.uint32],
        ssrc: NDArray[np.uint32],
        now: float,
        timed: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """Take in packets of different legs (each leg at most once). `timed` rows count towards jitter:
        a telephone event repeats its timestamp, so its packets do not. Returns which packets began a new source."""
        delta = (sequence - self.highest[legs].astype(np.uint16)).view(np.int16).astype(np.int64)
        restart: NDArray[np.bool_] = (
            (~self.started[legs]) | (ssrc != self.ssrc[legs]) | (np.abs(delta) > MAX_DROPOUT)
        )
        if restart.any():
            self._restart(legs[restart], sequence[restart], ssrc[restart])
            delta[restart] = 0
        self.highest[legs] += np.maximum(delta, 0)
        self.received[legs] += 1
        self._time(legs[timed], timestamp[timed], now)
        return restart

    def _restart(
        self, legs: NDArray[np.int64], sequence: NDArray[np.uint16], ssrc: NDArray[np.uint32]
    ) -> None:
        lost = np.where(self.started[legs], self.highest[legs] - self.base[legs] + 1 - self.received[legs], 0)
        self.lost_before[legs] += np.maximum(lost, 0)
        self.received_before[legs] += self.received[legs]
        self.received[legs] = 0
        self.base[legs] = self.highest[legs] = sequence
        self.ssrc[legs] = ssrc
        self.started[legs] = True
        self.clocked[legs] = False

    def _time(self, legs: NDArray[np.int64], timestamp: NDArray[np.uint32], now: float) -> None:
        # Differences of timestamps are taken modulo 2**32 so that a wrap is no jitter of six days.
        arrival = np.uint32(int(now * SAMPLE_RATE) & 0xFFFFFFFF)
        transit = (arrival - timestamp).astype(np.float64)
        change = np.abs(transit - self.transit[legs])
        change = np.minimum(change, 2.0**32 - change)
        self.jitter[legs] += np.where(self.clocked[legs], (change - self.jitter[legs]) / 16, 0)
        self.transit[legs] = transit
        self.clocked[legs] = True
