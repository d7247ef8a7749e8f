"""Single requests and responses into a real stack, and random calls that must leave nothing behind."""

from __future__ import annotations

import pytest

from engine.ids import SeededIds
from engine.sip import events as ev
from engine.sip import stack as stack_module
from engine.sip.layer import Flow, Outgoing
from engine.sip.message import Response
from engine.sip.parse import parse_datagram
from engine.sip.stack import Listener, Stack
from tests.sip.ends import ANSWER, End, assert_clean, pair
from tests.wire import Address, Wire

HERE: Address = ("192.0.2.2", 5060)
THERE: Address = ("192.0.2.1", 5060)


def message(
    method: str = "INVITE",
    *headers: str,
    uri: str = "sip:bob@192.0.2.2",
    via: str = "SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKone",
    to: str = "<sip:bob@192.0.2.2>",
    call_id: str = "c1",
    cseq: int = 1,
    body: str = "",
) -> bytes:
    lines = [
        f"{method} {uri} SIP/2.0",
        f"Via: {via}",
        "From: <sip:alice@192.0.2.1>;tag=a",
        f"To: {to}",
        f"Call-ID: {call_id}",
        f"CSeq: {cseq} {method}",
        "Contact: <sip:alice@192.0.2.1>",
        *headers,
        "",
        body,
    ]
    return "\r\n".join(lines).encode()


class Bench:
    """One stack, its output as values."""

    def __init__(self, local: Address = HERE) -> None:
        self.local = local
        self.outgoing: list[Outgoing] = []
        self.events: list[ev.Event] = []
        self.stack = Stack(SeededIds(), send=self.outgoing.append, emit=self.events.append)
        self.stack.listen(Listener(local, local[0]))

    def feed(self, data: bytes, source: Address = THERE, now: float = 0.0) -> list[Outgoing]:
        """What came out because of it."""
        before = len(self.outgoing)
        self.stack.receive(data, Flow(self.local, source), now)
        return self.outgoing[before:]

    def answer(self, data: bytes, source: Address = THERE) -> Response:
        """The one response to it."""
        (outgoing,) = self.feed(data, source)
        assert isinstance(outgoing.message, Response)
        assert isinstance(parse_datagram(outgoing.message.to_bytes()), Response)
        return outgoing.message


# --- requests outside a dialog -----------------------------------------------------------------------------------

REFUSALS: list[tuple[bytes, int, dict[str, str]]] = [
    (message("REGISTER"), 405, {"Allow": "INVITE, ACK, BYE, CANCEL, OPTIONS, INFO"}),
    (message("NOTIFY"), 405, {}),
    (message("SUBSCRIBE"), 405, {}),
    (message("UPDATE"), 405, {}),
    (message("REFER"), 405, {}),
    (message("MESSAGE"), 405, {}),
    (message("PUBLISH"), 405, {}),
    (message("PRACK"), 405, {}),
    (message("JUGGLE"), 501, {}),
    (message("invite"), 501, {}),
    (message(uri="tel:+15551234"), 416, {}),
    (message("OPTIONS", uri="soap.beep://x"), 416, {}),
    (message("INVITE", "Max-Forwards: 0"), 483, {}),
    (message("INVITE", "Require: 100rel, nice"), 420, {"Unsupported": "100rel, nice"}),
    (message("INVITE", "Content-Type: text/plain", body="hi"), 415, {"Accept": "application/sdp"}),
    (message("INVITE", body="hi"), 415, {}),
    (
        message("INVITE", "Content-Type: application/sdp", "Content-Encoding: gzip", body="hi"),
        415,
        {"Accept-Encoding": "identity"},
    ),
    (message("INVITE", "Accept: text/plain"), 406, {}),
    (message("BYE"), 481, {}),
    (message("BYE", to="<sip:bob@192.0.2.2>;tag=x"), 481, {}),
    (message("INFO", to="<sip:bob@192.0.2.2>;tag=x"), 481, {}),
    (message("INVITE", to="<sip:bob@192.0.2.2>;tag=0123456789ab"), 481, {}),
    (message("OPTIONS", to="<sip:bob@192.0.2.2>;tag=x"), 481, {}),
    (message("CANCEL"), 481, {}),
    (message().replace(b"CSeq: 1 INVITE", b"CSeq: 1 BYE"), 400, {}),
    (message().replace(b"SIP/2.0\r\n", b"SIP/3.0\r\n", 1), 505, {}),
]


