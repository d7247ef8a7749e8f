"""Messages: typed views that follow edits, the wire form, and responses built from requests."""

from __future__ import annotations

import pytest

from engine.sip.grammar import SipSyntaxError
from engine.sip.headers import Headers, Via
from engine.sip.message import REASONS, Request, Response, response_to
from engine.sip.parse import parse_datagram
from engine.sip.uri import SipUri

BASE = [
    ("Via", "SIP/2.0/UDP p.example.com;branch=z9hG4bK2, SIP/2.0/TCP c.example.com;branch=z9hG4bK1"),
    ("Record-Route", "<sip:p.example.com;lr>"), ("Max-Forwards", "69"), ("From", "A <sip:a@example.com>;tag=f1"),
    ("To", "<sip:b@example.com>"), ("Call-ID", "c1"), ("CSeq", "7 INVITE"), ("Timestamp", "54"),
]  # fmt: skip


def invite(*extra: tuple[str, str], body: bytes = b"") -> Request:
    return Request("INVITE", SipUri.parse("sip:b@example.com"), Headers([*BASE, *extra]), body)


def test_typed_views() -> None:
    message = invite(
        ("Contact", "<sip:a@192.0.2.1>;expires=60, <sip:a@192.0.2.2>"), ("Expires", "0120"), ("Route", "<sip:r;lr>"),
        ("Supported", "100rel,timer"), ("k", "replaces"), ("Content-Type", "application/SDP"),
    )  # fmt: skip
    assert [via.host for via in message.vias] == ["p.example.com", "c.example.com"]
    assert message.via.transport == "UDP"
    assert (message.from_.tag, message.to.tag, message.call_id) == ("f1", None, "c1")
    assert (message.cseq.number, message.cseq.method) == (7, "INVITE")
    assert message.contact == message.contacts[0]
    assert len(message.contacts) == 2
    assert [str(route) for route in message.routes] == ["<sip:r;lr>"]
    assert [str(route) for route in message.record_routes] == ["<sip:p.example.com;lr>"]
    assert (message.max_forwards, message.expires) == (69, 120)
    assert message.options("supported") == {"100rel", "timer", "replaces"}
    assert message.options("Require") == frozenset()
    assert message.content_type is not None
    assert message.content_type.subtype == "sdp"


def test_views_follow_edits() -> None:
    message = invite()
    assert message.via is message.via
    message.headers.replace_first("Via", str(message.via.with_params(received="192.0.2.9")))
    assert message.via.received == "192.0.2.9"
    assert len(message.vias) == 2
    message.headers.prepend("Via", "SIP/2.0/WS x")
    assert message.via == Via("SIP/2.0", "WS", "x", None)


def test_absent_headers() -> None:
    message = Request("OPTIONS", SipUri.parse("sip:h"))
    assert message.contact is None
    assert message.content_type is None
    assert (message.max_forwards, message.expires) == (None, None)
    assert message.contacts == message.routes == message.record_routes == ()
    for name in ("via", "from_", "to", "call_id", "cseq"):
        with pytest.raises(SipSyntaxError, match="missing"):
            getattr(message, name)


def test_wildcard_contact() -> None:
    assert invite(("Contact", "*")).wildcard_contact
    assert invite(("m", "*")).contacts == ()
    assert not invite().wildcard_contact
    with pytest.raises(SipSyntaxError):
        _ = invite(("Contact", "*, <sip:a@h>")).contacts


@pytest.mark.parametrize(
    ("value", "hops", "seconds"),
    [("300", None, 300), ("255", 255, 255), ("0", 0, 0), ("9" * 5000, None, 2**32 - 1)],
)
def test_overlarge_numbers(value: str, hops: int | None, seconds: int) -> None:
    message = Request("X", SipUri.parse("sip:h"), Headers([("Max-Forwards", value), ("Expires", value)]))
    assert message.max_forwards == hops
    assert message.expires == seconds


def test_wire_form() -> None:
    message = Request("INFO", SipUri.parse("sip:b@h"), Headers([("v", "x"), ("l", "99")]), b"ab\x00")
    assert message.to_bytes() == b"INFO sip:b@h SIP/2.0\r\nVia: x\r\nContent-Length: 3\r\n\r\nab\x00"
    assert Response(100, "").to_bytes() == b"SIP/2.0 100 \r\nContent-Length: 0\r\n\r\n"


def test_no_line_break_leaves_in_a_start_line() -> None:
    with pytest.raises(ValueError, match="line break"):
        Response(200, "OK\r\nVia: x").to_bytes()


def test_response_copies_what_the_rfc_says() -> None:
    response = response_to(invite(), 180, to_tag="t9", headers=[("Contact", "<sip:me@h>")], body=b"x")
    assert (response.status, response.reason, response.body) == (180, "Ringing", b"x")
    assert response.headers.items() == [
        BASE[0], BASE[3], ("To", "<sip:b@example.com>;tag=t9"), BASE[5], BASE[6], BASE[1],
        ("Contact", "<sip:me@h>"),
    ]  # fmt: skip
    assert parse_datagram(response.to_bytes()) == response


def test_existing_to_tag_stays() -> None:
    request = invite()
    request.headers.set("To", "<sip:b@example.com>;tag=old")
    assert response_to(request, 200, to_tag="new").to.tag == "old"


@pytest.mark.parametrize(
    ("status", "method", "copied"), [(183, "INVITE", True), (200, "INVITE", True), (202, "SUBSCRIBE", True),
                                     (486, "INVITE", False), (200, "OPTIONS", False), (100, "INVITE", False)],
)  # fmt: skip
def test_record_route_only_where_a_dialog_may_begin(status: int, method: str, copied: bool) -> None:
    request = Request(method, SipUri.parse("sip:b@h"), Headers(BASE))
    response = response_to(request, status)
    assert ("Record-Route" in response.headers) == copied
    assert ("Timestamp" in response.headers) == (status == 100)


def test_reason_phrases() -> None:
    assert response_to(invite(), 486).reason == "Busy Here"
    assert response_to(invite(), 486, "Nope").reason == "Nope"
    assert response_to(invite(), 599).reason == ""
    assert all(100 <= status <= 699 and phrase for status, phrase in REASONS.items())


def test_a_broken_to_is_copied_untouched() -> None:
    request = Request("INVITE", SipUri.parse("sip:b@h"), Headers([("To", '"x <sip:a@h>')]))
    assert response_to(request, 400, to_tag="t").headers.items() == [("To", '"x <sip:a@h>')]
