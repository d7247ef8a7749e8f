from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from engine.call.params import call_params, party, sip_params, status_callback
from engine.call.routing import EVENTS
from engine.sip.headers import NameAddr
from engine.sip.message import Request
from engine.sip.parse import parse_datagram
from engine.sip.uri import parse_uri
from engine.store import CallRow

NOW = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
ROW = CallRow(
    "CA" + "1" * 32,
    "AC" + "2" * 32,
    "sip:alice@10.0.0.2",
    "+14155550100",
    "inbound",
    "ringing",
    NOW,
    source_ip="10.0.0.2",
    status_callback="http://app/status",
    status_callback_event=EVENTS,
)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("<sip:+14155550100@trunk.example;user=phone>;tag=1", "+14155550100"),
        ('"Alice" <sip:alice@10.0.0.2:5062;transport=udp>', "sip:alice@10.0.0.2"),
        ("<sip:1000@127.0.0.1>", "sip:1000@127.0.0.1"),
        ("<sip:bob@[2001:db8::1]:5060>", "sip:bob@[2001:db8::1]"),
        ("<sip:10.0.0.9>", "sip:10.0.0.9"),
        ("<tel:+14155550100>", "tel:+14155550100"),
    ],
)
def test_a_party_is_a_number_or_a_sip_address(address: str, shown: str) -> None:
    assert party(NameAddr.parse(address)) == shown


def test_the_standard_parameters() -> None:
    params = dict(call_params(ROW))
    assert params["From"] == params["Caller"] == "sip:alice@10.0.0.2"
    assert params["To"] == params["Called"] == "+14155550100"
    assert (params["ApiVersion"], params["Direction"], params["CallStatus"]) == (
        "2010-04-01",
        "inbound",
        "ringing",
    )
    assert params["CallerCountry"] == params["ToZip"] == ""
    assert "ParentCallSid" not in params


def test_a_sip_leg_adds_its_own() -> None:
    request = parse_datagram(
        b"INVITE sip:1000@pbx.example SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.2;branch=z9hG4bKa\r\n"
        b"From: <sip:a@b>;tag=1\r\nTo: <sip:1000@pbx.example>\r\nCall-ID: x1\r\nCSeq: 1 INVITE\r\n"
        b"X-Order: 42\r\nx-note: two words\r\nContact: <sip:a@10.0.0.2>\r\n\r\n"
    )
    assert isinstance(request, Request)
    params = dict(sip_params(request, ROW))
    assert params["SipDomain"] == "pbx.example"
    assert params["SipCallId"] == "x1"
    assert params["SipSourceIp"] == "10.0.0.2"
    assert params["SipHeader_X-Order"] == "42"
    assert params["SipHeader_x-note"] == "two words"


@pytest.mark.parametrize(
    ("event", "status"), [("initiated", "initiated"), ("ringing", "ringing"), ("answered", "in-progress")]
)
def test_a_callback_says_what_happened(event: str, status: str) -> None:
    callback = status_callback(ROW, event, NOW, 3)
    assert callback is not None
    params = dict(callback.params)
    assert params["CallStatus"] == status
    assert params["SequenceNumber"] == "3"
    assert params["CallbackSource"] == "call-progress-events"
    assert params["Timestamp"] == "Mon, 05 Jan 2026 09:00:00 +0000"
    assert "CallDuration" not in params


def test_the_last_callback_has_seconds_and_begun_minutes() -> None:
    ended = replace(ROW, status="completed", duration=61, sip_status=200)
    callback = status_callback(ended, "completed", NOW, 4)
    assert callback is not None
    params = dict(callback.params)
    assert (params["CallDuration"], params["Duration"], params["SipResponseCode"]) == ("61", "2", "200")
    assert params["CallStatus"] == "completed"


def test_nobody_is_told_what_they_did_not_ask_for() -> None:
    assert status_callback(replace(ROW, status_callback_event=("completed",)), "ringing", NOW, 0) is None
    assert status_callback(replace(ROW, status_callback=""), "completed", NOW, 0) is None


def test_uris_that_are_no_sip_are_shown_as_they_are() -> None:
    assert party(parse_uri("tel:+1555")) == "tel:+1555"