@pytest.mark.parametrize(("data", "status", "headers"), REFUSALS)
def test_refused_without_memory(data: bytes, status: int, headers: dict[str, str]) -> None:
    bench = Bench()
    first = bench.answer(data)
    assert first.status == status
    assert {name: first.headers.get(name) for name in headers} == headers
    assert first.to.tag
    assert bench.events == []
    assert bench.stack.transaction_count == bench.stack.session_count == 0
    if status not in (400, 505):
        assert bench.answer(data).to.tag == first.to.tag, "§8.2.7: the same tag each time"


def test_options_says_what_we_can_do() -> None:
    response = Bench().answer(message("OPTIONS", "Max-Forwards: 0"))
    assert response.status == 200
    assert response.headers.get("Allow") == "INVITE, ACK, BYE, CANCEL, OPTIONS, INFO"
    assert "application/sdp" in response.headers.all("Accept")
    assert response.to.tag


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Type: text/plain", "Content-Disposition: session ; handling=optional"),
        ("Content-Type: application/SDP",),
        ("Content-Type: application/sdp", "Accept: application/*", "Content-Encoding: identity"),
        ("Content-Type: application/sdp", "Max-Forwards: 1", "Supported: 100rel"),
    ],
)
def test_let_in(headers: tuple[str, ...]) -> None:
    bench = Bench()
    assert bench.answer(message("INVITE", *headers, body="x")).status == 100
    assert [type(event) for event in bench.events] == [ev.Invited]


def test_merged_requests_ring_once() -> None:
    bench = Bench()
    assert bench.answer(message()).status == 100
    assert bench.answer(message(via="SIP/2.0/UDP 192.0.2.9;branch=z9hG4bKtwo")).status == 482
    assert len(bench.events) == 1
    assert bench.answer(message(cseq=2, via="SIP/2.0/UDP 192.0.2.9;branch=z9hG4bKthree")).status == 100


def test_a_request_is_merged_only_as_long_as_the_first_lives() -> None:
    bench = Bench()
    bench.feed(message())
    bench.feed(message("CANCEL"))
    bench.stack.timeout(40.0)
    assert bench.stack.transaction_count == 0
    assert bench.answer(message(via="SIP/2.0/UDP 192.0.2.9;branch=z9hG4bKtwo")).status == 100


def test_a_bare_cookie_is_no_branch() -> None:
    """RFC 4475 §3.2.1: everybody's `z9hG4bK` must not be one transaction."""
    bench = Bench()
    via = "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK"
    for call_id in ("c1", "c2", "c1"):
        assert bench.answer(message(via=via, call_id=call_id)).status == 100
    assert len(bench.events) == 2


def test_a_repeat_gets_the_last_response_and_rings_once() -> None:
    bench = Bench()
    first = bench.answer(message())
    assert bench.answer(message()) == first
    assert len(bench.events) == 1


def test_a_call_without_from_tag_or_cookie_works() -> None:
    """RFC 2543, as in RFC 4475 §3.4.1: no branch, no From tag, no Contact."""

    def old(method: str, to: str = "<sip:bob@192.0.2.2>", cseq: int = 1) -> bytes:
        data = message(method, via="SIP/2.0/UDP 192.0.2.1", to=to, cseq=cseq)
        return data.replace(b";tag=a", b"").replace(b"Contact: <sip:alice@192.0.2.1>\r\n", b"")

    bench = Bench()
    bench.feed(old("INVITE"))
    invited = bench.events[0]
    assert isinstance(invited, ev.Invited)
    invited.session.answer(0.1, ANSWER)
    ok = bench.outgoing[-1].message
    to = f"<sip:bob@192.0.2.2>;tag={ok.to.tag}"
    assert bench.feed(old("ACK", to)) == []
    assert isinstance(bench.events[1], ev.Acknowledged)
    assert bench.answer(old("BYE", to, 2)).status == 200
    assert isinstance(bench.events[2], ev.Ended)


def test_strays_are_counted_and_not_answered() -> None:
    bench = Bench()
    alien = b"SIP/2.0 200 OK\r\n" + message().partition(b"\r\n")[2]
    ours = alien.replace(b"192.0.2.1:5060;branch", b"192.0.2.2:5060;branch")
    ack = message("ACK", to="<sip:bob@192.0.2.2>;tag=x")
    assert bench.feed(alien) == bench.feed(ours) == bench.feed(ack) == bench.feed(message("ACK")) == []
    assert bench.stack.counters == {"stray response": 2, "stray ACK": 2}


def test_a_response_with_two_vias_is_not_for_us() -> None:
    wire = Wire()
    alice, bob = pair(wire)
    alice.call(bob.uri)
    wire.run(0.03)
    ringing = bob.sent("SIP/2.0 100")[0]
    ringing.headers.add("Via", "SIP/2.0/UDP 192.0.2.77;branch=z9hG4bKx")
    alice.stack.receive(ringing.to_bytes(), Flow(alice.address, bob.address), wire.now)
    assert alice.stack.counters["stray response"] == 1


