"""Calls over a network that loses, repeats, delays and forks."""

from __future__ import annotations

import pytest

from engine.sip import events as ev
from engine.sip.layer import Flow, Outgoing
from engine.sip.message import Response
from engine.sip.uri import SipUri
from tests.sip.ends import (
    BACKOFF,
    assert_clean,
    established,
    first,
    kinds,
    pair,
    starts,
)
from tests.wire import Wire

# --- a network that loses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_with_a_third_lost_both_ends_agree(seed: int) -> None:
    wire = Wire(seed, loss=0.3, jitter=0.3, duplicates=0.2)
    alice, bob = pair(wire)
    bob.answering()
    call = alice.call(bob.uri)
    wire.run_until(lambda: bool(alice.of(ev.Answered)) and bool(bob.of(ev.Acknowledged)))
    call.hang_up(wire.now)
    wire.run_until(lambda: bool(bob.of(ev.Ended)))
    assert kinds(alice) == ["Answered"]
    assert kinds(bob) == ["Invited", "Acknowledged", "Ended"]
    assert bob.one(ev.Ended).by is ev.Party.REMOTE
    assert_clean(alice, bob)


def test_a_lost_invite_is_sent_again() -> None:
    wire = Wire()
    alice, bob = pair(wire)
    wire.drop = first("INVITE", 2)
    alice.call(bob.uri)
    wire.run(20)
    assert alice.times("INVITE") == [0, 0.5, 1.5]
    assert len(bob.of(ev.Invited)) == 1


def test_a_lost_ack_makes_the_200_come_again_and_the_ack_too() -> None:
    wire = Wire()
    alice, bob = pair(wire)
    bob.answering()
    wire.drop = first("ACK", 2)
    alice.call(bob.uri)
    wire.run(20)
    assert bob.times("SIP/2.0 200") == [0, 0.5, 1.5]
    acks = alice.sent("ACK")
    assert len(acks) == 3
    assert acks[0] == acks[1] == acks[2]
    assert kinds(alice) == ["Answered"]
    assert kinds(bob) == ["Invited", "Acknowledged"]


def test_a_lost_200_comes_again() -> None:
    wire = Wire()
    alice, bob = pair(wire)
    bob.answering()
    wire.drop = first("SIP/2.0 200")
    alice.call(bob.uri)
    wire.run(20)
    assert bob.times("SIP/2.0 200") == [0, 0.5]
    assert len(alice.sent("ACK")) == 1
    assert kinds(alice) == ["Answered"]


def test_no_ack_ever_ends_the_call_after_32_seconds() -> None:
    wire = Wire()
    alice, bob = pair(wire)
    bob.answering()
    wire.drop = starts("ACK")
    alice.call(bob.uri)
    wire.run(31.9)
    assert bob.of(ev.Ended) == []
    wire.run(0.3)
    assert bob.one(ev.Ended).by is ev.Party.NETWORK
    assert bob.times("SIP/2.0 200")[:11] == BACKOFF
    assert alice.one(ev.Ended).by is ev.Party.REMOTE
    assert_clean(alice, bob)


def test_a_lost_bye_is_sent_again() -> None:
    wire = Wire()
    alice, call, bob, _ = established(wire)
    wire.drop = first("BYE", 3)
    call.hang_up(wire.now)
    wire.run(20)
    assert alice.times("BYE") == [0, 0.5, 1.5, 3.5]
    assert len(bob.of(ev.Ended)) == 1
    assert_clean(alice, bob)


def test_the_answer_to_bye_is_repeated_not_the_end() -> None:
    wire = Wire()
    alice, call, bob, _ = established(wire)
    wire.drop = first("SIP/2.0 200")
    call.hang_up(wire.now)
    wire.run(20)
    assert len(alice.sent("BYE")) == 2
    assert [str(each.cseq.method) for each in bob.sent("SIP/2.0 200")] == ["INVITE", "BYE", "BYE"]
    assert len(bob.of(ev.Ended)) == 1


