"""Hostile and torturous input into a real stack: the right answer or silence, never an exception."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.sip import events as ev
from engine.sip.layer import Flow
from engine.sip.message import Request, Response
from engine.sip.parse import parse_datagram
from tests.sip.ends import ANSWER, pair
from tests.sip.test_stack import HERE, Bench, message
from tests.torture.corpus import CASES, Case
from tests.wire import Wire

# What the prose of RFC 4475 asks of an endpoint without a registrar. Malformed messages' statuses stand in the
# corpus list. wsinv names a dialog (its To has a tag) that can never have been ours: §12.2.2 lets it begin anew.
STATUS: dict[str, int | None] = {
    "wsinv.dat": 100,
    "intmeth.dat": 501,
    "esc01.dat": 100,
    "escnull.dat": 405,
    "esc02.dat": 501,
    "lwsdisp.dat": 200,
    "longreq.dat": 100,
    "dblreq.dat": 405,
    "semiuri.dat": 200,
    "transports.dat": 200,
    "mpart01.dat": 405,
    "unreason.dat": None,
    "noreason.dat": None,
    "badbranch.dat": 200,
    "unkscm.dat": 416,
    "novelsc.dat": 416,
    "unksm2.dat": 405,
    "bext01.dat": 420,
    "invut.dat": 415,
    "regaut01.dat": 405,
    "bcast.dat": None,
    "zeromf.dat": 200,
    "cparam01.dat": 405,
    "cparam02.dat": 405,
    "regescrt.dat": 405,
    "sdp01.dat": 406,
    "inv2543.dat": 100,
}


def expected(case: Case) -> int | None:
    return (case.status or None) if case.outcome == "malformed" else STATUS[case.file]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.file)
def test_rfc4475(case: Case) -> None:
    bench = Bench()
    outgoing = bench.feed(case.raw())
    responses = [each.message for each in outgoing]
    assert all(isinstance(each, Response) for each in responses)
    status = expected(case)
    assert [each.status for each in responses if isinstance(each, Response)] == ([status] if status else [])
    assert len([each for each in bench.events if isinstance(each, ev.Invited)]) == (status == 100)
    assert len(bench.events) == (status == 100)


def test_the_table_is_complete() -> None:
    assert set(STATUS) == {case.file for case in CASES if case.outcome != "malformed"}


@pytest.mark.parametrize(
    ("file", "header", "value"),
    [
        ("bext01.dat", "Unsupported", "nothingSupportsThis, nothingSupportsThisEither"),
        ("invut.dat", "Accept", "application/sdp"),
        ("transports.dat", "Via", None),
    ],
)
def test_rfc4475_headers(file: str, header: str, value: str | None) -> None:
    """What the answer must carry; None: just what the request had."""
    raw = next(case for case in CASES if case.file == file).raw()
    request = parse_datagram(raw)
    response = Bench().feed(raw)[0].message
    if value is not None:
        assert response.headers.get(header) == value
    else:
        assert isinstance(request, Request)
        assert response.headers.all(header)[1:] == request.headers.all(header)[1:]


def test_a_torturous_call_runs_to_its_end() -> None:
    """RFC 4475's long INVITE, answered: our 200 parses and the call can be ended."""
    bench = Bench()
    bench.feed(next(case for case in CASES if case.file == "longreq.dat").raw())
    invited = bench.events[0]
    assert isinstance(invited, ev.Invited)
    invited.session.answer(0.1, ANSWER)
    for now in range(1, 70):
        bench.stack.timeout(float(now))
    assert isinstance(bench.events[-1], ev.Ended)
    assert bench.stack.transaction_count == bench.stack.session_count == 0
    assert isinstance(parse_datagram(bench.outgoing[-1].message.to_bytes()), Request)


