"""Header values and the header multimap: what is read, what is refused, and what is written back."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.sip.grammar import (
    MAX_LIST,
    MAX_PARAMS,
    SipSyntaxError,
    parse_params,
    quote,
    quoted_end,
    split_commas,
    unquote,
)
from engine.sip.headers import ContentType, CSeq, Headers, NameAddr, Via
from engine.sip.uri import OtherUri, SipUri

printable = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"))


@pytest.mark.parametrize(
    ("text", "display", "uri", "params"),
    [
        ("sip:a@h;tag=1", "", "sip:a@h", (("tag", "1"),)),
        ("<sip:a@h;lr>;tag=1", "", "sip:a@h;lr", (("tag", "1"),)),
        ("Bob Smith <sip:a@h>", "Bob Smith", "sip:a@h", ()),
        ("Bob<sip:a@h>", "Bob", "sip:a@h", ()),
        ('"Bell, A \\"x\\"" <sip:a@h> ; tag = z ;flag', 'Bell, A "x"', "sip:a@h", (("tag", "z"), ("flag", None))),
        ("Zoë (home) <sip:a@h>", "Zoë (home)", "sip:a@h", ()),
        ("<tel:+1;x=y>;a=\"b;c\"", "", "tel:+1;x=y", (("a", '"b;c"'),)),
    ],
)  # fmt: skip
def test_name_addr(text: str, display: str, uri: str, params: tuple[tuple[str, str | None], ...]) -> None:
    value = NameAddr.parse(text)
    assert (value.display, str(value.uri), value.params) == (display, uri, params)
    assert NameAddr.parse(str(value)) == value


@pytest.mark.parametrize(
    "text",
    ["", "<>", "<sip:a@h", "sip:a@h>", '"x <sip:a@h>', "Bell, A <sip:a@h>", "a@b <sip:a@h>", "< sip:a@h >",
     "<sip:a@h>;", "<sip:a@h>;;a", "<sip:a@h>x", "<sip:a@h>, <sip:b@h>", "sip:a@h?X=y", "sip:a@h, sip:b@h",
     '"x" sip:a@h', "<sip:a@h>;tag=", "<sip:a@h>;t\xe9=1", '<sip:a@h>;t="x', "bob"],
)  # fmt: skip
def test_name_addr_rejects(text: str) -> None:
    with pytest.raises(SipSyntaxError):
        NameAddr.parse(text)


def test_tags() -> None:
    value = NameAddr.parse("sip:a@h")
    assert value.tag is None
    assert str(value.with_tag("x1")) == "<sip:a@h>;tag=x1"
    assert value.with_tag("x1").with_tag("x2").params == (("tag", "x2"),)
    hostile = value.with_params(note='a"b\r\nVia: x')
    assert "\r" not in str(hostile)
    assert NameAddr.parse(str(hostile)).param("NOTE") == 'a"b  Via: x'


@given(printable, printable)
def test_any_display_and_parameter_survive(display: str, parameter: str) -> None:
    value = NameAddr(display, SipUri.parse("sip:a@h"), ()).with_params(p=parameter)
    again = NameAddr.parse(str(value))
    assert again.display == display
    assert again.param("p") == parameter


@given(st.text())
def test_quoting_is_undone_but_for_line_breaks(text: str) -> None:
    quoted = quote(text)
    assert quoted_end(quoted) == len(quoted)
    assert unquote(quoted) == text.replace("\r", " ").replace("\n", " ")


def test_via() -> None:
    via = Via.parse("SIP / 2.0 / UDP  first.example.com : 4000 ; ttl=16 ;maddr=224.2.0.1 ;branch=z9hG4bKa7c")
    assert (via.protocol, via.transport, via.host, via.port) == ("SIP/2.0", "UDP", "first.example.com", 4000)
    assert via.branch == "z9hG4bKa7c"
    assert via.sent_by == "first.example.com:4000"
    assert str(via) == "SIP/2.0/UDP first.example.com:4000;ttl=16;maddr=224.2.0.1;branch=z9hG4bKa7c"


def test_via_rport_and_received() -> None:
    via = Via.parse("SIP/2.0/UDP 10.0.0.1;rport;branch=z9hG4bK1")
    assert via.has_param("rport")
    assert via.rport is None
    answered = via.with_params(received="192.0.2.7", rport="5099")
    assert str(answered) == "SIP/2.0/UDP 10.0.0.1;rport=5099;branch=z9hG4bK1;received=192.0.2.7"
    assert (answered.received, answered.rport) == ("192.0.2.7", 5099)
    assert Via.parse("SIP/2.0/UDP h;rport=99999").rport is None


def test_via_ipv6() -> None:
    via = Via.parse("SIP/2.0/UDP [2001:db8::9:1]:5061;received=[2001:db8::9:255];branch=z9hG4bKas3")
    assert (via.host, via.port, via.received) == ("2001:db8::9:1", 5061, "2001:db8::9:255")
    assert Via.parse(str(via)) == via
    assert Via.parse("SIP/2.0/UDP [::1];received=2001:db8::1").received == "2001:db8::1"


@pytest.mark.parametrize(
    "text",
    ["", "SIP/2.0/UDP", "SIP/2.0/UDP ", "SIP/2.0 UDP h", "SIP/2.0/UDP h:", "SIP/2.0/UDP h:0",
     "SIP/2.0/UDP h:65536", "SIP/2.0/UDP h;;", "SIP/2.0/UDP h;", "SIP/2.0/UDP h;branch=", "SIP/2.0/UDP h x",
     "SIP/2.0/UDP [::g]", "SIP/2.0/UDP h, SIP/2.0/UDP i", "SIP/2.0/UDP é"],
)  # fmt: skip
def test_via_rejects(text: str) -> None:
    with pytest.raises(SipSyntaxError):
        Via.parse(text)


def test_cseq() -> None:
    assert CSeq.parse("0009  INVITE") == CSeq(9, "INVITE")
    assert str(CSeq(2147483647, "ACK")) == "2147483647 ACK"


@pytest.mark.parametrize("text", ["", "1", "INVITE", "1INVITE", "-1 ACK", "2147483648 ACK", "٣ ACK", "1 A B"])
def test_cseq_rejects(text: str) -> None:
    with pytest.raises(SipSyntaxError):
        CSeq.parse(text)


def test_content_type() -> None:
    value = ContentType.parse('Multipart / Mixed ;Boundary="a;b"')
    assert (value.type, value.subtype, value.param("boundary")) == ("multipart", "mixed", "a;b")
    assert ContentType.parse(str(value)) == value
    for text in ("", "text", "text/", "text/plain, text/html"):
        with pytest.raises(SipSyntaxError):
            ContentType.parse(text)


def test_names_fold() -> None:
    headers = Headers([("v", "1"), ("VIA", "2"), ("X-Odd", "3"), ("x", "90"), ("r", "<sip:a@h>")])
    assert headers.items() == [
        ("Via", "1"), ("Via", "2"), ("X-Odd", "3"), ("Session-Expires", "90"), ("Refer-To", "<sip:a@h>"),
    ]  # fmt: skip
    assert headers.get("via") == headers.get("V") == "1"
    assert headers.raw("v") == ["1", "2"]
    assert headers.get("x-odd") == "3"
    assert "Call-ID" not in headers
    assert len(headers) == 5


@pytest.mark.parametrize(
    ("compact", "name"),
    [("i", "Call-ID"), ("m", "Contact"), ("e", "Content-Encoding"), ("l", "Content-Length"), ("o", "Event"),
     ("c", "Content-Type"), ("f", "From"), ("s", "Subject"), ("k", "Supported"), ("t", "To"), ("v", "Via"),
     ("u", "Allow-Events"), ("r", "Refer-To"), ("b", "Referred-By"), ("x", "Session-Expires")],
)  # fmt: skip
def test_compact_forms(compact: str, name: str) -> None:
    assert Headers([(compact, "v")]).items() == Headers([(compact.upper(), "v")]).items() == [(name, "v")]


def test_only_lists_are_split() -> None:
    headers = Headers([
        ("Contact", '"A, B" <sip:a@h;x=1,2>;q=1, <sip:b@h>'), ("Contact", "<sip:c@h>"), ("Supported", ""),
        ("Date", "Sat, 13 Nov 2010 23:29:00 GMT"), ("Authorization", 'Digest a="b", c=d'), ("Allow", '"x, y'),
    ])  # fmt: skip
    assert headers.all("m") == ['"A, B" <sip:a@h;x=1,2>;q=1', "<sip:b@h>", "<sip:c@h>"]
    assert headers.all("Supported") == []
    assert len(headers.all("Date")) == len(headers.all("Authorization")) == 1
    assert headers.all("Allow") == ['"x, y']


def test_editing_keeps_order_and_forgets_typed_values() -> None:
    headers = Headers([("Via", "a, b"), ("To", "t"), ("Via", "c")])
    assert headers.typed("Via", len) == 2
    headers.prepend("Via", "top")
    assert headers.typed("Via", len) == 3
    headers.replace_first("Via", "TOP")
    headers.remove("to")
    headers.add("To", "u")
    assert headers.items() == [("Via", "TOP"), ("Via", "a, b"), ("Via", "c"), ("To", "u")]
    twin = headers.copy()
    twin.set("via", "only")
    assert twin.items() == [("Via", "only"), ("To", "u")]
    assert twin != headers
    assert headers.all("Via") == ["TOP", "a", "b", "c"]
    headers.remove("Via")
    headers.replace_first("Via", "new")
    assert headers.all("Via") == ["new"]


def test_replace_first_touches_one_element_of_a_list() -> None:
    headers = Headers([("Via", 'x;a="1,2", y , z')])
    headers.replace_first("Via", "w")
    assert headers.get("Via") == "w, y, z"


@pytest.mark.parametrize(
    ("name", "value"), [("X-A", "b\r\nVia: c"), ("X-A", "b\nc"), ("X A", "b"), ("", "b"), ("É", "b")]
)
def test_no_header_can_be_smuggled_in(name: str, value: str) -> None:
    headers = Headers()
    for put in (headers.add, headers.set, headers.prepend):
        with pytest.raises(ValueError, match="not a header field"):
            put(name, value)
    assert len(headers) == 0


def test_bounds_are_exact() -> None:
    assert len(split_commas(",".join("a" * MAX_LIST))) == MAX_LIST
    assert len(parse_params(";a" * MAX_PARAMS)) == MAX_PARAMS
    assert len(SipUri.parse("sip:h" + ";a" * MAX_PARAMS).params) == MAX_PARAMS
    for too_many in (
        lambda: split_commas(",".join("a" * (MAX_LIST + 1))),
        lambda: parse_params(";a" * (MAX_PARAMS + 1)),
        lambda: SipUri.parse("sip:h" + ";a" * (MAX_PARAMS + 1)),
    ):
        with pytest.raises(SipSyntaxError, match="too many"):
            too_many()


def test_other_uri_in_contact() -> None:
    assert NameAddr.parse("<mailto:a@b.c>").uri == OtherUri("mailto", "a@b.c")


@pytest.mark.parametrize(
    "text", ['"' * 60_001, '"\\' * 30_000, "<" * 60_000, ",<a" * 20_000, " " * 60_000 + 'x,"']
)
def test_lists_are_split_in_linear_time(text: str) -> None:
    began = time.perf_counter()
    with pytest.raises(SipSyntaxError):
        split_commas(text + ",")
    assert time.perf_counter() - began < 0.5


@pytest.mark.parametrize(
    "text", [";a" * 30_000, ";a=" + '"\\' * 30_000, ";a" + " " * 60_000, ";" + "\t" * 60_000]
)
def test_parameters_are_read_in_linear_time(text: str) -> None:
    began = time.perf_counter()
    with pytest.raises(SipSyntaxError):
        parse_params(text + "\x00")
    assert time.perf_counter() - began < 0.5