def test_nobody_there() -> None:
    wire = Wire()
    alice, _ = pair(wire)
    alice.call(SipUri("sip", "x", None, "192.0.2.99", None))
    wire.run(31.9)
    assert alice.events == []
    wire.run(0.2)
    refused = alice.one(ev.Refused)
    assert (refused.status, refused.response) == (408, None)
    assert alice.times("INVITE") == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    assert_clean(alice)


def test_a_name_that_does_not_resolve_refuses_at_once() -> None:
    wire = Wire()
    alice, _ = pair(wire)
    alice.call(SipUri("sip", "x", None, "nowhere.invalid", None))
    wire.run(0)
    assert (alice.one(ev.Refused).status, alice.one(ev.Refused).response) == (503, None)
    assert_clean(alice)


def test_news_of_a_failed_send_after_the_answer_changes_nothing() -> None:
    wire = Wire()
    alice, call, bob, _ = established(wire)
    invite = alice.sent("INVITE")[0]
    key = (invite.via.branch or "", "INVITE")
    alice.stack.send_failed(Outgoing(Flow(alice.address, bob.address), invite, key), wire.now)
    call.hang_up(wire.now)
    wire.run(1)
    assert alice.of(ev.Ended) == []
    assert_clean(alice, bob)


def test_a_far_end_that_vanishes_is_noticed_and_told_anyway() -> None:
    """An INFO without any answer ends the dialog, with a BYE in case only this direction failed (§12.2.1.2)."""
    wire = Wire()
    alice, call, bob, _ = established(wire)
    wire.drop = starts("INFO")
    call.info(wire.now, "application/dtmf-relay", b"Signal=1")
    wire.run(33)
    assert alice.one(ev.Ended).by is ev.Party.NETWORK
    assert bob.one(ev.Ended).by is ev.Party.REMOTE
    assert_clean(alice, bob)


def test_481_to_a_request_ends_the_call() -> None:
    wire = Wire()
    alice, call, bob, session = established(wire)
    wire.drop = starts("BYE")
    session.hang_up(wire.now)
    call.info(wire.now, "application/dtmf-relay", b"Signal=1")
    wire.run(1)
    assert alice.one(ev.Ended).by is ev.Party.NETWORK
    assert alice.one(ev.Ended).reason == "481 Call/Transaction Does Not Exist to INFO"
    assert_clean(alice, bob)


# --- forks -------------------------------------------------------------------------------------------------------


def forked(answer: Response, tag: str) -> bytes:
    answer.headers.set("To", str(answer.to.with_tag(tag)))
    return answer.to_bytes()


def test_a_second_branch_that_answers_is_hung_up() -> None:
    wire = Wire()
    alice, call, bob, _ = established(wire)
    second = forked(bob.sent("SIP/2.0 200")[0], "fork2")  # type: ignore[arg-type]
    for _ in range(3):
        wire.send(bob.address, alice.address, second)
        wire.run(1)
    acks = [ack for ack in alice.sent("ACK") if ack.to.tag == "fork2"]
    byes = alice.sent("BYE")
    assert len(acks) == 3
    assert {bye.to.tag for bye in byes} == {"fork2"}
    assert len({bye.via.branch for bye in byes}) == 1
    assert kinds(alice) == ["Answered"]
    call.hang_up(wire.now)
    wire.run(1)
    assert len(bob.of(ev.Ended)) == 1
    assert_clean(alice, bob)


def test_a_branch_that_refuses_after_another_answered_changes_nothing() -> None:
    wire = Wire()
    alice, call, bob, _ = established(wire)
    ok = bob.sent("SIP/2.0 200")[0]
    assert isinstance(ok, Response)
    wire.send(bob.address, alice.address, forked(Response(486, "Busy Here", ok.headers.copy()), "fork2"))
    wire.run(1)
    assert kinds(alice) == ["Answered"]
    assert len(alice.sent("ACK")) == 1
    call.hang_up(wire.now)
    assert_clean(alice, bob)
