"""The linter's lines, and the SDK as a second opinion on what the dialect is."""

from __future__ import annotations

import inspect

import pytest

from markup import report
from markup.fields import Node, camel, spec
from markup.verbs import VERBS


def test_each_problem_is_a_line_an_editor_can_jump_to() -> None:
    source = b'<Response>\n<Gather numdigits="1"/>\n<Reject reason="x"/>\n</Response>'
    assert report(source, "menu.xml") == [
        "menu.xml:2:0: warning 12200: <Gather> has no attribute 'numdigits'; it was skipped; did you mean 'numDigits'?",
        "menu.xml:3:0: warning 13810: <Reject> reason: 'x' is not one of rejected, busy; "
        "the default ('rejected') is used",
    ]


def test_a_clean_document_has_no_lines() -> None:
    assert report(b"<Response><Say>Hi</Say><Hangup/></Response>", "a") == []


def test_a_document_that_cannot_be_read_is_one_error_line_with_its_column() -> None:
    (line,) = report(b"<Response>\n<Say>", "a.xml")
    assert line.startswith("a.xml:2:6: error 12100: ")


def tables(cls: type[Node]) -> list[type[Node]]:
    inner = [child for group in spec(cls).nested for child in group.classes]
    return [cls, *(below for child in inner for below in tables(child))]


SDK_NAMES = {"ReferSip": "Sip", "SipUri": "Uri"}
CASES = sorted({cls.__name__: cls for verb in VERBS.values() for cls in tables(verb)}.items())


@pytest.mark.parametrize(("name", "cls"), CASES)
def test_every_attribute_of_the_official_sdk_is_in_the_table(name: str, cls: type[Node]) -> None:
    voice = pytest.importorskip("twilio.twiml.voice_response", reason="the official SDK is not installed")
    makers = {
        maker
        for owner in vars(voice).values()
        if inspect.isclass(owner)
        for maker in vars(owner).values()
        if inspect.isfunction(maker) and f"nest(\n            {name}(" in inspect.getsource(maker)
    }
    makers |= {
        maker
        for owner in vars(voice).values()
        if inspect.isclass(owner)
        for maker in vars(owner).values()
        if inspect.isfunction(maker) and f"nest({name}(" in inspect.getsource(maker)
    }
    assert makers
    table = spec(cls)
    known = {*table.attributes, *([camel(table.text.name)] if table.text else [])}
    for maker in makers:
        offered = [
            camel(item) for item in inspect.signature(maker).parameters if item not in ("self", "kwargs")
        ]
        body = {"message", "clientIdentity", "phoneNumber", "sipUrl", "applicationSid", "simSid"}
        assert not set(offered) - known - body
