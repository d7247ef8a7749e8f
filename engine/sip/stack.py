"""The SIP stack: datagrams and `now` in, datagrams and events out. Composes parser, transactions and sessions.

Sans-IO: no socket, no clock, no asyncio. Whoever owns the sockets calls `receive` for each datagram and `timeout`
when `next_deadline` has come; what is to be sent and what call control should know goes to two callbacks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from engine.ids import Ids, is_tag, tag
from engine.sip import admission
from engine.sip import events as ev
from engine.sip.dialog import MAX_FORWARDS, Role
from engine.sip.headers import CSeq, NameAddr
from engine.sip.layer import DEFAULT_PORT, Address, Flow, Outgoing, TransactionLayer, response_flow, stamp
from engine.sip.message import Request, Response, response_to
from engine.sip.parse import Malformed, parse_datagram
from engine.sip.session import Registry, Session, hop
from engine.sip.timers import Timers
from engine.sip.transaction import ServerInvite, ServerTransaction, Transaction
from engine.sip.uri import SipUri

MAX_TRANSACTIONS = 20_000  # each may live 32 s: enough for 600 new requests a second, and a bound on memory
MAX_SESSIONS = 8_192  # twice what one machine's media can carry; beyond it a flood is at work
RETRY_AFTER = 10  # seconds, told to who meets a limit

Direction: TypeAlias = Literal["in", "out"]
Trace: TypeAlias = Callable[[Direction, Request | Response, Flow, float], None]


@dataclass(frozen=True, slots=True)
class Listener:
    """A bound address, and the host that others reach it by (Via and Contact)."""

    bound: Address
    advertised: str

    @property
    def sent_by(self) -> Address:
        return self.advertised, self.bound[1]


class Stack:
    """One user agent on any number of listening addresses."""

    def __init__(
        self,
        ids: Ids,
        *,
        send: Callable[[Outgoing], None],
        emit: Callable[[ev.Event], None],
        agent: str = "Switchhook",
        trace: Trace | None = None,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._ids = ids
        self._agent = agent
        self._send_to_network = send
        self._emit = emit
        self._trace = trace
        self._timers = Timers()
        self._layer = TransactionLayer(ids, self._timers, self._send)
        self._registry = Registry()
        self._listeners: dict[Address, Listener] = {}
        self._now = 0.0  # of the input being worked on; only the trace reads it

    @property
    def session_count(self) -> int:
        """Dialogs, confirmed or early; a call of ours counts once it is answered."""
        return len(self._registry.dialogs)

    @property
    def transaction_count(self) -> int:
        return len(self._layer)

    @property
    def is_quiet(self) -> bool:
        """Whether nobody is owed anything: no request of ours waits for a final response, no 2xx for its ACK.
        Who closes the sockets earlier leaves a far end in a call that is over here. Transactions that only linger
        for repeats do not count. Looks at every one: for an orderly end, not for each datagram."""
        awaits_ack = any(session.awaits_ack for session in self._registry.dialogs.values())
        return not awaits_ack and not self._layer.awaits_response

    def listen(self, listener: Listener) -> None:
        self._listeners[listener.bound] = listener

    # --- inputs ----------------------------------------------------------------------------------------------

    def receive(self, data: bytes, flow: Flow, now: float) -> None:
        """One datagram. Whatever the bytes are, nothing is raised: a malformed one is answered or counted."""
        self._now = now
        message = parse_datagram(data)
        if isinstance(message, Malformed):
            self._receive_malformed(message, flow)
        elif isinstance(message, Response):
            self._receive_response(message, flow, now)
        else:
            self._receive_request(message, flow, now)

    def timeout(self, now: float) -> None:
        """Fire what is due."""
        self._now = now
        for owner, name in self._timers.due(now):
            if isinstance(owner, Session):
                owner.fire(name, now)
            elif isinstance(owner, Transaction):
                self._layer.fire(owner, name, now)

    def next_deadline(self) -> float | None:
        """When `timeout` wants to be called next, on the caller's clock."""
        return self._timers.next_deadline()

    def send_failed(self, outgoing: Outgoing, now: float) -> None:
        """The network could not take a message (name not found, address unreachable)."""
        self._now = now
        if outgoing.key is not None:
            self._layer.send_failed(outgoing.key, now)

    def invite(
        self,
        target: SipUri,
        caller: NameAddr,
        body: bytes,
        now: float,
        *,
        local: Address | None = None,
        headers: Iterable[tuple[str, str]] = (),
    ) -> Session:
        """Place a call: an INVITE with an offer, from the listener `local` (default: the first)."""
        self._now = now
        listener = self._listeners[local] if local is not None else next(iter(self._listeners.values()))
        flow = hop(listener.bound, target, fallback=listener.bound)
        contact = self._contact(listener, caller.uri.user if isinstance(caller.uri, SipUri) else None)
        request = self._build_invite(target, caller, contact, headers)
        if body:
            request.headers.add("Content-Type", admission.SDP)
            request.body = body
        session = self._session(Role.UAC, request, flow, contact)
        session.begin_uac(now)
        return session

    # --- what comes in ---------------------------------------------------------------------------------------

    def _receive_malformed(self, malformed: Malformed, flow: Flow) -> None:
        self.counters[f"malformed: {malformed.reason}"] += 1
        if malformed.status and malformed.request is not None:
            stamp(malformed.request, flow.remote)
            response = response_to(
                malformed.request, malformed.status, malformed.reason or None, to_tag=tag(self._ids)
            )
            self._layer.reply(response, flow)

    def _receive_response(self, response: Response, flow: Flow, now: float) -> None:
        self._note("in", response, flow)
        ours = {listener.sent_by for listener in self._listeners.values()}
        via = response.via
        # §18.1.2, §8.1.3.3: one whose top Via is not ours, or not the only one, went astray, or somebody wants it
        # forwarded
        to_us = (via.host, via.port or DEFAULT_PORT) in ours and len(response.vias) == 1
        if not to_us or not self._layer.receive_response(response, now):
            self.counters["stray response"] += 1

    def _receive_request(self, request: Request, flow: Flow, now: float) -> None:
        stamp(request, flow.remote)
        self._note("in", request, flow)
        if self._layer.absorb(request, now):
            return
        if request.method == "ACK":
            self._receive_ack(request, now)
        elif (refusal := self._refuse(request)) is not None:
            self._reply(request, flow, refusal.status, refusal.headers)
        elif request.method == "CANCEL":
            self._receive_cancel(request, flow, now)
        elif request.to.tag and not self._begins_anew(request):
            self._receive_in_dialog(request, flow, now)
        else:
            self._receive_new(request, flow, now)

    def _begins_anew(self, request: Request) -> bool:
        """§12.2.2: an INVITE in a dialog of another user agent, which failed and whose calls now come here, may be
        taken as a new call. One whose tag has our own shape is of a call that we lost, and gets 481."""
        known = _dialog_id(request) in self._registry.dialogs
        return request.method == "INVITE" and not known and not is_tag(request.to.tag or "")

    def _refuse(self, request: Request) -> admission.Refusal | None:
        if self._layer.is_merged(request):
            return admission.Refusal(482)
        if (refusal := admission.refuse(request)) is not None:
            return refusal
        if self._full(request):
            self.counters["refused: too many transactions or sessions"] += 1
            return admission.Refusal(503, (("Retry-After", str(RETRY_AFTER)),))
        return None

    def _full(self, request: Request) -> bool:
        """What frees memory is let in always; a call that is up can still be held and resumed among too many."""
        if request.method in ("BYE", "CANCEL"):
            return False
        new_call = request.method == "INVITE" and (not request.to.tag or self._begins_anew(request))
        return len(self._layer) >= MAX_TRANSACTIONS or (new_call and self.session_count >= MAX_SESSIONS)

    def _receive_ack(self, ack: Request, now: float) -> None:
        session = self._registry.dialogs.get(_dialog_id(ack))
        if session is None:
            self.counters["stray ACK"] += 1
        else:
            session.acknowledged(ack, now)

    def _receive_cancel(self, cancel: Request, flow: Flow, now: float) -> None:
        found = self._layer.cancelled_invite(cancel)
        if found is None or not isinstance(session := found[1], Session):
            self._reply(cancel, flow, 481)
            return
        transaction = self._layer.accept(cancel, flow, session)
        # §9.2: the To tag of the answer is the one of the INVITE's own responses
        self._respond(transaction, response_to(cancel, 200, to_tag=session.tag), now)
        session.cancelled(cancel, found[0], now)

    def _receive_in_dialog(self, request: Request, flow: Flow, now: float) -> None:
        session = self._registry.dialogs.get(_dialog_id(request))
        if session is None:
            self._reply(request, flow, 481)
            return
        transaction = self._layer.accept(request, flow, session)
        status = self._process_in_dialog(session, request, transaction, now)
        if status is not None:
            headers = [("Retry-After", str(self._ids.number(3)))] if status == 500 else []
            self._respond(transaction, response_to(request, status, headers=headers), now)

    @staticmethod
    def _process_in_dialog(
        session: Session, request: Request, transaction: ServerTransaction, now: float
    ) -> int | None:
        assert session.dialog is not None
        if not session.dialog.in_order(request):
            return 500
        if request.method != "INVITE":
            return session.receive(request, None, now)
        assert isinstance(transaction, ServerInvite)
        if (status := session.conflict()) is not None:
            return status
        return session.receive(request, transaction, now)

    def _receive_new(self, request: Request, flow: Flow, now: float) -> None:
        if request.method in ("BYE", "INFO"):  # only a dialog gives them a meaning
            self._reply(request, flow, 481)
        elif request.method == "OPTIONS":
            self._reply(request, flow, 200, (("Allow", admission.ALLOW), ("Accept", admission.ACCEPT)))
        else:
            self._receive_invite(request, flow, now)

    def _receive_invite(self, request: Request, flow: Flow, now: float) -> None:
        listener = self._listeners[flow.local]
        user = request.uri.user if isinstance(request.uri, SipUri) else None
        session = self._session(Role.UAS, request, flow, self._contact(listener, user))
        transaction = self._layer.accept(request, flow, session)
        assert isinstance(transaction, ServerInvite)
        session.begin_uas(transaction, _behind_nat(request), now)
        self._emit(ev.Invited(session, request))

    # --- building --------------------------------------------------------------------------------------------

    def _session(self, role: Role, request: Request, flow: Flow, contact: NameAddr) -> Session:
        return Session(
            role,
            request,
            flow,
            contact,
            layer=self._layer,
            timers=self._timers,
            registry=self._registry,
            ids=self._ids,
            sent_by=self._listeners[flow.local].sent_by,
            agent=self._agent,
            emit=self._emit,
        )

    def _build_invite(
        self, target: SipUri, caller: NameAddr, contact: NameAddr, headers: Iterable[tuple[str, str]]
    ) -> Request:
        request = Request("INVITE", target.without_params("method"))
        request.headers.add("Max-Forwards", str(MAX_FORWARDS))
        request.headers.add("From", str(caller.with_tag(tag(self._ids))))
        request.headers.add("To", str(NameAddr("", target)))
        request.headers.add("Call-ID", self._ids.hex(32))
        request.headers.add("CSeq", str(CSeq(1 + self._ids.number(16), "INVITE")))
        request.headers.add("Contact", str(contact))
        request.headers.add("Allow", admission.ALLOW)
        request.headers.add("User-Agent", self._agent)
        for name, value in headers:
            request.headers.add(name, value)
        return request

    @staticmethod
    def _contact(listener: Listener, user: str | None) -> NameAddr:
        host, port = listener.sent_by
        return NameAddr("", SipUri("sip", user, None, host, port, (), ""))

    def _reply(
        self, request: Request, flow: Flow, status: int, headers: Iterable[tuple[str, str]] = ()
    ) -> None:
        """Answer without a transaction: each repeat is answered again, and a scanner costs us no memory."""
        response = response_to(request, status, to_tag=self._stateless_tag(request), headers=headers)
        self._layer.reply(self._signed(response), flow)

    def _stateless_tag(self, request: Request) -> str:
        # §8.2.7: a stateless answer to the same request must carry the same tag every time
        return f"s{abs(hash((request.call_id, request.from_.tag, request.cseq.number))):x}"

    def _signed(self, response: Response) -> Response:
        response.headers.add("Server", self._agent)
        return response

    def _respond(self, transaction: ServerTransaction, response: Response, now: float) -> None:
        self._layer.respond(transaction, self._signed(response), now)

    # --- the way out -----------------------------------------------------------------------------------------

    def _send(self, outgoing: Outgoing) -> None:
        self._note("out", outgoing.message, outgoing.flow)
        self._send_to_network(outgoing)

    def _note(self, direction: Direction, message: Request | Response, flow: Flow) -> None:
        if self._trace is not None:
            self._trace(direction, message, flow, self._now)


def _dialog_id(request: Request) -> tuple[str, str, str]:
    """Our side's view of the dialog a request belongs to (§12.2.2)."""
    return request.call_id, request.to.tag or "", request.from_.tag or ""


def _behind_nat(request: Request) -> bool:
    """Whether the caller itself, and not a proxy on its way, was seen at an address it does not know of."""
    via = request.via
    return len(request.vias) == 1 and via.received is not None and via.received != via.host


__all__ = ["Flow", "Listener", "Outgoing", "Session", "Stack", "response_flow"]