TAGGED = "<sip:bob@192.0.2.2>;tag=x"
SEEDS = [
    message("INVITE", "Content-Type: application/sdp", "Record-Route: <sip:p.example.com;lr>", body="v=0"),
    message("BYE", to=TAGGED, cseq=4),
    message("ACK", to=TAGGED, via="SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKack"),
    message("INVITE", "Content-Type: application/sdp", to=TAGGED, cseq=2, body="v=0"),
    message("INFO", "Content-Type: application/dtmf-relay", to=TAGGED, cseq=3, body="Signal=1"),
    message("CANCEL"),
    message("ACK"),
    message("OPTIONS", "Require: x", "Accept: text/plain", "Max-Forwards: 70"),
    message("INFO", "Content-Encoding: gzip", "Content-Disposition: render", body="Signal=1"),
    b"SIP/2.0 200 OK\r\n" + message().partition(b"\r\n")[2],
]
NASTY = (b"", b"\x00", b"\r\n", b"\r\n ", b'"', b"<", b">", b";", b",", b":", b"%", b"@", b"=", b"\xff", b"9" * 40,
         b";tag=", b"sips:", b"tel:", b";maddr=[::1]", b";rport=0", b";received=[", b"*", b"?a=b")  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes] = SEEDS) -> bytes:
    """A valid message with a few places cut, doubled or made worse."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 12)))
        data = data[:start] + draw(st.sampled_from(NASTY) | st.binary(max_size=4)) + data[end:]
    return data


def check_answers(bench: Bench) -> None:
    for each in bench.outgoing:
        each.message.to_bytes()
        assert isinstance(each.message, Response)
        assert each.flow.remote[0] == "192.0.2.1", "answers go to the source and nowhere else"


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    bench = Bench()
    bench.feed(data)
    check_answers(bench)


@settings(max_examples=1500, deadline=None)
@given(st.lists(mutated(), min_size=1, max_size=3))
def test_mutated_messages(datagrams: list[bytes]) -> None:
    bench = Bench()
    for data in datagrams:
        assert len(bench.feed(data)) <= 2, "a CANCEL has two answers, anything else one"
    check_answers(bench)
    bench.stack.timeout(100.0)


@settings(max_examples=1000, deadline=None)
@given(st.lists(mutated(), max_size=4), st.booleans())
def test_mutated_messages_into_a_call(datagrams: list[bytes], ours: bool) -> None:
    """The same with a live call that they may match: it can still be ended, and then nothing is left."""
    bench = Bench()
    bench.feed(message())
    invited = bench.events[0]
    assert isinstance(invited, ev.Invited)
    invited.session.answer(0.1, ANSWER)
    tag = invited.session.tag.encode()
    for data in datagrams:
        bench.feed(data.replace(b"tag=x", b"tag=" + tag), now=0.2)
    if ours:
        invited.session.hang_up(0.3)
    for event in bench.events:
        if isinstance(event, ev.Invited | ev.Offered):
            event.session.hang_up(0.4)
    for now in range(1, 200):
        bench.stack.timeout(float(now))
    for each in bench.outgoing:
        each.message.to_bytes()
        assert each.flow.local == HERE
    assert bench.stack.transaction_count == bench.stack.session_count == 0
    assert bench.stack.next_deadline() is None


def responses() -> list[bytes]:
    """Everything a callee may answer to the first call of a fresh `End` of seed 1, over and over the same."""
    wire = Wire()
    alice, bob = pair(wire)
    alice.call(bob.uri)
    wire.run(0.03)
    bob.session.ring(wire.now)
    bob.session.answer(wire.now, ANSWER)
    wire.run(0.01)
    answers = [each.payload for each in wire.log if each.source == bob.address]
    busy = answers[-1].replace(b"SIP/2.0 200 OK", b"SIP/2.0 486 Busy Here").replace(b"tag=", b"tag=f")
    return [*answers, busy]


@settings(max_examples=500, deadline=None)
@given(st.lists(mutated(responses()), max_size=6), st.booleans())
def test_mutated_responses_to_a_call_of_ours(datagrams: list[bytes], cancel: bool) -> None:
    wire = Wire()
    alice, bob = pair(wire)
    wire.drop = lambda datagram: True
    call = alice.call(bob.uri)
    for position, data in enumerate(datagrams):
        if cancel and position == 2:
            call.hang_up(wire.now)
        alice.stack.receive(data, Flow(alice.address, bob.address), wire.now)
        wire.run(0.1)
    call.hang_up(wire.now)
    wire.settle()
    assert alice.stack.transaction_count == alice.stack.session_count == 0
    assert len([event for event in alice.events if isinstance(event, ev.Refused | ev.Ended)]) <= 1
