"""RFC 4475 message by message: the class of outcome for all, and what each was written to prove."""

from __future__ import annotations

import pytest

from engine.sip.message import Request, Response, response_to
from engine.sip.parse import Malformed, parse_datagram
from engine.sip.uri import OtherUri, SipUri
from tests.torture.corpus import CASES, FOLDER, Case

BY_FILE = {case.file: case for case in CASES}


def parsed(file: str) -> Request | Response | Malformed:
    return parse_datagram(BY_FILE[file].raw())


def request(file: str) -> Request:
    message = parsed(file)
    assert isinstance(message, Request)
    return message


def response(file: str) -> Response:
    message = parsed(file)
    assert isinstance(message, Response)
    return message


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.file)
def test_outcome(case: Case) -> None:
    message = parse_datagram(case.raw())
    assert type(message).__name__.lower() == case.outcome, message
    if isinstance(message, Malformed):
        assert message.status == case.status
        assert (message.request is not None) == (case.status > 0)
    else:
        assert parse_datagram(message.to_bytes()) == message


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.outcome == "malformed" and case.status],
    ids=lambda case: case.file,
)
def test_a_malformed_request_can_be_answered(case: Case) -> None:
    malformed = parse_datagram(case.raw())
    assert isinstance(malformed, Malformed)
    assert malformed.request is not None
    answer = response_to(malformed.request, malformed.status, to_tag="ours").to_bytes()
    assert answer.startswith(f"SIP/2.0 {case.status} ".encode())
    assert b"\r\nVia: SIP/" in answer


def test_the_whole_corpus_is_listed() -> None:
    if not FOLDER.is_dir():
        pytest.skip("RFC 4475 corpus is not beside the checkout")
    files = {path.name for path in FOLDER.glob("*.dat")}
    assert files - {"test-unreferenced.dat"} == set(BY_FILE)
    assert len(files) == 51


def test_wsinv() -> None:
    message = request("wsinv.dat")
    assert message.to.tag == "1918181833n"
    assert message.from_.display == 'J Rosenberg \\"'
    assert message.from_.tag == "98asjd8"
    assert (message.max_forwards, message.cseq.number, message.call_id) == (
        68,
        9,
        "wsinv.ndaksdj@192.0.2.1",
    )
    assert [via.transport for via in message.vias] == ["UDP", "TCP", "UDP"]
    assert [via.host for via in message.vias] == ["192.0.2.2", "spindle.example.com", "192.168.255.111"]
    assert [via.branch for via in message.vias] == ["390skdjuw", "z9hG4bK9ikj8", "z9hG4bK30239"]
    assert message.headers.get("Subject") == ""
    assert message.headers.get("NewFangledHeader") == "newfangled value continued newfangled value"
    assert message.headers.get("UnknownHeaderWithUnusualValue") == ";;,,;;,;"
    assert isinstance(message.routes[0].uri, SipUri)
    assert message.routes[0].uri.param("unknownwith") == "value"
    assert message.contact is not None
    assert message.contact.display == 'Quoted string ""'
    assert message.contact.param("newparam") == "newvalue"
    assert message.contact.param("q") == "0.33"
    assert len(message.body) == 150


def test_intmeth() -> None:
    message = request("intmeth.dat")
    assert message.method == message.cseq.method == "!interesting-Method0123456789_*+`.%indeed'~"
    assert isinstance(message.uri, SipUri)
    assert message.uri.user == "1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"
    assert message.uri.password == "&it+has=1,weird!*pas$wo~d_too.(doesn't-it)"
    assert message.to.display == "BEL:\x07 NUL:\x00 DEL:\x7f"
    assert message.from_.param("fromParam''~+*_!.-%") == "работающий"
    assert message.from_.tag == "_token~1'+`*%!-."


def test_escapes() -> None:
    message = request("esc01.dat")
    assert isinstance(message.uri, SipUri)
    assert message.uri.user_text == "sips:user@example.com"
    assert isinstance(message.to.uri, SipUri)
    assert message.to.uri.equivalent(SipUri.parse("sip:user@example.com"))
    assert message.contact is not None
    assert isinstance(message.contact.uri, SipUri)
    assert message.contact.uri.has_param("lr")
    assert message.contact.uri.param("name") == "value%41"
    assert request("esc02.dat").method == "RE%47IST%45R"


def test_escaped_nulls_do_not_cut() -> None:
    one, two = (contact.uri for contact in request("escnull.dat").contacts)
    assert isinstance(one, SipUri)
    assert isinstance(two, SipUri)
    assert (one.user_text, two.user_text) == ("\0", "\0\0")
    assert not one.equivalent(two)


def test_only_the_first_of_two_messages_counts() -> None:
    message = request("dblreq.dat")
    assert (message.method, message.body) == ("REGISTER", b"")
    assert b"INVITE" not in message.to_bytes()


def test_user_part_with_semicolon() -> None:
    uri = request("semiuri.dat").uri
    assert isinstance(uri, SipUri)
    assert (uri.user_text, uri.host, uri.params) == ("user;par=u@example.net", "example.com", ())


def test_transports_are_kept() -> None:
    vias = request("transports.dat").vias
    assert [via.transport for via in vias] == ["UDP", "SCTP", "TLS", "UNKNOWN", "TCP"]


def test_binary_body_is_untouched() -> None:
    case = BY_FILE["mpart01.dat"]
    assert request("mpart01.dat").body == case.raw().partition(b"\r\n\r\n")[2]


def test_reason_phrases() -> None:
    assert response("noreason.dat").reason == ""
    assert response("unreason.dat").reason.endswith("девяносто девять - простое")


def test_schemes() -> None:
    assert request("novelsc.dat").uri == OtherUri("soap.beep", "//192.0.2.103:3002")
    assert request("unksm2.dat").to.uri == OtherUri("isbn", "2983792873")


def test_contact_parameters_belong_where_they_stand() -> None:
    of_header, of_uri = request("cparam01.dat").contact, request("cparam02.dat").contact
    assert of_header is not None
    assert of_uri is not None
    assert isinstance(of_header.uri, SipUri)
    assert isinstance(of_uri.uri, SipUri)
    assert of_header.has_param("unknownparam")
    assert not of_header.uri.has_param("unknownparam")
    assert of_uri.uri.has_param("unknownparam")
    assert not of_uri.has_param("unknownparam")


def test_escaped_route_stays_in_the_contact() -> None:
    message = request("regescrt.dat")
    assert message.contact is not None
    assert isinstance(message.contact.uri, SipUri)
    assert message.contact.uri.headers == "Route=%3Csip:sip.example.com%3E"
    assert message.routes == ()


def test_options_of_bext01() -> None:
    message = request("bext01.dat")
    assert message.options("Require") == {"nothingSupportsThis", "nothingSupportsThisEither"}
    assert message.options("Proxy-Require") == {"noProxiesSupportThis", "norDoAnyProxiesSupportThis"}


def test_rfc_2543_invite() -> None:
    message = request("inv2543.dat")
    assert message.via.branch is None
    assert message.from_.tag is None
    assert message.max_forwards is None
    assert message.contact is None
    assert message.body.startswith(b"v=0")
