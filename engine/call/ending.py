"""How a call ends: one value that says what the caller is told on the line, what the record says, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Status: TypeAlias = Literal["completed", "busy", "failed", "no-answer", "canceled"]
By: TypeAlias = Literal["caller", "callee", "engine", "app"]


@dataclass(frozen=True, slots=True)
class Ending:
    """`status` is the REST API's word, `reason` is for people.

    `sip_status` refuses a call that was not answered yet.
    """

    status: Status
    by: By
    reason: str
    sip_status: int | None = None


HANGUP = Ending("completed", "app", "the app hung up")
FINISHED = Ending("completed", "app", "the document came to its end")
REJECTED = Ending("no-answer", "app", "the app rejected the call", 404)
BUSY = Ending("busy", "app", "the app rejected the call as busy", 486)
NO_CODEC = Ending("failed", "engine", "no common codec: the offer has neither PCMU nor PCMA", 488)
BAD_ANSWER = Ending("failed", "engine", "the answer in the ACK could not be used")
UNRESPONSIVE = Ending("failed", "engine", "the caller never acknowledged the answer")
STOPPED = Ending("completed", "engine", "the engine was stopped", 503)
TOO_LONG = Ending("completed", "engine", "the longest time a call may last was reached")