def test_malformed_is_answered_in_words_and_counted() -> None:
    bench = Bench()
    response = bench.answer(message().replace(b"CSeq: 1 INVITE", b"CSeq: 1 BYE"))
    assert (response.status, response.reason) == (400, "CSeq method differs from the request's")
    assert bench.stack.counters == {"malformed: CSeq method differs from the request's": 1}


# --- limits ------------------------------------------------------------------------------------------------------


def test_too_many_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack_module, "MAX_SESSIONS", 1)
    bench = Bench()
    bench.feed(message())
    refused = bench.answer(message(via="SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKtwo", call_id="c2"))
    assert (refused.status, refused.headers.get("Retry-After")) == (503, "10")
    assert bench.stack.counters["refused: too many transactions or sessions"] == 1
    invited = bench.events[0]
    assert isinstance(invited, ev.Invited)
    invited.session.answer(0.1, ANSWER)
    to = f"<sip:bob@192.0.2.2>;tag={invited.session.tag}"
    bench.feed(message("ACK", to=to, via="SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKack"))
    bench.feed(message("INVITE", to=to, cseq=2, via="SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKhold"))
    assert isinstance(bench.events[-1], ev.Offered), "a call that is up is not held to the limit"


def test_too_many_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack_module, "MAX_TRANSACTIONS", 1)
    bench = Bench()
    bench.feed(message())
    assert bench.answer(message("OPTIONS", call_id="c2")).status == 503
    cancel = bench.feed(message("CANCEL"))
    assert [str(each.message.start_line())[8:11] for each in cancel] == ["200", "487"]
    assert isinstance(bench.events[-1], ev.Cancelled)


def test_a_flood_of_strangers_costs_no_memory() -> None:
    bench = Bench()
    for number in range(500):
        via = f"SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK{number}"
        for method in ("OPTIONS", "BYE", "CANCEL", "REGISTER", "INFO", "JUGGLE"):
            bench.feed(message(method, via=via, call_id=str(number)))
    assert len(bench.outgoing) == 3000
    assert bench.stack.transaction_count == bench.stack.session_count == 0
    assert bench.stack.next_deadline() is None


# --- where responses and requests go -----------------------------------------------------------------------------

NAT: Address = ("203.0.113.7", 40000)


@pytest.mark.parametrize(
    ("via", "source", "to", "stamped"),
    [
        ("192.0.2.1:5070;branch=z9hG4bK1", ("192.0.2.1", 40000), ("192.0.2.1", 5070), ""),
        ("192.0.2.1;branch=z9hG4bK1", ("192.0.2.1", 40000), ("192.0.2.1", 5060), ""),
        ("10.0.0.1:5070;branch=z9hG4bK1", NAT, ("203.0.113.7", 5070), "received=203.0.113.7"),
        ("10.0.0.1;rport;branch=z9hG4bK1", NAT, NAT, "received=203.0.113.7"),
        ("10.0.0.1;rport;branch=z9hG4bK1", NAT, NAT, "rport=40000"),
        ("pc.example.com:5070;branch=z9hG4bK1", NAT, ("203.0.113.7", 5070), "received=203.0.113.7"),
        ("[2001:db8::9]:5070;branch=z9hG4bK1", ("2001:db8::9", 4), ("2001:db8::9", 5070), ""),
        ("[2001:db8::9];rport;branch=z9hG4bK1", ("2001:db8::7", 4), ("2001:db8::7", 4), "rport=4"),
        ("[2001:db8::9];branch=z9hG4bK1", ("2001:db8::7", 4), ("2001:db8::7", 5060), "received=2001:db8::7"),
        # what a sender writes there itself must not turn our answers on somebody else
        ("192.0.2.1;received=198.51.100.1;branch=z9hG4bK1", THERE, THERE, "received=192.0.2.1"),
        ("192.0.2.1;rport=9;branch=z9hG4bK1", ("192.0.2.1", 77), ("192.0.2.1", 77), "rport=77"),
        ("192.0.2.1;maddr=198.51.100.1;branch=z9hG4bK1", THERE, THERE, "maddr=198.51.100.1"),
    ],
)
@pytest.mark.parametrize("method", ["OPTIONS", "INVITE", "JUGGLE", "INVITE malformed"])
def test_responses_go_back_where_the_request_came_from(
    via: str, source: Address, to: Address, stamped: str, method: str
) -> None:
    data = message(method.split()[0], via=f"SIP/2.0/UDP {via}")
    if "malformed" in method:
        data = data.replace(b"From:", b"From: <")
    (outgoing,) = Bench().feed(data, source)
    assert outgoing.flow == Flow(HERE, to)
    assert stamped in str(outgoing.message.via)
    assert outgoing.message.via.branch == "z9hG4bK1"


