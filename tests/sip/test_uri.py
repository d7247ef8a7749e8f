"""URIs: RFC 3261 §19.1, its comparison examples, and round trips over everything the grammar allows."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.sip.grammar import SipSyntaxError
from engine.sip.uri import OtherUri, SipUri, escape_user, parse_uri


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sip:alice@atlanta.com", SipUri("sip", "alice", None, "atlanta.com", None)),
        ("SIPS:a:b@h:5061", SipUri("sips", "a", "b", "h", 5061)),
        (
            "sip:h;lr;Maddr=1.2.3.4",
            SipUri("sip", None, None, "h", None, (("lr", None), ("Maddr", "1.2.3.4"))),
        ),
        ("sip:a@[2001:db8::1]:5070", SipUri("sip", "a", None, "2001:db8::1", 5070)),
        ("sip:h?to=sip:bob%40b&x=", SipUri("sip", None, None, "h", None, (), "to=sip:bob%40b&x=")),
        ("sip:+1-212;phone-context=x@h", SipUri("sip", "+1-212;phone-context=x", None, "h", None)),
        ("sip:*21#@pbx_1", SipUri("sip", "*21#", None, "pbx_1", None)),
        ("tel:+12125551212;ext=3", OtherUri("tel", "+12125551212;ext=3")),
        ("http://example.com/?a=b", OtherUri("http", "//example.com/?a=b")),
    ],
)
def test_parse(text: str, expected: SipUri | OtherUri) -> None:
    uri = parse_uri(text)
    assert uri == expected
    assert parse_uri(str(uri)) == uri


@pytest.mark.parametrize(
    "text",
    ["", "alice", "sip:", "sip:@h", "sip:a@", "sip:a b@h", " sip:a@h", "sip:a@h ", "sip:a@h:", "sip:a@h:0",
     "sip:a@h:65536", "sip:a@h:99999999999999999999", "sip:a@h:-1", "sip:a@b@c", "sip:a@h;", "sip:a@h;;x",
     "sip:a%2@h", "sip:a%zz@h", "sip:a@[::1", "sip:a@[1.2.3.4]", "sip:a@[:::]", "sip:a@h;x=<", "sip:é@h",
     "sip:a@h\r\nVia: x", "<sip:a@h>", "tel:", "tel:a b", 'tel:"', "1sip:a@h"],
)  # fmt: skip
def test_rejects(text: str) -> None:
    with pytest.raises(SipSyntaxError):
        parse_uri(text)


def test_sip_uri_refuses_another_scheme() -> None:
    with pytest.raises(SipSyntaxError, match="tel"):
        SipUri.parse("tel:+1")


def test_parameters() -> None:
    uri = SipUri.parse("sip:a@h;lr;Transport=tcp;n%61me=v%61lue;lr=2")
    assert uri.param("transport") == "tcp"
    assert uri.param("name") == "value"
    assert uri.param("lr") is None
    assert uri.has_param("LR")
    assert not uri.has_param("maddr")
    changed = uri.with_params(transport="udp", ob=None, note="a b;c")
    assert str(changed) == "sip:a@h;lr;Transport=udp;n%61me=v%61lue;lr=2;ob;note=a%20b%3Bc"
    assert changed.param("note") == "a b;c"
    assert str(uri.without_params("lr", "TRANSPORT")) == "sip:a@h;n%61me=v%61lue"


EQUIVALENT = [  # RFC 3261 §19.1.4
    ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtlanTa.CoM;Transport=tcp"),
    ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
    ("sip:carol@chicago.com;newparam=5", "sip:carol@chicago.com;security=on"),
    (
        "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
        "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
    ),
    (
        "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
        "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
    ),
]
DIFFERENT = [
    ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP"),
    ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
    ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
    ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp"),
    ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
    ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
    ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off"),
    ("sip:a@h", "sips:a@h"),
    ("sip:a%40b@h", "sip:a%41b@h"),
    ("sip:a;b@h", "sip:a%3bb@h"),
    ("sip:%00@h", "sip:%00%00@h"),
    ("sip:%2561@h", "sip:%61@h"),
]


@pytest.mark.parametrize(("one", "other"), EQUIVALENT)
def test_equivalent(one: str, other: str) -> None:
    assert SipUri.parse(one).equivalent(SipUri.parse(other))
    assert SipUri.parse(other).equivalent(SipUri.parse(one))


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_not_equivalent(one: str, other: str) -> None:
    assert not SipUri.parse(one).equivalent(SipUri.parse(other))
    assert not SipUri.parse(other).equivalent(SipUri.parse(one))


@given(st.text())
def test_any_user_survives_escaping(user: str) -> None:
    if not user or any("\ud800" <= char <= "\udfff" for char in user):
        return
    uri = SipUri("sip", escape_user(user), None, "example.com", 5060)
    again = SipUri.parse(str(uri))
    assert again == uri
    assert again.user_text == user


@given(st.text(alphabet='sip:@;=?&%41[]:.aA#+,/<> \r\n"é', max_size=40))
def test_what_parses_round_trips(text: str) -> None:
    try:
        uri = SipUri.parse("sip:" + text)
    except SipSyntaxError:
        return
    assert SipUri.parse(str(uri)) == uri
    assert uri.equivalent(uri)


@pytest.mark.parametrize("piece", ["a", "%41", ";a", ";a=b", "a:", "1", ";a=", "&a=b", "?", "["])
def test_hostile_length_is_linear(piece: str) -> None:
    text = "sip:" + piece * 20_000 + "\x00"
    began = time.perf_counter()
    with pytest.raises(SipSyntaxError):
        parse_uri(text)
    assert time.perf_counter() - began < 0.5  # a quadratic scan takes minutes
