"""Time is passed in: every layer that needs it takes a `Clock` (or a plain `now`), so tests can own it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """The two times a telephone engine needs. Waiting is asyncio's business (`loop.call_at`)."""

    def monotonic(self) -> float:
        """Seconds that never go back; the only basis for timers and durations."""
        ...

    def now(self) -> datetime:
        """The wall clock, timezone-aware UTC; for what people and webhooks read."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def now(self) -> datetime:
        return datetime.now(UTC)
