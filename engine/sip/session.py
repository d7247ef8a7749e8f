"""One INVITE session: the call as SIP sees it, from the first INVITE to the BYE (RFC 3261 §13, §14, §15).

Caller and callee are one class; the role is a field of the dialog. Call control drives it by its public
methods and hears of everything else as events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import TypeAlias

from engine.ids import Ids, tag
from engine.sip import events as ev
from engine.sip.admission import ALLOW, SDP
from engine.sip.dialog import Dialog, DialogId, Role
from engine.sip.headers import Headers, NameAddr
from engine.sip.layer import DEFAULT_PORT, Address, Flow, Outgoing, TransactionLayer
from engine.sip.message import Request, Response, response_to
from engine.sip.timers import T1, T2, TRANSACTION_TIMEOUT, Timers
from engine.sip.transaction import ClientInvite, ServerInvite, State, Transaction
from engine.sip.uri import OtherUri, SipUri

HeaderList: TypeAlias = Iterable[tuple[str, str]]
RINGING_S = 60.0  # §13.3.1.1: how often a call that rings on says so; a proxy gives up after 3 minutes
MAX_BRANCHES = 16  # answers of a forked call that we would acknowledge and hang up; more is an attack
# What a call that failed without any response counts as (§8.1.3.1), in words for people.
FAILURES = {408: "no answer from the network", 487: "cancelled", 503: "the network could not send it"}
GONE = (408, 481)  # §12.2.1.2: these end the dialog, whatever they answer


class Phase(Enum):
    """How far the session is."""

    INVITING = "inviting"
    CONFIRMED = "confirmed"
    ENDED = "ended"


class Registry:
    """Which session a dialog belongs to; shared by all sessions of a stack."""

    def __init__(self) -> None:
        self.dialogs: dict[DialogId, Session] = {}

    def add(self, session: Session, dialog: Dialog) -> None:
        self.dialogs[dialog.id] = session

    def drop(self, dialog: Dialog) -> None:
        self.dialogs.pop(dialog.id, None)


class Session:
    """Created by the stack. `now` is the monotonic time of every call; all methods return at once."""

    def __init__(
        self,
        role: Role,
        request: Request,
        flow: Flow,
        contact: NameAddr,
        *,
        layer: TransactionLayer,
        timers: Timers,
        registry: Registry,
        ids: Ids,
        sent_by: Address,
        agent: str,
        emit: Callable[[ev.Event], None],
    ) -> None:
        self.role = role
        self.request = request  # the INVITE that began it
        self.flow = flow
        self.phase = Phase.INVITING
        self.dialog: Dialog | None = None
        self.timers: dict[str, float] = {}
        # A new call that comes with a To tag (§12.2.2) keeps it, or its caller would not know the answer
        self.tag = (request.to.tag if role is Role.UAS else None) or tag(ids)
        self._contact = contact
        self._layer = layer
        self._clock = timers
        self._registry = registry
        self._sent_by = sent_by
        self._agent = agent
        self._emit = emit
        self._invite: Transaction | None = None  # the INVITE or re-INVITE under way, ours or theirs
        self._ack: Outgoing | None = None
        self._forks: set[str] = set()
        self._success: Response | None = None  # our 2xx, repeated until it is acknowledged
        self._interval = T1
        self._cancel_wanted = False
        self._bye_headers: HeaderList | None = None  # of a BYE that waits for the ACK of our 2xx

    @property
    def awaits_ack(self) -> bool:
        """Whether a 2xx of ours is still to be acknowledged."""
        return self._success is not None

    # --- as callee -------------------------------------------------------------------------------------------

    def begin_uas(self, transaction: ServerInvite, nat: bool, now: float) -> None:
        """Take the INVITE: 100 at once (§8.2.6.1), so that the caller stops repeating it."""
        self._invite = transaction
        self.dialog = Dialog.as_uas(self.request, self.tag, self.flow.remote if nat else None)
        self._registry.add(self, self.dialog)
        self._respond(100, now)

    def ring(self, now: float, status: int = 180, body: bytes = b"", headers: HeaderList = ()) -> None:
        """180, or 183 with a body for early media; again every minute until there is a final answer."""
        if self.role is Role.UAS and self.phase is Phase.INVITING:
            self._respond(status, now, body, headers)
            self._clock.set(self, "ringing", now + RINGING_S)

    def answer(self, now: float, body: bytes, headers: HeaderList = ()) -> None:
        """200, sent again at T1 to T2 until the ACK comes (§13.3.1.4). Raises ValueError as `hang_up` does."""
        headers = checked(headers)
        if self.role is not Role.UAS or self.phase is not Phase.INVITING:
            return
        self._clock.cancel(self, "ringing")
        self.phase = Phase.CONFIRMED
        self._succeed(now, body, headers)

    def refuse(self, now: float, status: int, headers: HeaderList = ()) -> None:
        """A final refusal of the call."""
        if self.role is Role.UAS and self.phase is Phase.INVITING:
            self._respond(status, now, b"", headers)
            self._end(now)

    def cancelled(self, request: Request, invite: ServerInvite, now: float) -> None:
        """A CANCEL of `invite`: 487 unless that was answered already (§9.2). Without its re-INVITE the call goes on."""
        if invite is not self._invite or not self._open():
            return
        if self.phase is Phase.INVITING:
            self._end(now)
            self._emit(ev.Cancelled(self, request))
        else:
            self._respond(487, now)

    # --- as caller -------------------------------------------------------------------------------------------

    def begin_uac(self, now: float) -> None:
        """Send the INVITE."""
        self._invite = self._layer.request(self.request, self.flow, self._sent_by, self, now)

    # --- both ------------------------------------------------------------------------------------------------

    def hang_up(self, now: float, headers: HeaderList = ()) -> None:
        """End it in whatever way its phase asks for: CANCEL, a refusal, or BYE.

        Raises ValueError for a header that could not be sent (a name that is no token, a line break in the
        value); then nothing has happened.
        """
        headers = checked(headers)
        if self.awaits_ack:
            self._bye_headers = headers  # §15: the callee must not send BYE before the ACK
        elif self.phase is Phase.CONFIRMED:
            self._send_bye(now, headers)
        elif self.phase is Phase.INVITING and self.role is Role.UAS:
            self.refuse(now, 480, headers)
        elif self.phase is Phase.INVITING:
            self._cancel(now)

    def offer(self, now: float, body: bytes) -> bool:
        """Send a re-INVITE. False while another INVITE is under way in either direction (§14.1)."""
        if self.phase is not Phase.CONFIRMED or self._busy() or self.dialog is None:
            return False
        request = self._in_dialog("INVITE")
        request.headers.add("Contact", str(self._contact))
        request.headers.add("Allow", ALLOW)
        self._set_body(request, body)
        self._invite = self._layer.request(request, self._hop(), self._sent_by, self, now)
        return True

    def accept_offer(self, now: float, body: bytes) -> None:
        """200 to a re-INVITE. Nothing happens when it was cancelled meanwhile."""
        if self.phase is Phase.CONFIRMED and self._open():
            self._succeed(now, body, ())

    def refuse_offer(self, now: float, status: int, headers: HeaderList = ()) -> None:
        """A final refusal of a re-INVITE: the session stays as it was (§14.2)."""
        if self.phase is Phase.CONFIRMED:
            self._respond(status, now, b"", headers)

    def info(self, now: float, content_type: str, body: bytes) -> None:
        """An INFO (RFC 6086's legacy use): DTMF for peers that want it so."""
        if self.phase is Phase.CONFIRMED:
            request = self._in_dialog("INFO")
            self._set_body(request, body, content_type)
            self._layer.request(request, self._hop(), self._sent_by, self, now)

    # --- requests inside the dialog --------------------------------------------------------------------------

    def receive(self, request: Request, transaction: ServerInvite | None, now: float) -> int | None:
        """An in-dialog request that passed the stack's checks. Returns the status to answer it with, or None
        when the answer was or will be given otherwise."""
        match request.method:
            case "BYE":
                return self._receive_bye(request, now)
            case "INFO":
                self._emit(ev.InfoReceived(self, request))
                return 200
            case "OPTIONS":
                return 200
            case _:
                assert transaction is not None
                self._receive_offer(request, transaction, now)
                return None

    def acknowledged(self, request: Request, now: float) -> None:
        """The ACK of our 2xx. One of an earlier 2xx may come late and acknowledges nothing (§13.3.1.4)."""
        if self._success is None or request.cseq.number != self._success.cseq.number:
            return
        self._success = None
        self._clock.cancel(self, "retransmit", "no-ack")
        if self._bye_headers is not None:
            self._send_bye(now, self._bye_headers)
        else:
            self._emit(ev.Acknowledged(self, request))

    def conflict(self) -> int | None:
        """491 when a re-INVITE of ours crosses theirs, 500 when theirs is still open (§14.2)."""
        if not self._busy():
            return None
        return 491 if isinstance(self._invite, ClientInvite) else 500

    def _receive_bye(self, request: Request, now: float) -> int:
        answered, hung_up = self.phase is Phase.CONFIRMED, self._bye_headers is not None
        self._end(now)
        if not answered:  # a caller may end an early dialog so, too (§15)
            self._emit(ev.Cancelled(self, request))
        elif not hung_up:
            self._emit(ev.Ended(self, ev.Party.REMOTE, request.headers.get("Reason") or ""))
        return 200

    def _receive_offer(self, request: Request, transaction: ServerInvite, now: float) -> None:
        assert self.dialog is not None
        self._invite = transaction
        self._respond(100, now)
        self.dialog.refresh_target(request)
        self._emit(ev.Offered(self, request))

    # --- what the transactions report ------------------------------------------------------------------------

    def delivered(self, transaction: Transaction, message: Request | Response, now: float) -> None:
        if isinstance(message, Request):
            self.acknowledged(message, now)  # the ACK of an RFC 2543 peer, which matched the INVITE
        elif message.cseq.method == "INVITE":
            self._invite_answered(transaction, message, now)
        elif message.status in GONE and message.cseq.method != "CANCEL":
            self._lost(f"{message.status} {message.reason} to {message.cseq.method}", now)

    def failed(self, transaction: Transaction, status: int, now: float) -> None:
        if isinstance(transaction, ServerInvite):
            return  # a refusal was never acknowledged: nothing hangs on it
        if transaction.request is self.request:
            self._refused(status, FAILURES[status], None, now)
        else:
            self._lost(f"no answer to {transaction.request.method}", now)

    def fire(self, timer: str, now: float) -> None:
        """One of our own timers: the 180 or the 2xx again, or nobody ever acknowledged it."""
        if timer == "ringing":
            self._repeat_provisional(now)
        elif timer == "retransmit" and self._success is not None:
            self._repeat_success(now)
        elif timer == "no-ack":
            self._lost("the 200 was never acknowledged", now)

    # --- the caller's INVITE ---------------------------------------------------------------------------------

    def _invite_answered(self, transaction: Transaction, response: Response, now: float) -> None:
        if transaction.request is not self.request:
            self._offer_answered(transaction, response, now)
        elif response.status < 200:
            self._progressed(response, now)
        elif response.status < 300:
            self._accepted(response, now)
        else:
            self._refused(response.status, response.reason, response, now)

    def _progressed(self, response: Response, now: float) -> None:
        if self.phase is not Phase.INVITING:
            return
        if self._cancel_wanted:
            self._cancel(now)
        elif response.status > 100:
            self._emit(ev.Progressed(self, response))

    def _accepted(self, response: Response, now: float) -> None:
        if self.dialog is not None and response.to.tag == self.dialog.remote.tag:
            if self._ack is not None:
                self._layer.resend(self._ack)
        elif self.phase is Phase.INVITING and not self._cancel_wanted:
            self._confirm(response)
            self._emit(ev.Answered(self, response))
        else:
            self._drop_fork(response, now)

    def _confirm(self, response: Response) -> None:
        self.phase = Phase.CONFIRMED
        self.dialog = self._dialog_of(response)
        self._registry.add(self, self.dialog)
        self._ack = self._acknowledge(self.dialog, response)

    def _drop_fork(self, response: Response, now: float) -> None:
        """A 2xx we do not want (a second branch, or one that crossed our CANCEL): ACK it, then BYE (§13.2.2.4)."""
        fork = response.to.tag or ""
        dialog = self._dialog_of(response)
        self._acknowledge(dialog, response)
        if fork not in self._forks and len(self._forks) < MAX_BRANCHES:
            self._forks.add(fork)
            self._layer.request(
                self._headed(dialog.request("BYE")), self._hop(dialog), self._sent_by, _Nobody(), now
            )
        self._refused(487, FAILURES[487], None, now)

    def _offer_answered(self, transaction: Transaction, response: Response, now: float) -> None:
        if response.status < 200 or self.dialog is None:
            return
        if response.status < 300:
            self._acknowledge(self.dialog, response)
        if transaction is not self._invite or self.phase is Phase.ENDED:
            return  # a repeated 2xx, whose ACK was lost; or an answer that crossed the BYE
        self._invite = None
        if response.status in GONE:
            self._lost(f"{response.status} {response.reason} to INVITE", now)
            return
        if response.status < 300:
            self.dialog.refresh_target(response)
        self._emit(ev.OfferAnswered(self, response))

    def _refused(self, status: int, reason: str, response: Response | None, now: float) -> None:
        if self.phase is Phase.INVITING:
            self._end(now)
            self._emit(ev.Refused(self, status, reason, response))

    def _cancel(self, now: float) -> None:
        """§9.1: no CANCEL before a provisional response, or it might overtake the INVITE."""
        self._cancel_wanted = True
        invite = self._invite
        if isinstance(invite, ClientInvite) and invite.state is State.PROCEEDING and invite.abandon(now):
            self._layer.cancel(invite, _Nobody(), now)

    # --- ending ----------------------------------------------------------------------------------------------

    def _send_bye(self, now: float, headers: HeaderList = ()) -> None:
        request = self._in_dialog("BYE")
        for name, value in headers:
            request.headers.add(name, value)
        self._end(now)
        self._layer.request(request, self._hop(), self._sent_by, _Nobody(), now)

    def _lost(self, reason: str, now: float) -> None:
        """The far end is gone, or so it seems: the BYE is for the case that only we think so (§12.2.1.2)."""
        if self.phase is Phase.CONFIRMED:
            hung_up = self._bye_headers is not None
            self._send_bye(now, self._bye_headers or ())
            if not hung_up:
                self._emit(ev.Ended(self, ev.Party.NETWORK, reason))

    def _end(self, now: float) -> None:
        """The one end of a session. No INVITE stays open behind it: theirs gets 487 (§15.1.2), ours a last delay."""
        self.phase = Phase.ENDED
        self.timers.clear()
        self._success = None
        if self.dialog is not None:
            self._registry.drop(self.dialog)
        if self._open():
            self._respond(487, now)
        elif isinstance(self._invite, ClientInvite):
            self._invite.abandon(now)

    # --- building messages -----------------------------------------------------------------------------------

    def _busy(self) -> bool:
        """Whether an INVITE in this dialog is unanswered or its 2xx unacknowledged."""
        if self._success is not None:
            return True
        return self._invite is not None and self._invite.state in (State.CALLING, State.PROCEEDING)

    def _open(self) -> bool:
        """Whether an INVITE of theirs waits for our final response."""
        return isinstance(self._invite, ServerInvite) and self._invite.state is State.PROCEEDING

    def _respond(
        self, status: int, now: float, body: bytes = b"", headers: HeaderList = ()
    ) -> Response | None:
        if not isinstance(self._invite, ServerInvite):
            return None
        to_tag = None if status == 100 else self.tag
        response = response_to(self._invite.request, status, to_tag=to_tag, headers=headers)
        if 100 < status < 300:
            response.headers.add("Contact", str(self._contact))
        if 200 <= status < 300:
            response.headers.add("Allow", ALLOW)
        response.headers.add("Server", self._agent)
        self._set_body(response, body)
        self._layer.respond(self._invite, response, now)
        return response

    def _succeed(self, now: float, body: bytes, headers: HeaderList) -> None:
        self._success = self._respond(200, now, body, headers)
        self._interval = T1
        self._clock.set(self, "retransmit", now + T1)
        self._clock.set(self, "no-ack", now + TRANSACTION_TIMEOUT)

    def _repeat_provisional(self, now: float) -> None:
        assert isinstance(self._invite, ServerInvite)
        assert self._invite.last is not None
        self._layer.respond(self._invite, self._invite.last, now)
        self._clock.set(self, "ringing", now + RINGING_S)

    def _repeat_success(self, now: float) -> None:
        assert self._success is not None
        assert isinstance(self._invite, ServerInvite)
        self._layer.respond(self._invite, self._success, now)
        self._interval = min(2 * self._interval, T2)
        self._clock.set(self, "retransmit", now + self._interval)

    def _in_dialog(self, method: str) -> Request:
        assert self.dialog is not None
        return self._headed(self.dialog.request(method))

    def _headed(self, request: Request) -> Request:
        request.headers.add("User-Agent", self._agent)
        return request

    @staticmethod
    def _set_body(message: Request | Response, body: bytes, content_type: str = SDP) -> None:
        if body:
            message.headers.set("Content-Type", content_type)
            message.body = body

    def _dialog_of(self, response: Response) -> Dialog:
        return Dialog.as_uac(self.request, response, None)

    def _acknowledge(self, dialog: Dialog, response: Response) -> Outgoing:
        ack = self._headed(dialog.request("ACK", response.cseq.number))
        return self._layer.send_ack(ack, self._hop(dialog), self._sent_by)

    def _hop(self, dialog: Dialog | None = None) -> Flow:
        dialog = dialog or self.dialog
        assert dialog is not None
        if dialog.flow is not None and not dialog.route_set:
            return Flow(self.flow.local, dialog.flow)
        return hop(self.flow.local, dialog.next_hop(), fallback=self.flow.remote)


class _Nobody:
    """The user of a request whose answer changes nothing: a BYE, a CANCEL."""

    def delivered(self, transaction: Transaction, message: Request | Response, now: float) -> None:
        pass

    def failed(self, transaction: Transaction, status: int, now: float) -> None:
        pass


def checked(headers: HeaderList) -> tuple[tuple[str, str], ...]:
    """The same headers, once they are known to be fit for a message: found out half-way through a change of
    state, a line break in one would leave a call that neither side can end. Raises ValueError."""
    headers = tuple(headers)
    Headers(headers)
    return headers


def hop(local: Address, uri: SipUri | OtherUri, fallback: Address) -> Flow:
    """The flow towards a URI's host, default port 5060 (RFC 3263 §4.2 for numeric hosts)."""
    if not isinstance(uri, SipUri):
        return Flow(local, fallback)
    host = (uri.param("maddr") or uri.host).strip("[]")  # a reference in brackets is no socket address
    return Flow(local, (host, uri.port or DEFAULT_PORT))
