"""What a verb is to the interpreter: something that runs on a call and says what comes next.

`run` is the only entry; cancelling it is the only way to stop it, and must leave the line silent. Barge-in, a
redirect through the API and a hang-up all stop a verb that way (docs/decisions/0002).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from engine.call.call import Call
from engine.call.ending import Ending


@dataclass(frozen=True, slots=True)
class Next:
    """Go on with the verb after this one."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Leave the document for the one at `url` (relative to it; "" is itself), asked with these extra parameters."""

    url: str
    method: str
    params: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Finish:
    """End the call."""

    ending: Ending


Outcome: TypeAlias = Next | Fetch | Finish
Action: TypeAlias = Callable[[Any, Call], Awaitable[Outcome]]

NEXT = Next()

__all__ = ["NEXT", "Action", "Call", "Fetch", "Finish", "Next", "Outcome"]
