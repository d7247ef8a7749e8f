"""The RFC's timers: their values, and one heap of deadlines for everything that runs on them."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from typing import Protocol

# RFC 3261 §17.1.1.1 and table 4, in seconds
T1 = 0.5  # round-trip estimate
T2 = 4.0  # longest interval between retransmissions of a non-INVITE request or an INVITE's response
T4 = 5.0  # longest time a message stays in the network
TRANSACTION_TIMEOUT = 64 * T1  # Timers B, F, H, L, M and J over UDP: 32 s
TIMER_D = 32.0  # how long a client keeps answering repeated final responses with ACK; at least 32 s over UDP

SWEEP = 1024  # heap entries below which stale ones are not worth looking for


class Owner(Protocol):
    """Anything whose timers fire: a transaction, a session."""

    timers: dict[str, float]


class Timers:
    """Deadlines by (owner, RFC name). A changed or cancelled timer leaves a stale heap entry, skipped when due.

    Most timers are cancelled (an answered request leaves its Timer F behind for 32 s), so stale entries are
    swept out whenever the heap has doubled: memory follows the timers that run, not those that ever ran.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Owner, str]] = []
        self._order = itertools.count()
        self._sweep_at = SWEEP

    def __len__(self) -> int:
        """Heap entries, stale ones included."""
        return len(self._heap)

    def set(self, owner: Owner, name: str, deadline: float) -> None:
        owner.timers[name] = deadline
        heapq.heappush(self._heap, (deadline, next(self._order), owner, name))
        if len(self._heap) >= self._sweep_at:
            self._sweep()

    @staticmethod
    def cancel(owner: Owner, *names: str) -> None:
        for name in names:
            owner.timers.pop(name, None)

    def next_deadline(self) -> float | None:
        while self._heap and self._stale(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> Iterator[tuple[Owner, str]]:
        """Timers at or before `now`, earliest first; each is taken off as it is handed out."""
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            _, _, owner, name = heapq.heappop(self._heap)
            del owner.timers[name]
            yield owner, name

    def _sweep(self) -> None:
        self._heap = [entry for entry in self._heap if not self._stale(entry)]
        heapq.heapify(self._heap)
        self._sweep_at = max(SWEEP, 2 * len(self._heap))

    @staticmethod
    def _stale(entry: tuple[float, int, Owner, str]) -> bool:
        deadline, _, owner, name = entry
        return owner.timers.get(name) != deadline
