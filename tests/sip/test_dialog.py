"""Dialog state: route sets, sequence numbers, targets."""

from __future__ import annotations

import pytest

from engine.sip.dialog import Dialog, Role
from engine.sip.message import Request, Response
from engine.sip.parse import parse_datagram

INVITE = """INVITE sip:bob@192.0.2.2 SIP/2.0
Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1
From: "Alice" <sip:alice@192.0.2.1>;tag=a
To: <sip:bob@192.0.2.2>
Call-ID: c1
CSeq: 7 INVITE
{}

"""
OK = """SIP/2.0 200 OK
Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1
From: "Alice" <sip:alice@192.0.2.1>;tag=a
To: <sip:bob@192.0.2.2>;tag=b
Call-ID: c1
CSeq: 7 INVITE
{}

"""
CONTACT = "Contact: <sip:alice@192.0.2.10:5070;transport=udp>"
LOOSE = "Record-Route: <sip:p1.example.com;lr>, <sip:p2.example.com;lr>"
STRICT = "Record-Route: <sip:p1.example.com>, <sip:p2.example.com;lr>"


def invite(*headers: str) -> Request:
    message = parse_datagram(INVITE.format("\n".join(headers or ("X: y",))).replace("\n", "\r\n").encode())
    assert isinstance(message, Request)
    return message


def ok(*headers: str) -> Response:
    message = parse_datagram(OK.format("\n".join(headers or ("X: y",))).replace("\n", "\r\n").encode())
    assert isinstance(message, Response)
    return message


def uas(*headers: str) -> Dialog:
    return Dialog.as_uas(invite(*headers), "b", None)


def uac(*headers: str) -> Dialog:
    return Dialog.as_uac(invite(), ok(*headers), None)


def routes(request: Request) -> list[str]:
    return [str(route.uri) for route in request.routes]


def test_both_sides_hold_mirrored_state() -> None:
    callee, caller = uas(CONTACT), uac("Contact: <sip:bob@192.0.2.20>")
    assert (callee.role, caller.role) == (Role.UAS, Role.UAC)
    assert callee.id == ("c1", "b", "a")
    assert caller.id == ("c1", "a", "b")
    assert str(callee.remote_target) == "sip:alice@192.0.2.10:5070;transport=udp"
    assert str(caller.remote_target) == "sip:bob@192.0.2.20"
    assert (callee.local_sequence, callee.remote_sequence) == (0, 7)
    assert (caller.local_sequence, caller.remote_sequence) == (7, None)


def test_a_request_carries_the_dialog() -> None:
    bye = uas(CONTACT).request("BYE")
    assert bye.start_line() == "BYE sip:alice@192.0.2.10:5070;transport=udp SIP/2.0"
    assert bye.headers.items() == [
        ("Max-Forwards", "70"),
        ("From", "<sip:bob@192.0.2.2>;tag=b"),
        ("To", "Alice <sip:alice@192.0.2.1>;tag=a"),
        ("Call-ID", "c1"),
        ("CSeq", "1 BYE"),
    ]


def test_sequence_numbers_go_up_by_one_and_ack_names_its_own() -> None:
    dialog = uac()
    numbers = [dialog.request("INFO").cseq.number, dialog.request("ACK", 7).cseq.number]
    assert [*numbers, dialog.request("BYE").cseq.number] == [8, 7, 9]


def test_without_contact_the_peer_is_its_address() -> None:
    assert str(uas().remote_target) == "sip:alice@192.0.2.1"
    assert str(uac().remote_target) == "sip:bob@192.0.2.2"


def test_loose_routes_in_order_for_the_callee_and_reversed_for_the_caller() -> None:
    for dialog, expected in (
        (uas(CONTACT, LOOSE), ["sip:p1.example.com;lr", "sip:p2.example.com;lr"]),
        (uac(CONTACT, LOOSE), ["sip:p2.example.com;lr", "sip:p1.example.com;lr"]),
    ):
        request = dialog.request("BYE")
        assert str(request.uri) == "sip:alice@192.0.2.10:5070;transport=udp"
        assert routes(request) == expected
        assert str(dialog.next_hop()) == expected[0]


def test_a_strict_router_gets_itself_in_the_request_uri_and_the_target_last() -> None:
    """RFC 3261 §12.2.1.1: the remote target moves to the end of the Route."""
    dialog = uas(CONTACT, STRICT)
    request = dialog.request("BYE")
    assert str(request.uri) == "sip:p1.example.com"
    assert routes(request) == ["sip:p2.example.com;lr", "sip:alice@192.0.2.10:5070;transport=udp"]
    assert str(dialog.next_hop()) == "sip:p1.example.com"


def test_routes_survive_a_target_refresh() -> None:
    dialog = uas(CONTACT, LOOSE)
    dialog.refresh_target(ok("Contact: <sip:alice@192.0.2.11>", "Record-Route: <sip:evil.example;lr>"))
    assert str(dialog.remote_target) == "sip:alice@192.0.2.11"
    assert routes(dialog.request("BYE")) == ["sip:p1.example.com;lr", "sip:p2.example.com;lr"]
    dialog.refresh_target(ok())
    assert str(dialog.remote_target) == "sip:alice@192.0.2.11", "no Contact, no change"


@pytest.mark.parametrize("number", [0, 6, 7])
def test_an_old_sequence_number_is_out_of_order_and_changes_nothing(number: int) -> None:
    dialog = uas()
    request = invite()
    request.headers.set("CSeq", f"{number} INVITE")
    assert not dialog.in_order(request)
    assert dialog.remote_sequence == 7


def test_gaps_in_sequence_are_fine_and_the_first_number_is_free() -> None:
    dialog = uac()
    for number, accepted in ((100, True), (100, False), (5000, True), (101, False)):
        request = invite()
        request.headers.set("CSeq", f"{number} INVITE")
        assert dialog.in_order(request) is accepted


def test_what_may_not_stand_in_a_request_uri_is_left_out() -> None:
    """§19.1.1: a peer must not get a header into our requests by way of its Contact."""
    request = uas("Contact: <sip:alice@192.0.2.1;method=REFER;x=1?Route=%3Csip:evil.example%3E>").request(
        "BYE"
    )
    assert str(request.uri) == "sip:alice@192.0.2.1;x=1"


def test_a_contact_that_is_no_sip_uri() -> None:
    dialog = uas("Contact: <tel:+15551234>")
    assert dialog.request("BYE").start_line() == "BYE tel:+15551234 SIP/2.0"