def in_call(bench: Bench, data: bytes, source: Address = THERE) -> ev.Invited:
    """The INVITE, answered and acknowledged."""
    bench.feed(data, source)
    invited = bench.events[-1]
    assert isinstance(invited, ev.Invited)
    invited.session.answer(1.0, ANSWER)
    to = f"<sip:bob@192.0.2.2>;tag={invited.session.tag}"
    bench.feed(message("ACK", to=to, via="SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKack"), source)
    return invited


@pytest.mark.parametrize(
    ("via", "source", "hop"),
    [
        ("192.0.2.1", THERE, THERE),
        ("10.0.0.1;rport", NAT, NAT),
        ("10.0.0.1;rport;branch=z9hG4bKx, SIP/2.0/UDP 10.9.9.9", NAT, THERE),
    ],
    ids=["open", "behind NAT", "through a proxy that does not record its route"],
)
def test_requests_in_the_dialog_reach_a_caller(via: str, source: Address, hop: Address) -> None:
    bench = Bench()
    invited = in_call(bench, message(via=f"SIP/2.0/UDP {via}"), source)
    invited.session.hang_up(2.0)
    bye = bench.outgoing[-1]
    assert bye.message.start_line() == "BYE sip:alice@192.0.2.1 SIP/2.0"
    assert bye.flow.remote == hop


@pytest.mark.parametrize("source", [THERE, NAT])
def test_a_recorded_route_is_taken_by_the_callee(source: Address) -> None:
    bench = Bench()
    routes = "Record-Route: <sip:198.51.100.1;lr>, <sip:198.51.100.2:5080;lr>"
    invited = in_call(bench, message("INVITE", routes), source)
    ok = next(each.message for each in bench.outgoing if "200 OK" in each.message.start_line())
    assert [str(route.uri) for route in ok.record_routes] == [
        "sip:198.51.100.1;lr",
        "sip:198.51.100.2:5080;lr",
    ]
    invited.session.hang_up(2.0)
    bye = bench.outgoing[-1]
    assert bye.flow.remote == ("198.51.100.1", 5060)
    assert bye.message.start_line() == "BYE sip:alice@192.0.2.1 SIP/2.0"
    assert [str(route.uri) for route in bye.message.routes] == [
        "sip:198.51.100.1;lr",
        "sip:198.51.100.2:5080;lr",
    ]


def test_a_recorded_route_is_taken_by_the_caller_in_reverse() -> None:
    wire = Wire()
    alice, bob = pair(wire)
    call = alice.call(bob.uri)
    wire.run(0.03)
    bob.session.answer(wire.now, ANSWER, [("Record-Route", "<sip:198.51.100.1;lr>, <sip:198.51.100.2;lr>")])
    wire.run(0.03)
    call.hang_up(wire.now)
    ack, bye = alice.sent("ACK")[0], alice.sent("BYE")[0]
    assert [each.destination for each in wire.log[-2:]] == [("198.51.100.2", 5060)] * 2
    for request in (ack, bye):
        assert [str(route.uri.host) for route in request.routes] == ["198.51.100.2", "198.51.100.1"]  # type: ignore[union-attr]


def test_over_ipv6() -> None:
    wire = Wire()
    alice, bob = End(wire, "2001:db8::1", 1), End(wire, "2001:db8::2", 2).answering()
    call = alice.call(bob.uri)
    wire.run(1)
    call.hang_up(wire.now)
    wire.run(1)
    assert len(bob.of(ev.Ended)) == 1
    assert wire.log[0].line == "INVITE sip:bob@[2001:db8::2] SIP/2.0"
    assert_clean(alice, bob)


def test_an_invite_for_another_agents_dialog_begins_a_call_under_its_tag() -> None:
    bench = Bench()
    bench.feed(message(to="<sip:bob@192.0.2.2>;tag=never-ours"))
    (invited,) = [event for event in bench.events if isinstance(event, ev.Invited)]
    before = len(bench.outgoing)
    invited.session.answer(0.0, b"v=0\r\n")
    answer = bench.outgoing[before].message
    assert isinstance(answer, Response)
    assert (answer.status, answer.to.tag) == (200, "never-ours")
    bench.feed(
        message(
            "ACK", to="<sip:bob@192.0.2.2>;tag=never-ours", via="SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKtwo"
        )
    )
    assert isinstance(bench.events[-1], ev.Acknowledged)
    bye = message(
        "BYE",
        to="<sip:bob@192.0.2.2>;tag=never-ours",
        cseq=2,
        via="SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK3",
    )
    assert bench.answer(bye).status == 200
