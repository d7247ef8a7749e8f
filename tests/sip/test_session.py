"""Whole calls between two real stacks: the ways they begin, and the ways they end."""

from __future__ import annotations

import pytest

from engine.sip import events as ev
from engine.sip.dialog import Dialog
from engine.sip.message import Request, Response
from engine.sip.parse import parse_datagram
from tests.sip.ends import (
    ANSWER,
    BACKOFF,
    HOLD,
    OFFER,
    End,
    assert_clean,
    established,
    first,
    kinds,
    pair,
    starts,
)
from tests.wire import Wire

# --- a call that goes well ---------------------------------------------------------------------------------------


def test_a_plain_call() -> None:
    wire = Wire()
    alice, bob = pair(wire)
    call = alice.call(bob.uri)
    wire.run(1)
    bob.session.ring(wire.now)
    wire.run(1)
    bob.session.answer(wire.now, ANSWER)
    wire.run(1)
    call.hang_up(wire.now, [("Reason", 'Q.850;cause=16;text="bye"')])
    wire.run(1)
    assert kinds(alice) == ["Progressed", "Answered"]
    assert kinds(bob) == ["Invited", "Acknowledged", "Ended"]
    assert bob.one(ev.Invited).request.body == OFFER
    assert alice.one(ev.Answered).response.body == ANSWER
    ended = bob.one(ev.Ended)
    assert (ended.by, ended.reason) == (ev.Party.REMOTE, 'Q.850;cause=16;text="bye"')
    assert [(each.source[0][-1], each.line.removesuffix(" SIP/2.0")) for each in wire.log] == [
        ("1", "INVITE sip:bob@192.0.2.2"),
        ("2", "SIP/2.0 100 Trying"),
        ("2", "SIP/2.0 180 Ringing"),
        ("2", "SIP/2.0 200 OK"),
        ("1", "ACK sip:bob@192.0.2.2:5060"),
        ("1", "BYE sip:bob@192.0.2.2:5060"),
        ("2", "SIP/2.0 200 OK"),
    ]
    assert_clean(alice, bob)


def test_the_messages_of_a_call_belong_together() -> None:
    wire = Wire()
    alice, call, bob, _ = established(wire)
    call.hang_up(wire.now)
    wire.run(1)
    invite, ack, bye = (alice.sent(method)[0] for method in ("INVITE", "ACK", "BYE"))
    trying, ok = bob.sent("SIP/2.0")[:2]
    assert isinstance(ok, Response)
    assert trying.to.tag is None
    assert ok.to.tag
    assert ok.to.tag == ack.to.tag == bye.to.tag
    assert {message.from_.tag for message in (invite, ok, ack, bye)} == {invite.from_.tag}
    assert {message.call_id for message in (invite, ok, ack, bye)} == {invite.call_id}
    number = invite.cseq.number
    assert [str(message.cseq) for message in (ack, bye)] == [f"{number} ACK", f"{number + 1} BYE"]
    assert len({message.via.branch for message in (invite, ack, bye)}) == 3
    assert ok.via.branch == invite.via.branch
    assert ok.contact is not None
    assert isinstance(ack, Request)
    assert ack.uri == ok.contact.uri
    assert "INFO" in ok.options("Allow")


def test_the_callee_hangs_up() -> None:
    wire = Wire()
    alice, _, bob, session = established(wire)
    session.hang_up(wire.now)
    wire.run(1)
    assert alice.one(ev.Ended).by is ev.Party.REMOTE
    assert bob.of(ev.Ended) == []
    assert bob.sent("BYE")[0].cseq.number == 1
    assert_clean(alice, bob)


def test_both_hang_up_at_once() -> None:
    wire = Wire()
    alice, call, bob, session = established(wire)
    call.hang_up(wire.now)
    session.hang_up(wire.now)
    wire.run(1)
    assert len(alice.sent("BYE")) == len(bob.sent("BYE")) == 1
    assert alice.of(ev.Ended) == bob.of(ev.Ended) == []
    assert_clean(alice, bob)


