"""How a call ends: one value that says what the caller is told on the line, what the record says, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Status: TypeAlias = Literal["completed", "busy", "failed", "no-answer", "canceled"]
By: TypeAlias = Literal["caller", "callee", "engine", "app"]


@dataclass(frozen=True, slots=True)
class Ending:
    """`status` is the REST API's word, `reason` is for our own people, in the record and the timeline.

    `sip_status` refuses a call that was not answered yet. `phrase`, a fixed text of ours, goes to the caller in a
    Reason header (RFC 3326): what an app or an error said stays here.
    """

    status: Status
    by: By
    reason: str
    sip_status: int = 480
    phrase: str = ""


HANGUP = Ending("completed", "app", "the app hung up")
FINISHED = Ending("completed", "app", "the document came to its end")
REJECTED = Ending("no-answer", "app", "the app rejected the call", 404)
BUSY = Ending("busy", "app", "the app rejected the call as busy", 486)
CANCELLED = Ending("canceled", "caller", "the caller gave up before the answer", 487)
NO_CODEC = Ending("failed", "engine", "no common codec: the offer has neither PCMU nor PCMA", 488)
BAD_ANSWER = Ending("failed", "engine", "the answer in the ACK could not be used", phrase="bad SDP answer")
UNRESPONSIVE = Ending("failed", "engine", "the caller never acknowledged the answer")
STOPPED = Ending("completed", "engine", "the engine was stopped", 503, "engine stopped")
TOO_LONG = Ending(
    "completed", "engine", "the longest time a call may last was reached", phrase="call too long"
)
SILENT = Ending("completed", "engine", "no audio from the caller", phrase="RTP timeout")
NO_MEDIA = Ending("failed", "engine", "no media", 503, "media failure")
BROKEN = Ending("failed", "engine", "internal error", 500, "internal error")
APPLICATION_ERROR = Ending("completed", "engine", "application error", 500, "application error")
