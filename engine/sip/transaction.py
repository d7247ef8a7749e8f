"""The four transaction machines of RFC 3261 §17, with the Accepted states of RFC 6026.

    machine            states                                            timers
    client INVITE      calling → proceeding → completed | accepted       A B D M CANCEL
    client non-INVITE  trying → proceeding → completed                   E F K
    server INVITE      proceeding → completed → confirmed | accepted     G H I L
    server non-INVITE  trying → proceeding → completed                   J

A machine knows nothing of dialogs, sockets or its own key. Messages and timers go in; what it wants done is
appended to `actions` and read by the stack: `Transmit` (send on this transaction's hop), `Deliver` (hand a
message to the transaction user), `Failed`. Every machine ends in `terminated`, with no timer left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from engine.sip.headers import CSeq
from engine.sip.message import Request, Response
from engine.sip.timers import T1, T2, T4, TIMER_D, TRANSACTION_TIMEOUT, Timers


class State(Enum):
    """The states of §17; which machine uses which stands in the table above."""

    CALLING = "calling"
    TRYING = "trying"
    PROCEEDING = "proceeding"
    COMPLETED = "completed"
    CONFIRMED = "confirmed"
    ACCEPTED = "accepted"
    TERMINATED = "terminated"


UNANSWERED = (State.CALLING, State.TRYING, State.PROCEEDING)  # no final response yet


@dataclass(frozen=True, slots=True)
class Transmit:
    message: Request | Response


@dataclass(frozen=True, slots=True)
class Deliver:
    message: Request | Response


@dataclass(frozen=True, slots=True)
class Failed:
    """There will be no final response, or no ACK of one. `status` is what §8.1.3.1 lets it count as: 408 when a
    timer ran out (B, F, H), 503 when the network refused the request, 487 after a CANCEL nobody obeyed."""

    status: int


Action: TypeAlias = Transmit | Deliver | Failed


class Transaction:
    """What the four machines share: a state, named timers, and the actions they ask for."""

    def __init__(self, request: Request, timers: Timers, *, reliable: bool) -> None:
        self.request = request
        self.reliable = reliable
        self.state = State.TERMINATED
        self.timers: dict[str, float] = {}
        self.actions: list[Action] = []
        self._clock = timers

    def fire(self, timer: str, now: float) -> None:
        """A timer of this machine is due."""
        handler: Callable[[float], None] = getattr(self, f"_timer_{timer.lower()}")
        handler(now)

    def transport_failed(self) -> None:
        """The request could not be sent at all (§17.1.4). News of a repeat comes too late to matter once there is
        a final response."""
        if self.state in UNANSWERED:
            self._fail(503)

    def _start(self, timer: str, now: float, seconds: float) -> None:
        self._clock.set(self, timer, now + seconds)

    def _stop(self, *timers: str) -> None:
        self._clock.cancel(self, *timers)

    def _linger(self, state: State, timer: str, now: float, seconds: float) -> None:
        """Enter a state that only absorbs repeats. A reliable transport repeats nothing: end at once."""
        self.timers.clear()
        self.state = state
        if self.reliable and state is not State.ACCEPTED:
            self._end()
        else:
            self._start(timer, now, seconds)

    def _end(self) -> None:
        self.timers.clear()
        self.state = State.TERMINATED

    def _fail(self, status: int) -> None:
        self.actions.append(Failed(status))
        self._end()

    def _time_out(self, _now: float) -> None:
        self._fail(408)

    def _vanish(self, _now: float) -> None:
        self._end()


class ClientInvite(Transaction):
    """§17.1.1, figure 5; RFC 6026 §8.4."""

    def start(self, now: float) -> None:
        self.state = State.CALLING
        self._interval = T1
        self.actions.append(Transmit(self.request))
        if not self.reliable:
            self._start("A", now, T1)
        self._start("B", now, TRANSACTION_TIMEOUT)

    def receive(self, response: Response, now: float) -> None:
        if self.state in (State.CALLING, State.PROCEEDING):
            self._receive_live(response, now)
        elif self.state is State.COMPLETED and response.status >= 300:
            self.actions.append(Transmit(self._ack(response)))
        elif self.state is State.ACCEPTED and 200 <= response.status < 300:
            self.actions.append(Deliver(response))

    def abandon(self, now: float) -> bool:
        """Wait 64*T1 more for a final response, and no longer: without this, a peer that ignores CANCEL would hold
        the transaction for ever (§9.1). False when it was abandoned before, or is answered."""
        if self.state not in UNANSWERED or "CANCEL" in self.timers:
            return False
        self._start("CANCEL", now, TRANSACTION_TIMEOUT)
        return True

    def _receive_live(self, response: Response, now: float) -> None:
        if response.status < 200:
            self.state = State.PROCEEDING
            self._stop("A", "B")
        elif response.status < 300:
            self._linger(State.ACCEPTED, "M", now, TRANSACTION_TIMEOUT)
        else:
            self.actions.append(Transmit(self._ack(response)))
            self._linger(State.COMPLETED, "D", now, TIMER_D)
        self.actions.append(Deliver(response))

    def _ack(self, response: Response) -> Request:
        """The ACK that belongs to this transaction, §17.1.1.3: same Via and Route, the response's To."""
        ack = Request("ACK", self.request.uri)
        ack.headers.add("Via", str(self.request.via))
        for name in ("From", "Call-ID", "Route", "Max-Forwards"):
            for value in self.request.headers.raw(name):
                ack.headers.add(name, value)
        ack.headers.add("To", str(response.to))
        ack.headers.add("CSeq", str(CSeq(self.request.cseq.number, "ACK")))
        return ack

    def _timer_a(self, now: float) -> None:
        self.actions.append(Transmit(self.request))
        self._interval *= 2
        self._start("A", now, self._interval)

    def _timer_cancel(self, _now: float) -> None:
        self._fail(487)

    _timer_b = Transaction._time_out
    _timer_d = Transaction._vanish
    _timer_m = Transaction._vanish