def test_hanging_up_twice_says_bye_once() -> None:
    wire = Wire()
    alice, call, bob, _ = established(wire)
    call.hang_up(wire.now)
    call.hang_up(wire.now)
    call.info(wire.now, "application/dtmf-relay", b"Signal=1")
    assert not call.offer(wire.now, HOLD)
    wire.run(1)
    assert len(alice.sent("BYE")) == 1
    assert alice.sent("INFO") == []
    assert len(alice.sent("INVITE")) == 1
    assert_clean(alice, bob)


def test_late_offer() -> None:
    """No offer in the INVITE: the 200 offers, the ACK answers, and that is what the event carries."""
    wire = Wire()
    alice, bob = pair(wire)
    wire.drop = starts("ACK")
    bob.answering()
    alice.call(bob.uri, body=b"")
    wire.run(0.3)
    invite = bob.one(ev.Invited).request
    assert (invite.body, invite.content_type) == (b"", None)
    ack = alice.sent("ACK")[0]
    ack.headers.set("Content-Type", "application/sdp")
    ack.body = OFFER
    wire.drop = starts("nothing")
    wire.send(alice.address, bob.address, ack.to_bytes())
    wire.run(1)
    assert bob.one(ev.Acknowledged).request.body == OFFER


def test_info() -> None:
    wire = Wire()
    _, call, bob, _ = established(wire)
    call.info(wire.now, "application/dtmf-relay", b"Signal=5\r\nDuration=160")
    wire.run(1)
    info = bob.one(ev.InfoReceived).request
    assert (str(info.content_type), info.body) == ("application/dtmf-relay", b"Signal=5\r\nDuration=160")
    assert len(bob.sent("SIP/2.0 200")) == 2


# --- a call that is not answered ---------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [302, 404, 486, 503, 603])
def test_the_callee_refuses(status: int) -> None:
    wire = Wire()
    alice, bob = pair(wire)
    bob.react[ev.Invited] = lambda e: e.session.refuse(wire.now, status, [("Retry-After", "5")])
    wire.drop = first("ACK")
    alice.call(bob.uri)
    wire.run(10)
    refused = alice.one(ev.Refused)
    assert refused.status == status
    assert refused.response is not None
    assert refused.response.headers.get("Retry-After") == "5"
    assert bob.times(f"SIP/2.0 {status}") == [0, 0.5]
    invite, acks = alice.sent("INVITE")[0], alice.sent("ACK")
    assert len(acks) == 2
    assert all(ack.via == invite.via for ack in acks)
    assert acks[0].to.tag == bob.sent(f"SIP/2.0 {status}")[0].to.tag
    assert_clean(alice, bob)


def test_a_refusal_nobody_acknowledges_leaves_nothing() -> None:
    wire = Wire()
    alice, bob = pair(wire)
    bob.react[ev.Invited] = lambda e: e.session.refuse(wire.now, 486)
    wire.drop = starts("ACK")
    alice.call(bob.uri)
    wire.run(40)
    assert bob.times("SIP/2.0 486") == BACKOFF
    assert kinds(bob) == ["Invited"]
    assert_clean(alice, bob)


def test_cancel_after_ringing() -> None:
    wire = Wire()
    alice, bob = pair(wire)
    bob.react[ev.Invited] = lambda e: e.session.ring(wire.now)
    call = alice.call(bob.uri)
    wire.run(1)
    call.hang_up(wire.now)
    call.hang_up(wire.now)
    wire.run(1)
    assert len(bob.of(ev.Cancelled)) == 1
    assert alice.one(ev.Refused).status == 487
    (cancel,) = alice.sent("CANCEL")
    invite = alice.sent("INVITE")[0]
    assert isinstance(cancel, Request)
    assert isinstance(invite, Request)
    assert (cancel.via, cancel.uri, cancel.to.tag) == (invite.via, invite.uri, None)
    assert str(cancel.cseq) == f"{invite.cseq.number} CANCEL"
    ok, terminated = bob.sent("SIP/2.0")[2:]
    assert isinstance(ok, Response)
    assert (ok.status, ok.cseq.method) == (200, "CANCEL")
    assert ok.to.tag == terminated.to.tag
    bob.session.answer(wire.now, ANSWER)
    wire.run(1)
    assert bob.sent("SIP/2.0 200 OK")[1:] == []
    assert_clean(alice, bob)


