"""A network in virtual time: datagrams between attached addresses, with chosen delay, loss, repeats and reordering.

Nothing here knows SIP or RTP. An end that has timers is added with `add`; `run_until` then moves the clock from one
thing that happens to the next, so that minutes of a call pass in milliseconds and every run is the same.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

Address: TypeAlias = tuple[str, int]
Receive: TypeAlias = Callable[[bytes, Address, Address, float], None]  # payload, source, destination, now

PATIENCE = 1000.0  # virtual seconds after which a goal that was not reached is a failed test
MAX_STEPS = 200_000  # ends that never fall silent would otherwise keep the test running for ever


class Timed(Protocol):
    """An end with timers: a `Stack`, say."""

    def next_deadline(self) -> float | None: ...

    def timeout(self, now: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Datagram:
    """What one end sent: `number` counts from 1 over the whole wire, `arrivals` is empty for a lost one."""

    number: int
    time: float
    source: Address
    destination: Address
    payload: bytes
    arrivals: tuple[float, ...]

    @property
    def line(self) -> str:
        """The first line, for messages that are text."""
        return self.payload.partition(b"\r\n")[0].decode("utf-8", "replace")


class Wire:
    """`delay` and `jitter` in seconds: a datagram takes `delay` to `delay + jitter`, so jitter above the sending
    interval reorders. `loss` and `duplicates` are probabilities. `drop` decides on top of that by the datagram."""

    def __init__(
        self,
        seed: int = 1,
        *,
        delay: float = 0.02,
        jitter: float = 0.0,
        loss: float = 0.0,
        duplicates: float = 0.0,
        start: float = 1000.0,
    ) -> None:
        self.now = start
        self.start = start
        self.delay, self.jitter, self.loss, self.duplicates = delay, jitter, loss, duplicates
        self.drop: Callable[[Datagram], bool] = lambda _: False
        self.log: list[Datagram] = []
        self._random = random.Random(seed)
        self._receivers: dict[Address, Receive] = {}
        self._ends: list[Timed] = []
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def attach(self, address: Address, receive: Receive) -> None:
        """Deliver what is sent to `address`. Anything sent elsewhere is lost, as in a network."""
        self._receivers[address] = receive

    def add(self, end: Timed) -> None:
        """Keep an end's timers."""
        self._ends.append(end)

    def send(self, source: Address, destination: Address, payload: bytes) -> None:
        number = len(self.log) + 1
        datagram = Datagram(number, self.now, source, destination, payload, ())
        if self._random.random() >= self.loss and not self.drop(datagram):
            copies = 2 if self._random.random() < self.duplicates else 1
            arrivals = tuple(
                self.now + self.delay + self._random.uniform(0, self.jitter) for _ in range(copies)
            )
            datagram = Datagram(number, self.now, source, destination, payload, arrivals)
        self.log.append(datagram)
        for time in datagram.arrivals:
            self.at(time, lambda: self._deliver(datagram))

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Do something when the clock shows `time`."""
        heapq.heappush(self._queue, (time, next(self._order), action))

    def run_until(self, goal: float | Callable[[], bool]) -> None:
        """Move the clock to a time, or until the goal holds; a goal not reached in `PATIENCE` is a failure."""
        reached = goal if callable(goal) else lambda: False
        end = self.now + PATIENCE if callable(goal) else goal
        for _ in range(MAX_STEPS):
            if reached():
                return
            due = self._next()
            if due is None or due > end:
                break
            self._step(due)
        assert not callable(goal), "the goal was not reached:\n" + self.transcript()
        self.now = max(self.now, end)

    def run(self, seconds: float) -> None:
        """Move the clock on by `seconds`."""
        self.run_until(self.now + seconds)

    def settle(self) -> None:
        """Run until no end has a timer and nothing is on its way."""
        self.run_until(lambda: self._next() is None)

    def transcript(self) -> str:
        """Who sent what when, for a failure's message."""
        return "\n".join(
            f"{each.time - self.start:8.3f} {each.source[0]} → {each.destination[0]} "
            f"{'' if each.arrivals else 'LOST '}{each.line}"
            for each in self.log
        )

    def _deliver(self, datagram: Datagram) -> None:
        receive = self._receivers.get(datagram.destination)
        if receive is not None:
            receive(datagram.payload, datagram.source, datagram.destination, self.now)

    def _next(self) -> float | None:
        times = [time for end in self._ends if (time := end.next_deadline()) is not None]
        times += [self._queue[0][0]] if self._queue else []
        return min(times, default=None)

    def _step(self, due: float) -> None:
        self.now = max(self.now, due)
        if self._queue and self._queue[0][0] <= self.now:
            heapq.heappop(self._queue)[2]()
        for end in self._ends:
            if (deadline := end.next_deadline()) is not None and deadline <= self.now:
                end.timeout(self.now)
