"""The transaction layer: which machine a message belongs to (RFC 3261 §17.1.3, §17.2.3), and the way out.

Knows Vias, branches and hops; knows no dialogs. What a machine delivers goes to its `user`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from engine.ids import BRANCH_COOKIE, Ids, branch
from engine.sip.headers import Via
from engine.sip.message import Request, Response
from engine.sip.timers import Timers
from engine.sip.transaction import (
    UNANSWERED,
    ClientInvite,
    ClientNonInvite,
    Deliver,
    Failed,
    ServerInvite,
    ServerNonInvite,
    ServerTransaction,
    State,
    Transaction,
    Transmit,
)

Address: TypeAlias = tuple[str, int]
Key: TypeAlias = tuple[str, ...]
ClientTransaction: TypeAlias = ClientInvite | ClientNonInvite

DEFAULT_PORT = 5060


class Flow(NamedTuple):
    """Between which two addresses a message travels: ours as bound, theirs (host may be a name to resolve)."""

    local: Address
    remote: Address


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message for the network. `key` names the client transaction to tell when it cannot be sent."""

    flow: Flow
    message: Request | Response
    key: Key | None = None


class User(Protocol):
    """A transaction's user: the session it belongs to, or nobody."""

    def delivered(self, transaction: Transaction, message: Request | Response, now: float) -> None: ...

    def failed(self, transaction: Transaction, status: int, now: float) -> None: ...


@dataclass(slots=True)
class _Entry:
    transaction: Transaction
    key: Key
    flow: Flow
    user: User


class TransactionLayer:
    """All transactions of one stack."""

    def __init__(self, ids: Ids, timers: Timers, send: Callable[[Outgoing], None]) -> None:
        self._ids = ids
        self._timers = timers
        self._send = send
        self._clients: dict[Key, _Entry] = {}
        self._servers: dict[Key, _Entry] = {}
        self._entries: dict[Transaction, _Entry] = {}
        self._merged: dict[Key, Key] = {}  # (Call-ID, From tag, CSeq) of requests without To tag → server key

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def awaits_response(self) -> bool:
        """Whether a request of ours has no final response yet."""
        return any(entry.transaction.state in UNANSWERED for entry in self._clients.values())

    # --- requests that come in -------------------------------------------------------------------------------

    def absorb(self, request: Request, now: float) -> bool:
        """Feed a request to the transaction it repeats or acknowledges; False when it is a new one."""
        entry = self._servers.get(server_key(request))
        if entry is None:
            return False
        assert isinstance(entry.transaction, ServerTransaction)
        entry.transaction.receive(request, now)
        self._run(entry, now)
        return True

    def is_merged(self, request: Request) -> bool:
        """§8.2.2.2: a request that `absorb` did not know came before by another path: it would ring twice."""
        return not request.to.tag and _merge_key(request) in self._merged

    def accept(self, request: Request, flow: Flow, user: User) -> ServerTransaction:
        """A new server transaction."""
        machine = ServerInvite if request.method == "INVITE" else ServerNonInvite
        transaction = machine(request, self._timers, reliable=False)
        entry = _Entry(transaction, server_key(request), flow, user)
        self._servers[entry.key] = self._entries[transaction] = entry
        if not request.to.tag:
            self._merged[_merge_key(request)] = entry.key
        return transaction

    def respond(self, transaction: ServerTransaction, response: Response, now: float) -> None:
        entry = self._entries.get(transaction)
        if entry is not None:  # else it ended meanwhile, and nobody listens
            transaction.respond(response, now)
            self._run(entry, now)

    def cancelled_invite(self, cancel: Request) -> tuple[ServerInvite, User] | None:
        """The INVITE a CANCEL means (§9.2): the one with the same key but for the method."""
        entry = self._servers.get(server_key(cancel, "INVITE"))
        if entry is None or not isinstance(entry.transaction, ServerInvite):
            return None
        return entry.transaction, entry.user

    def reply(self, response: Response, flow: Flow) -> None:
        """A stateless response (§8.2.7), for requests not worth a transaction."""
        self._send(Outgoing(response_flow(response, flow), response))

    # --- requests that go out --------------------------------------------------------------------------------

    def request(
        self, request: Request, flow: Flow, sent_by: Address, user: User, now: float
    ) -> ClientTransaction:
        """Send a request in a new client transaction, under a fresh Via."""
        add_via(request, sent_by, branch(self._ids))
        return self._start(request, flow, user, now)

    def cancel(self, invite: ClientInvite, user: User, now: float) -> None:
        """§9.1: a CANCEL carries the Via and Request-URI of the request it cancels."""
        entry = self._entries.get(invite)
        if entry is None:
            return
        request = Request("CANCEL", invite.request.uri)
        request.headers.add("Via", str(invite.request.via))
        for name in ("Max-Forwards", "From", "To", "Call-ID", "Route"):
            for value in invite.request.headers.raw(name):
                request.headers.add(name, value)
        request.headers.add("CSeq", f"{invite.request.cseq.number} CANCEL")
        self._start(request, entry.flow, user, now)

    def send_ack(self, ack: Request, flow: Flow, sent_by: Address) -> Outgoing:
        """The ACK of a 2xx, which is outside any transaction (§13.2.2.4); returned to be sent again."""
        add_via(ack, sent_by, branch(self._ids))
        outgoing = Outgoing(flow, ack)
        self._send(outgoing)
        return outgoing

    def resend(self, outgoing: Outgoing) -> None:
        """The same ACK once more, for a 2xx that came again."""
        self._send(outgoing)

    def receive_response(self, response: Response, now: float) -> bool:
        """Feed a response to its transaction; False when there is none (a stray)."""
        entry = self._clients.get((response.via.branch or "", response.cseq.method))
        if entry is None:
            return False
        assert isinstance(entry.transaction, ClientInvite | ClientNonInvite)
        entry.transaction.receive(response, now)
        self._run(entry, now)
        return True

    def send_failed(self, key: Key, now: float) -> None:
        """The network refused a request: its user hears of it now instead of after Timer B or F."""
        entry = self._clients.get(key)
        if entry is not None:
            entry.transaction.transport_failed()
            self._run(entry, now)

    def fire(self, transaction: Transaction, timer: str, now: float) -> None:
        entry = self._entries.get(transaction)
        if entry is not None:
            transaction.fire(timer, now)
            self._run(entry, now)

    # --- inside ----------------------------------------------------------------------------------------------

    def _start(self, request: Request, flow: Flow, user: User, now: float) -> ClientTransaction:
        machine = ClientInvite if request.method == "INVITE" else ClientNonInvite
        transaction = machine(request, self._timers, reliable=False)
        key = (request.via.branch or "", request.method)
        entry = _Entry(transaction, key, flow, user)
        self._clients[key] = self._entries[transaction] = entry
        transaction.start(now)
        self._run(entry, now)
        return transaction

    def _run(self, entry: _Entry, now: float) -> None:
        transaction = entry.transaction
        actions, transaction.actions = transaction.actions, []
        if transaction.state is State.TERMINATED:
            self._forget(entry)
        for action in actions:
            match action:
                case Transmit(Request() as request):
                    self._send(Outgoing(entry.flow, request, entry.key))
                case Transmit(Response() as response):
                    self._send(Outgoing(response_flow(response, entry.flow), response))
                case Deliver(message):
                    entry.user.delivered(transaction, message, now)
                case Failed(status):
                    entry.user.failed(transaction, status, now)

    def _forget(self, entry: _Entry) -> None:
        if self._entries.pop(entry.transaction, None) is None:
            return
        if isinstance(entry.transaction, ServerTransaction):
            del self._servers[entry.key]
            merged = _merge_key(entry.transaction.request)
            if self._merged.get(merged) == entry.key:
                del self._merged[merged]
        else:
            del self._clients[entry.key]