def test_cancel_waits_for_a_provisional_response() -> None:
    wire = Wire()
    alice, bob = pair(wire)
    wire.drop = starts("SIP/2.0 100")
    call = alice.call(bob.uri)
    call.hang_up(wire.now)
    wire.run(0.4)
    assert alice.sent("CANCEL") == []
    wire.drop = starts("nothing")
    wire.run(1)
    assert len(alice.sent("CANCEL")) == 1
    assert len(bob.of(ev.Cancelled)) == 1
    assert alice.one(ev.Refused).status == 487
    assert_clean(alice, bob)


def test_cancel_crosses_the_200() -> None:
    wire = Wire()
    alice, bob = pair(wire)
    call = alice.call(bob.uri)
    wire.run(1)
    call.hang_up(wire.now)
    bob.session.answer(wire.now, ANSWER)
    wire.run(1)
    assert kinds(alice) == ["Refused"]
    assert kinds(bob) == ["Invited", "Acknowledged", "Ended"]
    assert len(alice.sent("ACK")) == len(alice.sent("BYE")) == 1
    assert_clean(alice, bob)


def test_the_200_that_crossed_cancel_comes_again() -> None:
    """ACK lost: the repeat is acknowledged, and only one BYE is sent."""
    wire = Wire()
    alice, bob = pair(wire)
    call = alice.call(bob.uri)
    wire.run(1)
    wire.drop = first("ACK")
    call.hang_up(wire.now)
    bob.session.answer(wire.now, ANSWER)
    wire.drop = starts("ACK", "BYE")
    wire.run(0.2)
    wire.drop = starts("nothing")
    wire.run(0.6)
    assert len(alice.sent("ACK")) == 2
    assert len({bye.via.branch for bye in alice.sent("BYE")}) == 1
    assert_clean(alice, bob)


def test_a_peer_that_ignores_cancel_is_given_up_after_32_seconds() -> None:
    wire = Wire()
    alice, bob = pair(wire)
    call = alice.call(bob.uri)
    wire.run(1)
    wire.drop = starts("CANCEL")
    call.hang_up(wire.now)
    wire.run(31.9)
    assert alice.events == []
    wire.run(0.2)
    assert (alice.one(ev.Refused).status, alice.one(ev.Refused).response) == (487, None)
    assert alice.stack.transaction_count == 0
    bob.session.refuse(wire.now, 480)
    assert_clean(alice, bob)


def test_the_callee_hangs_up_before_it_answered() -> None:
    wire = Wire()
    alice, bob = pair(wire)
    bob.react[ev.Invited] = lambda e: e.session.hang_up(wire.now)
    alice.call(bob.uri)
    wire.run(1)
    assert alice.one(ev.Refused).status == 480
    assert_clean(alice, bob)


def test_bye_in_an_early_dialog_is_a_cancel() -> None:
    wire = Wire()
    alice, bob = pair(wire)
    bob.react[ev.Invited] = lambda e: e.session.ring(wire.now)
    alice.call(bob.uri)
    wire.run(1)
    ringing = bob.sent("SIP/2.0 180")[0]
    invite = alice.sent("INVITE")[0]
    assert isinstance(invite, Request)
    assert isinstance(ringing, Response)
    bye = Dialog.as_uac(invite, ringing, None).request("BYE")
    bye.headers.prepend("Via", "SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKbye")
    wire.send(alice.address, bob.address, bye.to_bytes())
    wire.run(1)
    assert kinds(bob) == ["Invited", "Cancelled"]
    assert alice.one(ev.Refused).status == 487
    assert_clean(alice, bob)


# --- ending around the ACK ---------------------------------------------------------------------------------------


def test_the_callee_waits_for_the_ack_before_its_bye() -> None:
    wire = Wire()
    alice, bob = pair(wire)
    bob.answering()
    wire.drop = first("ACK")
    alice.call(bob.uri)
    wire.run(0.1)
    bob.session.hang_up(wire.now, [("Reason", "SIP;cause=200")])
    wire.run(0.1)
    assert bob.sent("BYE") == []
    wire.run(1)
    assert alice.one(ev.Ended).reason == "SIP;cause=200"
    assert kinds(bob) == ["Invited"]
    assert_clean(alice, bob)


