"""What the stack tells call control. Frozen values; every one of a call names its `Session`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

from engine.sip.message import Request, Response

if TYPE_CHECKING:
    from engine.sip.session import Session


class Party(Enum):
    """Who ended a session."""

    LOCAL = "local"
    REMOTE = "remote"
    NETWORK = "network"  # nobody said so: a timer ran out


@dataclass(frozen=True, slots=True)
class Invited:
    """A new call came in; 100 has gone out. Its offer, if any, is the request's body."""

    session: Session
    request: Request


@dataclass(frozen=True, slots=True)
class Progressed:
    """180, 183 and their kind for a call of ours."""

    session: Session
    response: Response


@dataclass(frozen=True, slots=True)
class Answered:
    """A call of ours was answered; the ACK has gone out. The answer is the response's body."""

    session: Session
    response: Response


@dataclass(frozen=True, slots=True)
class Refused:
    """A call of ours came to nothing: a final response, or 408 / 503 where none came (`response` None)."""

    session: Session
    status: int
    reason: str
    response: Response | None


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The caller has our 200. With late offer the body is its answer."""

    session: Session
    request: Request


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The caller gave up before we answered; 487 has gone out."""

    session: Session
    request: Request


@dataclass(frozen=True, slots=True)
class Offered:
    """A re-INVITE: to be answered with `session.accept_offer` or `session.refuse_offer`."""

    session: Session
    request: Request


@dataclass(frozen=True, slots=True)
class OfferAnswered:
    """The final answer to our re-INVITE."""

    session: Session
    response: Response


@dataclass(frozen=True, slots=True)
class InfoReceived:
    """An INFO inside the call; 200 has gone out."""

    session: Session
    request: Request


@dataclass(frozen=True, slots=True)
class Ended:
    """An answered call is over. `reason` is for people: a Reason header, or what timer ran out."""

    session: Session
    by: Party
    reason: str


Event: TypeAlias = (
    Invited
    | Progressed
    | Answered
    | Refused
    | Acknowledged
    | Cancelled
    | Offered
    | OfferAnswered
    | InfoReceived
    | Ended
)
