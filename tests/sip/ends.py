"""A real `Stack` on the wire, with an app in miniature: it keeps its events and does what its script says."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import TypeVar

from engine.ids import SeededIds
from engine.sip import events as ev
from engine.sip.headers import NameAddr
from engine.sip.layer import Flow, Outgoing
from engine.sip.message import Request, Response
from engine.sip.parse import parse_datagram
from engine.sip.session import Session
from engine.sip.stack import Listener, Stack
from engine.sip.uri import SipUri
from tests.wire import Address, Datagram, Wire

E = TypeVar("E")

OFFER = b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"
ANSWER = OFFER.replace(b"4000", b"5000")
HOLD = OFFER + b"a=sendonly\r\n"

BACKOFF = [0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]  # T1 doubling to T2, for 64*T1


class End:
    """`react` maps an event's class to what the app does on it, at once."""

    def __init__(self, wire: Wire, host: str, seed: int) -> None:
        self.wire = wire
        self.address: Address = (host, 5060)
        self.events: list[ev.Event] = []
        self.react: dict[type, Callable[..., None]] = {}
        self.stack = Stack(SeededIds(seed), send=self._send, emit=self._emit)
        self.stack.listen(Listener(self.address, host))
        wire.attach(self.address, self._receive)
        wire.add(self.stack)

    @property
    def uri(self) -> SipUri:
        return SipUri("sip", "bob", None, self.address[0], None)

    def call(self, target: SipUri, body: bytes = OFFER) -> Session:
        caller = NameAddr("Alice", SipUri("sip", "alice", None, self.address[0], None))
        return self.stack.invite(target, caller, body, self.wire.now)

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    def one(self, kind: type[E]) -> E:
        (event,) = self.of(kind)
        return event

    @property
    def session(self) -> Session:
        """Of the call that came in."""
        return self.one(ev.Invited).session

    def sent(self, start: str, arrived: bool | None = None) -> list[Request | Response]:
        """Messages of ours whose first line begins so."""
        return [
            message
            for each in self.wire.log
            if each.source == self.address and each.line.startswith(start)
            if arrived is None or arrived == bool(each.arrivals)
            if isinstance(message := parse_datagram(each.payload), Request | Response)
        ]

    def times(self, start: str) -> list[float]:
        """When those were sent, in seconds since the first of them."""
        times = [e.time for e in self.wire.log if e.source == self.address and e.line.startswith(start)]
        return [round(time - times[0], 6) for time in times]

    def answering(self) -> End:
        """Answer every call at once, and every re-INVITE."""
        self.react[ev.Invited] = lambda e: e.session.answer(self.wire.now, ANSWER)
        self.react[ev.Offered] = lambda e: e.session.accept_offer(self.wire.now, ANSWER)
        return self

    def _emit(self, event: ev.Event) -> None:
        self.events.append(event)
        if (reaction := self.react.get(type(event))) is not None:
            reaction(event)

    def _send(self, outgoing: Outgoing) -> None:
        host, port = outgoing.flow.remote
        try:
            ip_address(host)
        except ValueError:
            self.wire.at(self.wire.now, lambda: self.stack.send_failed(outgoing, self.wire.now))
        else:
            self.wire.send(outgoing.flow.local, (host, port), outgoing.message.to_bytes())

    def _receive(self, data: bytes, source: Address, destination: Address, now: float) -> None:
        self.stack.receive(data, Flow(destination, source), now)


def kinds(end: End) -> list[str]:
    return [type(event).__name__ for event in end.events]


def starts(*lines: str) -> Callable[[Datagram], bool]:
    """A drop rule for whatever begins so."""
    return lambda datagram: datagram.line.startswith(lines)


def first(rule: str, count: int = 1) -> Callable[[Datagram], bool]:
    """A drop rule for the first `count` datagrams that begin so."""
    left = [count]

    def drop(datagram: Datagram) -> bool:
        if not datagram.line.startswith(rule) or left[0] == 0:
            return False
        left[0] -= 1
        return True

    return drop


def pair(wire: Wire) -> tuple[End, End]:
    """A caller and a callee."""
    return End(wire, "192.0.2.1", 1), End(wire, "192.0.2.2", 2)


def established(wire: Wire) -> tuple[End, Session, End, Session]:
    """Both ends of an answered call."""
    alice, bob = pair(wire)
    bob.answering()
    session = alice.call(bob.uri)
    wire.run_until(lambda: bool(bob.of(ev.Acknowledged)))
    return alice, session, bob, bob.session


def assert_clean(*ends: End) -> None:
    """Nothing is left of any call: after the longest timers, memory is as at the start."""
    ends[0].wire.settle()
    for end in ends:
        assert end.stack.transaction_count == 0
        assert end.stack.session_count == 0
        assert end.stack.next_deadline() is None