def test_the_caller_hangs_up_before_its_ack_arrived() -> None:
    wire = Wire()
    alice, bob = pair(wire)
    bob.answering()
    wire.drop = starts("ACK")
    call = alice.call(bob.uri)
    wire.run_until(lambda: bool(alice.of(ev.Answered)))
    call.hang_up(wire.now)
    wire.run(40)
    assert kinds(bob) == ["Invited", "Ended"]
    assert len(bob.sent("SIP/2.0 200")) == 2, "the 200 of the INVITE is not repeated after the BYE"
    assert_clean(alice, bob)


@pytest.mark.parametrize("alice_too", [False, True])
def test_who_hung_up_hears_of_no_other_end(alice_too: bool) -> None:
    """Bob's BYE waits for an ACK that never comes; Alice's BYE, or Timer H's 32 s, end it first."""
    wire = Wire()
    alice, bob = pair(wire)
    bob.answering()
    wire.drop = starts("ACK")
    call = alice.call(bob.uri)
    wire.run(0.1)
    bob.session.hang_up(wire.now, [("Reason", "SIP;cause=200")])
    if alice_too:
        call.hang_up(wire.now)
    wire.run(40)
    assert kinds(bob) == ["Invited"]
    assert [each.headers.get("Reason") for each in bob.sent("BYE")] == (
        [] if alice_too else ["SIP;cause=200"]
    )
    assert len(alice.of(ev.Ended)) == (not alice_too)
    assert_clean(alice, bob)


def test_an_ack_after_the_end_is_not_told() -> None:
    wire = Wire()
    alice, bob = pair(wire)
    bob.answering()
    wire.drop = starts("ACK")
    call = alice.call(bob.uri)
    wire.run(0.1)
    call.hang_up(wire.now)
    wire.run(0.1)
    assert bob.session.timers == {}, "the 200 is not to be repeated any more"
    ack = alice.sent("ACK")[0]
    ack.headers.set("Via", str(alice.sent("INVITE")[0].via))
    wire.drop = lambda _: False
    wire.send(alice.address, bob.address, ack.to_bytes())
    wire.run(0.1)
    assert kinds(bob) == ["Invited", "Ended"]


def test_an_ack_on_the_branch_of_its_invite_counts() -> None:
    """RFC 2543 peers, and some of today's, send the ACK of a 2xx with the INVITE's Via."""
    wire = Wire()
    alice, bob = pair(wire)
    bob.answering()
    wire.drop = starts("ACK")
    alice.call(bob.uri)
    wire.run(0.1)
    wire.drop = starts("nothing")
    ack = alice.sent("ACK")[0]
    ack.headers.set("Via", str(alice.sent("INVITE")[0].via))
    wire.send(alice.address, bob.address, ack.to_bytes())
    wire.run(0.1)
    assert len(bob.of(ev.Acknowledged)) == 1


def test_everything_parses_and_nobody_repeats_a_branch_for_two_requests() -> None:
    wire = Wire(3, loss=0.2, duplicates=0.3, jitter=1.0)
    alice, call, bob, _ = established(wire)
    call.offer(wire.now, HOLD)
    call.info(wire.now, "application/dtmf-relay", b"Signal=1")
    wire.run(20)
    call.hang_up(wire.now)
    wire.settle()
    seen: dict[tuple[str | None, str], str] = {}
    for each in wire.log:
        message = parse_datagram(each.payload)
        assert isinstance(message, Request | Response), each.line
        if isinstance(message, Request):
            key = (message.via.branch, message.method)
            assert seen.setdefault(key, message.to_bytes().decode()) == message.to_bytes().decode()
    assert_clean(alice, bob)


# --- what the RFC wants of who lets it ring, and who closes ---------------------------------------------------


