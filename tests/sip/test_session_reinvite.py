"""Offers inside a call: hold, resume, glare, and every way for one to be cut short."""

from __future__ import annotations

import pytest

from engine.sip import events as ev
from engine.sip.message import Request
from tests.sip.ends import (
    ANSWER,
    HOLD,
    OFFER,
    End,
    assert_clean,
    established,
    first,
    starts,
)
from tests.wire import Wire


@pytest.mark.parametrize("by_callee", [False, True])
def test_hold_and_resume(by_callee: bool) -> None:
    wire = Wire()
    alice, call, bob, session = established(wire)
    offerer, answerer, ours = (bob, alice.answering(), session) if by_callee else (alice, bob, call)
    for body in (HOLD, OFFER):
        assert ours.offer(wire.now, body)
        wire.run(1)
    assert [event.request.body for event in answerer.of(ev.Offered)] == [HOLD, OFFER]
    assert [event.response.status for event in offerer.of(ev.OfferAnswered)] == [200, 200]
    numbers = [each.cseq.number for each in offerer.sent("INVITE")][-2:]
    assert numbers[1] == numbers[0] + 1
    call.hang_up(wire.now)
    assert_clean(alice, bob)


@pytest.mark.parametrize("seed", range(10))
def test_a_reinvite_survives_loss(seed: int) -> None:
    wire = Wire(seed)
    alice, call, bob, _ = established(wire)
    wire.loss = 0.4
    assert call.offer(wire.now, HOLD)
    wire.run_until(lambda: bool(alice.of(ev.OfferAnswered)) and len(bob.of(ev.Acknowledged)) == 2)
    assert alice.one(ev.OfferAnswered).response.body == ANSWER
    assert len(bob.of(ev.Offered)) == 1
    wire.loss = 0
    call.hang_up(wire.now)
    assert_clean(alice, bob)


def test_a_repeated_200_of_a_reinvite_is_acknowledged_again_and_told_once() -> None:
    wire = Wire()
    alice, call, bob, _ = established(wire)
    wire.drop = first("ACK")
    call.offer(wire.now, HOLD)
    wire.run(5)
    assert len(alice.sent("ACK")) == 3
    assert len(alice.of(ev.OfferAnswered)) == 1
    assert len(bob.of(ev.Acknowledged)) == 2


def test_an_old_ack_does_not_acknowledge_a_new_200() -> None:
    wire = Wire()
    alice, call, bob, _ = established(wire)
    old = alice.sent("ACK")[0].to_bytes()
    wire.drop = starts("ACK")
    call.offer(wire.now, HOLD)
    wire.run(0.1)
    wire.drop = starts("nothing")
    wire.send(alice.address, bob.address, old)
    wire.run(0.1)
    assert len(bob.of(ev.Acknowledged)) == 1
    wire.run(1)
    assert len(bob.of(ev.Acknowledged)) == 2


def test_glare() -> None:
    wire = Wire()
    alice, call, bob, session = established(wire)
    assert call.offer(wire.now, HOLD)
    assert session.offer(wire.now, HOLD)
    wire.run(1)
    assert alice.one(ev.OfferAnswered).response.status == 491
    assert bob.one(ev.OfferAnswered).response.status == 491
    assert alice.of(ev.Offered) == bob.of(ev.Offered) == []
    assert call.offer(wire.now, HOLD)
    wire.run(1)
    assert [each.response.status for each in alice.of(ev.OfferAnswered)] == [491, 200]
    call.hang_up(wire.now)
    assert_clean(alice, bob)


def test_only_one_reinvite_at_a_time() -> None:
    wire = Wire()
    alice, call, bob, session = established(wire)
    del bob.react[ev.Offered]
    assert call.offer(wire.now, HOLD)
    assert not call.offer(wire.now, OFFER)
    wire.run(1)
    assert not session.offer(wire.now, OFFER)
    session.refuse_offer(wire.now, 488)
    wire.run(1)
    assert alice.one(ev.OfferAnswered).response.status == 488
    assert len(bob.sent("SIP/2.0 488")) == 1, "its ACK was recognised"
    assert session.offer(wire.now, OFFER)
    call.hang_up(wire.now)
    assert_clean(alice, bob)


def reinvite(alice: End, branch: str, sequence: int) -> bytes:
    """Another re-INVITE in the dialog of the last one."""
    request = alice.sent("INVITE")[-1]
    request.headers.set("Via", f"SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK{branch}")
    request.headers.set("CSeq", f"{request.cseq.number + sequence} INVITE")
    return request.to_bytes()


def test_a_second_reinvite_while_the_first_is_open_gets_500() -> None:
    wire = Wire()
    alice, call, bob, session = established(wire)
    del bob.react[ev.Offered]
    call.offer(wire.now, HOLD)
    wire.run(1)
    wire.send(alice.address, bob.address, reinvite(alice, "second", 1))
    wire.run(1)
    refusal = bob.sent("SIP/2.0 500")[0]
    assert 0 <= int(refusal.headers.get("Retry-After") or -1) <= 10
    session.accept_offer(wire.now, ANSWER)
    wire.run(1)
    assert alice.one(ev.OfferAnswered).response.status == 200
    session.hang_up(wire.now)
    assert_clean(alice, bob)


