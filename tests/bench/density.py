"""How many two-way calls one core's media worker carries, and what a call costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from engine import procfs
from tests.bench.caller import Caller, Figures
from tests.bench.machine import cpu
from tests.bench.peers import Peer

LEVELS = (50, 200, 500, 800, 1000, 1200, 1400, 1600, 1800, 2000, 2200)
QUICK_LEVELS = (50, 200)
SETUP_RATE = 100.0
SETTLE = (
    1.0  # seconds after the last set-up before the window begins, and before the first hang-up when it ends
)
LOSS = 0.1  # percent
RECEIVED = (
    99.0  # percent of 50 packets a second: an overloaded peer skips frames without a gap in its numbers
)
LATE = 0.01  # of the ticks
JITTER = 10.0  # ms
OCTETS_PER_KB = 1024


@dataclass(frozen=True, slots=True)
class Level:
    """One peer at one number of calls. CPU in seconds a call-second; `resident` in octets, of the whole tree."""

    peer: str
    calls: int
    media_cpu: float
    total_cpu: float
    late: float
    resident: int
    figures: Figures

    @property
    def held(self) -> bool:
        seen = self.figures
        good = (
            seen.failed == 0 and seen.loss < LOSS and seen.received >= RECEIVED and seen.jitter_p99 < JITTER
        )
        return good and self.late < LATE


class _Window:
    """What a peer used between the moment all calls are up and the first hang-up."""

    def __init__(self, peer: Peer, ramp: float, seconds: float) -> None:
        self._peer, self._ramp, self._seconds = peer, ramp, seconds
        self.media = self.total = self.late = 0.0
        self.resident = 0

    def measure(self) -> None:
        time.sleep(self._ramp + SETTLE)
        before, began = self._read(), time.monotonic()
        time.sleep(self._seconds)
        after, took = self._read(), time.monotonic() - began
        media, total, ticks, late = (b - a for a, b in zip(before, after, strict=True))
        self.media, self.total = media / took, total / took
        self.late = late / ticks if ticks else 0.0

    def _read(self) -> tuple[float, float, int, int]:
        used = procfs.usage(self._peer.pid)
        if used is None:
            return 0.0, 0.0, 0, 0
        self.resident = used.resident
        return cpu(self._peer.media_pid), used.cpu_seconds, *self._peer.ticks()


def measure(peer: Peer, caller: Caller, calls: int, seconds: float) -> Level:
    """One level, held for `seconds` with all calls up."""
    ramp = calls / SETUP_RATE
    window = _Window(peer, ramp, seconds)
    figures = caller.call(peer, calls, SETUP_RATE, ramp + seconds + 2 * SETTLE, meanwhile=window.measure)
    return Level(
        peer.name, calls, window.media / calls, window.total / calls, window.late, window.resident, figures
    )


def climb(peer: Peer, caller: Caller, levels: Iterable[int], seconds: float) -> Iterator[Level]:
    """Levels upwards until one is not held; that one is measured again, since others share this machine."""
    for calls in levels:
        level = measure(peer, caller, calls, seconds)
        if not level.held:
            level = measure(peer, caller, calls, seconds)
        yield level
        if not level.held:
            return


def memory_per_call(levels: list[Level]) -> float | None:
    """Octets a call, as the slope of resident memory over the number of calls."""
    if len(levels) < 2:
        return None
    return statistics.linear_regression(
        [level.calls for level in levels], [level.resident for level in levels]
    )[0]
