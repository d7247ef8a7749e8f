"""What happened to a call, in order, as it happens: kept in the store and told to whoever watches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.clock import Clock


@dataclass(frozen=True, slots=True)
class Note:
    """One entry. `offset` is seconds since the call began; `kind` is sip, webhook, verb, digit, media, say,
    warning, error or state; `data` is what that kind needs to be read by a person."""

    call_sid: str
    offset: float
    kind: str
    data: Mapping[str, Any]


Watcher = Callable[[Note], None]


class Timeline:
    """One call's notes."""

    def __init__(self, call_sid: str, clock: Clock, watchers: tuple[Watcher, ...]) -> None:
        self.call_sid = call_sid
        self._clock = clock
        self._start = clock.monotonic()
        self._watchers = watchers

    @property
    def elapsed(self) -> float:
        return self._clock.monotonic() - self._start

    def note(self, kind: str, /, **data: Any) -> None:
        note = Note(self.call_sid, self.elapsed, kind, data)
        for watch in self._watchers:
            watch(note)