def test_an_old_cseq_gets_500() -> None:
    wire = Wire()
    alice, call, bob, _ = established(wire)
    call.offer(wire.now, HOLD)
    wire.run(1)
    wire.send(alice.address, bob.address, reinvite(alice, "old", -1))
    wire.run(1)
    assert len(bob.sent("SIP/2.0 500")) >= 1
    assert len(bob.of(ev.Offered)) == 1
    call.hang_up(wire.now)
    assert_clean(alice, bob)


def test_cancel_of_a_reinvite_leaves_the_call() -> None:
    wire = Wire()
    alice, call, bob, session = established(wire)
    del bob.react[ev.Offered]
    call.offer(wire.now, HOLD)
    wire.run(1)
    cancel = alice.sent("INVITE")[-1]
    assert isinstance(cancel, Request)
    cancel.method = "CANCEL"
    cancel.body = b""
    for name in ("Content-Type", "Contact", "Allow"):
        cancel.headers.remove(name)
    cancel.headers.set("CSeq", f"{cancel.cseq.number} CANCEL")
    wire.send(alice.address, bob.address, cancel.to_bytes())
    wire.run(1)
    assert alice.one(ev.OfferAnswered).response.status == 487
    session.accept_offer(wire.now, ANSWER)
    wire.run(40)
    assert (bob.of(ev.Cancelled), bob.of(ev.Ended)) == ([], [])
    assert bob.stack.session_count == 1
    call.hang_up(wire.now)
    wire.run(1)
    assert len(bob.of(ev.Ended)) == 1
    assert_clean(alice, bob)


def test_a_late_cancel_of_the_first_invite_does_not_touch_a_reinvite() -> None:
    wire = Wire()
    alice, call, bob, session = established(wire)
    del bob.react[ev.Offered]
    first_invite = alice.sent("INVITE")[0]
    call.offer(wire.now, HOLD)
    wire.run(1)
    cancel = first_invite.to_bytes().replace(b"INVITE", b"CANCEL").replace(b"Content-Type", b"X-Type")
    wire.send(alice.address, bob.address, cancel)
    wire.run(1)
    assert [each.cseq.method for each in bob.sent("SIP/2.0 200")] == ["INVITE", "CANCEL"]
    session.accept_offer(wire.now, ANSWER)
    wire.run(1)
    assert alice.one(ev.OfferAnswered).response.status == 200


@pytest.mark.parametrize("by_callee", [False, True])
def test_bye_while_a_reinvite_is_open_answers_it(by_callee: bool) -> None:
    wire = Wire()
    alice, call, bob, session = established(wire)
    del bob.react[ev.Offered]
    call.offer(wire.now, HOLD)
    wire.run(1)
    (session if by_callee else call).hang_up(wire.now)
    wire.run(1)
    assert len(bob.sent("SIP/2.0 487")) == 1
    assert len((alice if by_callee else bob).of(ev.Ended)) == 1
    assert_clean(alice, bob)


def test_a_200_that_crosses_our_bye_is_acknowledged() -> None:
    wire = Wire()
    alice, call, bob, session = established(wire)
    del bob.react[ev.Offered]
    call.offer(wire.now, HOLD)
    wire.run(1)
    session.accept_offer(wire.now, ANSWER)
    call.hang_up(wire.now)
    wire.run(1)
    assert alice.of(ev.OfferAnswered) == []
    assert len(alice.sent("ACK")) == 2
    assert_clean(alice, bob)


def test_an_unanswered_reinvite_of_a_peer_that_died_leaves_nothing() -> None:
    wire = Wire()
    alice, call, bob, _ = established(wire)
    del bob.react[ev.Offered]
    call.offer(wire.now, HOLD)
    wire.run(1)
    wire.drop = lambda datagram: datagram.source == bob.address
    call.hang_up(wire.now)
    wire.settle()
    assert alice.stack.transaction_count == 0
    assert alice.of(ev.Ended) == []


def test_a_reinvite_moves_the_remote_target() -> None:
    wire = Wire()
    alice, call, bob, session = established(wire)
    moved = End(wire, "192.0.2.7", 7)
    call.offer(wire.now, HOLD)
    wire.run(1)
    request = reinvite(alice, "moved", 1).replace(
        b"Contact: <sip:alice@192.0.2.1:5060>", b"Contact: <sip:alice@192.0.2.7>"
    )
    wire.send(alice.address, bob.address, request)
    wire.run(0.1)
    session.hang_up(wire.now)
    ack = alice.sent("ACK")[-1]
    ack.headers.set("CSeq", f"{ack.cseq.number + 1} ACK")
    wire.send(alice.address, bob.address, ack.to_bytes())
    wire.run(1)
    bye = next(each for each in wire.log if each.line.startswith("BYE"))
    assert bye.destination == moved.address
    assert bye.line == "BYE sip:alice@192.0.2.7 SIP/2.0"
