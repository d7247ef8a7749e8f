"""The parser's door: what gets in, what is answered with what, and that nothing at all makes it raise."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.sip.message import Request, Response, response_to
from engine.sip.parse import (
    MAX_DATAGRAM,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    MAX_VIAS,
    Malformed,
    parse_datagram,
)

CALLFLOWS = Path(__file__).parents[2] / ".." / "shared" / "data" / "callflows"

BODY = b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\n"
INVITE = b"\r\n".join([
    b"INVITE sip:bob@example.com;transport=tcp SIP/2.0",
    b"Via: SIP/2.0/UDP 192.0.2.1:5060;rport;branch=z9hG4bK1, SIP/2.0/TCP h;branch=z9hG4bK0",
    b"Max-Forwards: 70",
    b'From: "Alice \\"A\\" B, C" <sip:alice@example.com>;tag=a1',
    b"To: sip:bob@example.com",
    b"Call-ID: 1@192.0.2.1",
    b"CSeq: 1 INVITE",
    b"Contact: <sip:alice@192.0.2.1>",
    b"Date: Sat, 13 Nov 2010 23:29:00 GMT",
    b"Subject: folded\r\n\t here",
    b"Content-Type: application/sdp",
    b"Content-Length: %d" % len(BODY),
    b"", BODY,
])  # fmt: skip
OK = b"\r\n".join([
    b"SIP/2.0 200 OK", b"v: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1", b"f: <sip:a@h>;tag=1",
    b"t: <sip:b@h>;tag=2", b"i: 1", b"CSeq: 1 INVITE", b"", b"",
])  # fmt: skip


def accepted(data: bytes) -> Request | Response:
    message = parse_datagram(data)
    assert not isinstance(message, Malformed), message.reason
    return message


def refused(data: bytes) -> Malformed:
    message = parse_datagram(data)
    assert isinstance(message, Malformed)
    return message


def with_line(name: bytes, line: bytes) -> bytes:
    """INVITE with its header `name` replaced by `line`; b"" drops it."""
    lines = INVITE.replace(b"\r\n\t", b" ").split(b"\r\n")
    place = next(i for i, text in enumerate(lines) if text.startswith(name))
    return b"\r\n".join(lines[:place] + ([line] if line else []) + lines[place + 1 :])


def test_request() -> None:
    message = accepted(INVITE)
    assert isinstance(message, Request)
    assert str(message.uri) == "sip:bob@example.com;transport=tcp"
    assert message.from_.display == 'Alice "A" B, C'
    assert message.headers.get("Subject") == "folded here"
    assert message.body == BODY
    assert accepted(message.to_bytes()) == message


def test_response() -> None:
    message = accepted(OK)
    assert isinstance(message, Response)
    assert (message.status, message.reason, message.to.tag) == (200, "OK", "2")
    assert accepted(OK.replace(b"200 OK", b"200")).body == b""


@pytest.mark.parametrize("data", [b"", b"\r\n", b"\r\n\r\n", b"\0\0\0\0", b"\r\n\r\n\r\n", b" "])
def test_keep_alives(data: bytes) -> None:
    assert parse_datagram(data) == Malformed("keep-alive", 0, None)


def test_leading_line_breaks_are_skipped() -> None:
    assert accepted(b"\r\n\r\n" + INVITE) == accepted(INVITE)


def test_body_is_cut_to_content_length() -> None:
    assert accepted(INVITE + b"INVITE sip:x SIP/2.0") == accepted(INVITE)
    assert accepted(with_line(b"Content-Length", b"")).body == BODY
    assert accepted(with_line(b"Content-Length", b"l: 003")).body == b"v=0"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (b"INVITE", b"INVITE  sip:bob@example.com SIP/2.0"),
        (b"INVITE", b"INVITE sip:bob@example.com SIP/2.0 "),
        (b"INVITE", b"INVITE sip:bob@example.com; lr SIP/2.0"),
        (b"INVITE", b"INVITE <sip:bob@example.com> SIP/2.0"),
        (b"INVITE", b"INVITE sip:bob@example.com?Route=x SIP/2.0"),
        (b"INVITE", b"IN(VITE sip:bob@example.com SIP/2.0"),
        (b"INVITE", b"INVITE bob SIP/2.0"),
        (b"INVITE", b"invite sip:bob@example.com SIP/2.0"),
        (b"From", b""),
        (b"To", b""),
        (b"Call-ID", b""),
        (b"CSeq", b""),
        (b"From", b'From: "Alice <sip:a@h>;tag=1'),
        (b"From", b"From: Alice, B <sip:a@h>;tag=1"),
        (b"From", b"From: <sip:a@h>;tag"),
        (b"From", b'From: <sip:a@h>;tag=""'),
        (b"To", b"To: <sip:a@h>\r\nt: <sip:b@h>"),
        (b"To", b"To: < sip:a@h >"),
        (b"Call-ID", b"Call-ID: a b"),
        (b"Call-ID", b"Call-ID:"),
        (b"CSeq", b"CSeq: 2147483648 INVITE"),
        (b"CSeq", b"CSeq: 1 ACK"),
        (b"CSeq", b"CSeq: 1 INVITE\r\nCSeq: 1 INVITE"),
        (b"Max-Forwards", b"Max-Forwards: seventy"),
        (b"Max-Forwards", b"Max-Forwards: -1"),
        (b"Contact", b"Contact: sip:a@h?Route=x"),
        (b"Contact", b"Contact: *, <sip:a@h>"),
        (b"Contact", b"Contact: <sip:a@h>;;"),
        (b"Contact", b"Route: <sip:a@h"),
        (b"Contact", b"Expires: soon"),
        (b"Contact", b"No colon"),
        (b"Contact", b"B\xc3\xa9: x"),
        (b"Contact", b": x"),
        (b"Contact", b"Subject: bare\nVia: x"),
        (b"Contact", b"Subject: bare\rVia: x"),
        (b"Date", b"Date: Fri, 01 Jan 2010 16:00:00 EST"),
        (b"Content-Type", b"Content-Type: sdp"),
        (b"Content-Length", b"Content-Length: 9999"),
        (b"Content-Length", b"Content-Length: -5"),
        (b"Content-Length", b"Content-Length: " + b"9" * 9000),
        (b"Content-Length", b"Content-Length: 1\r\nl: 1"),
        (b"Content-Length", b"Content-Length: 1, 2"),
    ],
)
def test_bad_requests_are_answered_400(name: bytes, line: bytes) -> None:
    malformed = refused(with_line(name, line))
    assert malformed.status == 400
    assert malformed.request is not None
    assert [via.host for via in malformed.request.vias] == ["192.0.2.1", "h"]
    answer = response_to(malformed.request, 400, to_tag="x").to_bytes()
    assert answer.count(b"\r\nVia: ") == 2
    assert b"Route" not in answer


@pytest.mark.parametrize(
    "line", [b"", b"Via: SIP/2.0/UDP", b"Via: nonsense", b"Via:", b"Via: SIP/2.0/UDP [::x];branch=z9hG4bK1"]
)
def test_without_a_via_there_is_nowhere_to_answer_to(line: bytes) -> None:
    malformed = refused(with_line(b"Via", line))
    assert (malformed.status, malformed.request) == (400, None)


def test_a_broken_via_still_tells_the_way_back() -> None:
    malformed = refused(with_line(b"Via", b"Via: SIP/2.0/UDP 192.0.2.15;branch=z9hG4bK7;,;,,"))
    assert malformed.request is not None
    assert str(malformed.request.via) == "SIP/2.0/UDP 192.0.2.15;branch=z9hG4bK7"


def test_unknown_version_is_505() -> None:
    assert refused(with_line(b"INVITE", b"INVITE sip:b@h SIP/3.0")).status == 505


@pytest.mark.parametrize(
    "start",
    [b"SIP/2.0 99 x", b"SIP/2.0 700 x", b"SIP/2.0 4294967301 x", b"SIP/2.0 0200 x", b"SIP/2.0 2 x", b"SIP/2.0",
     b"SIP/2.0 20x OK", b"SIP/7.0 200 OK", b"SIP/2.0  200 OK"],
)  # fmt: skip
def test_bad_responses_are_dropped_in_silence(start: bytes) -> None:
    malformed = refused(OK.replace(b"SIP/2.0 200 OK", start))
    assert (malformed.status, malformed.request) == (0, None)


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"\x00\x01\x00\x08\x21\x12\xa4\x42" * 4, b"x", b"a b c\r\n\r\n",
     OK.replace(b"CSeq: 1 INVITE", b"CSeq: 9999999999 INVITE"),
     with_line(b"CSeq", b"CSeq: 2 INVITE").replace(b"INVITE sip:", b"ACK sip:")],
)  # fmt: skip
def test_no_answer_to_responses_acks_and_what_is_not_sip(data: bytes) -> None:
    malformed = refused(data)
    assert (malformed.status, malformed.request) == (0, None)


def test_limits() -> None:
    assert refused(INVITE + b"x" * MAX_DATAGRAM).status == 513
    assert refused(with_line(b"Subject", b"Subject: " + b"x" * MAX_HEADER_BYTES)).status == 513
    assert refused(with_line(b"Subject", b"\r\n".join([b"Subject: x"] * MAX_HEADERS))).status == 400
    vias = [b"Via: SIP/2.0/UDP h;branch=z9hG4bK1"]
    assert len(accepted(with_line(b"Via", b"\r\n".join(vias * MAX_VIAS))).vias) == MAX_VIAS
    assert refused(with_line(b"Via", b"\r\n".join(vias * (MAX_VIAS + 1)))).request is None


def test_invalid_utf8_never_reaches_a_string_that_cannot_be_encoded() -> None:
    message = accepted(with_line(b"Subject", b'Subject: caf\xe9 "\xff\xfe'))
    message.headers.items()[-2][1].encode()
    assert message.headers.get("Subject") == 'caf\ufffd "\ufffd\ufffd'


@given(st.binary(max_size=300))
def test_arbitrary_bytes_never_raise(data: bytes) -> None:
    parse_datagram(data)
    parse_datagram(b"INVITE sip:a@h SIP/2.0\r\nVia: " + data + b"\r\n\r\n")
    parse_datagram(b"SIP/2.0 200 OK\r\n" + data + b"\r\n\r\n")


@settings(max_examples=400)
@given(
    st.sampled_from([INVITE, OK]),
    st.lists(
        st.tuples(st.integers(0, 700), st.integers(0, 12), st.binary(max_size=6) | st.sampled_from(
            [b"\r\n", b'"', b"<", b">", b",", b";", b"\r", b"\n ", b"%", b"Via: ", b"\\", b":", b"=", b"\xff"])),
        min_size=1, max_size=5),
)  # fmt: skip
def test_mutations_parse_and_round_trip_or_can_be_answered(
    data: bytes, edits: list[tuple[int, int, bytes]]
) -> None:
    for at, drop, put in edits:
        data = data[:at] + put + data[at + drop :]
    message = parse_datagram(data)
    if not isinstance(message, Malformed):
        assert parse_datagram(message.to_bytes()) == message
    elif message.request is not None:
        assert message.status >= 400
        answer = response_to(message.request, message.status, to_tag="t").to_bytes()
        assert answer.count(b"\r\n\r\n") == 1
        assert all(b":" in line for line in answer.rstrip().split(b"\r\n")[1:])


@pytest.mark.parametrize(
    "filler",
    [b'"' * 30_001, b"," * 30_000, b"<" * 30_000, b";a=" * 10_000, b" " * 30_000 + b"x", b"\\" * 30_000,
     b"\r\n " * 10_000, b"a:\r\n" * 7_000, b"(" * 30_000, b'"\\' * 15_000],
)  # fmt: skip
@pytest.mark.parametrize("name", [b"Via", b"From", b"Contact", b"CSeq", b"Subject"])
def test_hostile_headers_cost_linear_time(name: bytes, filler: bytes) -> None:
    data = with_line(name, name + b": " + filler)
    began = time.perf_counter()
    parse_datagram(data)
    assert time.perf_counter() - began < 0.5  # a quadratic scan takes minutes


def test_call_flows_of_the_rfcs() -> None:
    files = sorted(CALLFLOWS.rglob("*.sip"))
    if not files:
        pytest.skip("call-flow corpus is not beside the checkout")
    # RFC 5626 §9.3 to §9.5 print their messages abridged, without Via: those stand for what must be refused.
    abridged = [path for path in files if b"\r\nVia:" not in path.read_bytes()]
    assert len(abridged) == 11
    for path in abridged:
        assert refused(path.read_bytes()).reason == "Via is missing"
    for path in set(files) - set(abridged):
        message = accepted(path.read_bytes())
        assert accepted(message.to_bytes()) == message, path
        assert message.cseq.number > 0