class ClientNonInvite(Transaction):
    """§17.1.2, figure 6."""

    def start(self, now: float) -> None:
        self.state = State.TRYING
        self._interval = T1
        self.actions.append(Transmit(self.request))
        if not self.reliable:
            self._start("E", now, T1)
        self._start("F", now, TRANSACTION_TIMEOUT)

    def receive(self, response: Response, now: float) -> None:
        if self.state not in (State.TRYING, State.PROCEEDING):
            return  # a repeated final response: the user has it already
        self.actions.append(Deliver(response))
        if response.status < 200:
            self.state = State.PROCEEDING
        else:
            self._linger(State.COMPLETED, "K", now, T4)

    def _timer_e(self, now: float) -> None:
        self.actions.append(Transmit(self.request))
        self._interval = T2 if self.state is State.PROCEEDING else min(2 * self._interval, T2)
        self._start("E", now, self._interval)

    _timer_f = Transaction._time_out
    _timer_k = Transaction._vanish


class ServerTransaction(Transaction):
    """What the two server machines share: the last response, sent again when the request is."""

    def __init__(self, request: Request, timers: Timers, *, reliable: bool) -> None:
        super().__init__(request, timers, reliable=reliable)
        self.last: Response | None = None

    def respond(self, response: Response, now: float) -> None:
        """The user's response. One after a final response is not sent (§17.2.2), as with a race of two answers."""
        raise NotImplementedError

    def receive(self, request: Request, now: float) -> None:
        """The request again, or the ACK of an INVITE."""
        raise NotImplementedError

    def _send(self, response: Response) -> None:
        self.last = response
        self.actions.append(Transmit(response))

    def _repeat(self) -> None:
        if self.last is not None:
            self.actions.append(Transmit(self.last))


class ServerInvite(ServerTransaction):
    """§17.2.1, figure 7; RFC 6026 §8.5. The user sends 100 itself, at once, so there is no 200 ms timer."""

    def __init__(self, request: Request, timers: Timers, *, reliable: bool) -> None:
        super().__init__(request, timers, reliable=reliable)
        self.state = State.PROCEEDING
        self._interval = T1

    def respond(self, response: Response, now: float) -> None:
        if self.state is State.ACCEPTED and 200 <= response.status < 300:
            self._send(response)  # the user repeats its 2xx until the ACK comes (§13.3.1.4)
        elif self.state is State.PROCEEDING:
            self._send(response)
            if 200 <= response.status < 300:
                self._linger(State.ACCEPTED, "L", now, TRANSACTION_TIMEOUT)
            elif response.status >= 300:
                self._await_ack(now)

    def receive(self, request: Request, now: float) -> None:
        if request.method == "ACK":
            self._receive_ack(request, now)
        elif self.state in (State.PROCEEDING, State.COMPLETED):
            self._repeat()

    def _await_ack(self, now: float) -> None:
        self.state = State.COMPLETED
        if not self.reliable:
            self._start("G", now, T1)
        self._start("H", now, TRANSACTION_TIMEOUT)

    def _receive_ack(self, ack: Request, now: float) -> None:
        if self.state is State.COMPLETED:
            self._linger(State.CONFIRMED, "I", now, T4)
        elif self.state is State.ACCEPTED:
            self.actions.append(Deliver(ack))

    def _timer_g(self, now: float) -> None:
        self._repeat()
        self._interval = min(2 * self._interval, T2)
        self._start("G", now, self._interval)

    _timer_h = Transaction._time_out
    _timer_i = Transaction._vanish
    _timer_l = Transaction._vanish


class ServerNonInvite(ServerTransaction):
    """§17.2.2, figure 8."""

    def __init__(self, request: Request, timers: Timers, *, reliable: bool) -> None:
        super().__init__(request, timers, reliable=reliable)
        self.state = State.TRYING

    def respond(self, response: Response, now: float) -> None:
        if self.state not in (State.TRYING, State.PROCEEDING):
            return
        self._send(response)
        if response.status < 200:
            self.state = State.PROCEEDING
        else:
            self._linger(State.COMPLETED, "J", now, TRANSACTION_TIMEOUT)

    def receive(self, request: Request, now: float) -> None:
        if self.state in (State.PROCEEDING, State.COMPLETED):
            self._repeat()

    _timer_j = Transaction._vanish