def add_via(request: Request, sent_by: Address, branch_parameter: str) -> None:
    host, port = sent_by
    via = Via("SIP/2.0", "UDP", host, port, (("branch", branch_parameter), ("rport", None)))
    request.headers.prepend("Via", str(via))


def stamp(request: Request, source: Address) -> None:
    """Note where a request really came from, §18.2.1 and RFC 3581 §4: without it replies miss a NAT's hole."""
    via, (host, port) = request.via, source
    params: dict[str, str | None] = {}
    if via.has_param("rport"):
        params["rport"] = str(port)
    # A `received` the sender wrote itself is overwritten: it would turn our answers on a third party.
    if params or via.host != host or via.has_param("received"):
        params["received"] = host
        request.headers.replace_first("Via", str(via.with_params(**params)))


def response_flow(response: Response, flow: Flow) -> Flow:
    """Where a response goes: §18.2.2 and RFC 3581 §4, read from the stamped top Via. `maddr` is left aside: it is
    for multicast, which we do not serve, and would let anyone aim our answers at a host of their choice."""
    via = response.via
    return Flow(flow.local, (via.received or via.host, via.rport or via.port or DEFAULT_PORT))


def server_key(request: Request, method: str | None = None) -> Key:
    """§17.2.3. A branch without the cookie, or with nothing behind it, is from RFC 2543 and proves nothing."""
    via, cseq = request.via, request.cseq
    method = method or request.method
    if method == "ACK":
        method = "INVITE"
    if via.branch and via.branch.startswith(BRANCH_COOKIE) and len(via.branch) > len(BRANCH_COOKIE):
        return via.branch, via.host, str(via.port or DEFAULT_PORT), method
    from_tag = request.from_.tag or ""
    return str(request.uri), from_tag, request.call_id, str(cseq.number), str(via), method


def _merge_key(request: Request) -> Key:
    return request.call_id, request.from_.tag or "", str(request.cseq.number), request.method