@pytest.mark.parametrize("status", [180, 183])
def test_a_call_that_rings_on_says_so_every_minute(status: int) -> None:
    wire = Wire()
    alice, bob = pair(wire)
    alice.call(bob.uri)
    wire.run(1)
    bob.session.ring(wire.now, status, ANSWER)
    wire.run(200)
    assert bob.times(f"SIP/2.0 {status}") == [0, 60, 120, 180]
    assert len({bytes(message.body) for message in bob.sent(f"SIP/2.0 {status}")}) == 1
    bob.session.answer(wire.now, ANSWER)
    wire.run(200)
    assert len(bob.times(f"SIP/2.0 {status}")) == 4
    alice.one(ev.Answered).session.hang_up(wire.now)
    assert_clean(alice, bob)


def test_the_minute_counts_from_the_last_provisional() -> None:
    wire = Wire()
    alice, bob = pair(wire)
    alice.call(bob.uri)
    wire.run(1)
    bob.session.ring(wire.now)
    wire.run(40)
    bob.session.ring(wire.now, 183)
    wire.run(59)
    assert len(bob.times("SIP/2.0 18")) == 2
    wire.run(2)
    assert bob.times("SIP/2.0 183") == [0, 60]
    bob.session.refuse(wire.now, 486)
    assert_clean(alice, bob)
    assert len(bob.times("SIP/2.0 18")) == 3


def test_a_call_that_was_only_tried_repeats_nothing() -> None:
    wire = Wire()
    alice, bob = pair(wire)
    alice.call(bob.uri)
    wire.run(200)
    assert bob.times("SIP/2.0") == [0]


def quiet(*ends: End) -> list[bool]:
    return [end.stack.is_quiet for end in ends]


def test_quiet_is_when_nobody_is_owed_anything() -> None:
    wire = Wire()
    alice, bob = pair(wire)
    assert quiet(alice, bob) == [True, True]
    call = alice.call(bob.uri)
    assert quiet(alice, bob) == [False, True]  # no final response yet
    wire.run(1)
    assert quiet(alice, bob) == [False, True]  # that is the caller's to wait for
    bob.session.answer(wire.now, ANSWER)
    assert quiet(alice, bob) == [False, False]  # no ACK yet
    wire.run(1)
    assert quiet(alice, bob) == [True, True]
    call.hang_up(wire.now)
    assert quiet(alice, bob) == [False, True]
    wire.run(1)
    assert quiet(alice, bob) == [True, True]
    assert min(alice.stack.transaction_count, bob.stack.transaction_count) > 0  # lingering for repeats


def test_a_bye_that_waits_for_the_ack_is_not_quiet() -> None:
    wire = Wire()
    alice, bob = pair(wire)
    bob.answering()
    wire.drop = first("ACK", 2)
    alice.call(bob.uri)
    wire.run(0.1)
    bob.session.hang_up(wire.now)
    assert quiet(bob) == [False]
    wire.run_until(lambda: bool(alice.of(ev.Ended)))
    wire.run(1)
    assert quiet(bob) == [True]


@pytest.mark.parametrize("header", [("Reason", "a\r\nX: y"), ("Reason", "a\nb"), ("Rea son", "a")])
def test_a_header_that_cannot_be_sent_changes_nothing(header: tuple[str, str]) -> None:
    wire = Wire()
    alice, bob = pair(wire)
    call = alice.call(bob.uri)
    wire.run(1)
    with pytest.raises(ValueError, match="header"):
        call.hang_up(wire.now, [header])
    with pytest.raises(ValueError, match="header"):
        bob.session.ring(wire.now, headers=[header])
    with pytest.raises(ValueError, match="header"):
        bob.session.answer(wire.now, ANSWER, [header])
    with pytest.raises(ValueError, match="header"):
        bob.session.refuse(wire.now, 486, [header])
    wire.run(100)
    assert bob.times("SIP/2.0") == [0]
    bob.session.answer(wire.now, ANSWER)
    for wait in (0, 1):  # before the ACK, and after
        wire.run(wait)
        with pytest.raises(ValueError, match="header"):
            bob.session.hang_up(wire.now, [header])
    assert bob.sent("BYE") == []
    bob.session.hang_up(wire.now, iter([("Reason", "SIP;cause=200")]))
    wire.run(1)
    assert alice.one(ev.Ended).reason == "SIP;cause=200"
    assert_clean(alice, bob)
