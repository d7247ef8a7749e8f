"""Values → XML, and back."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import markup
from markup import (
    Client,
    Dial,
    Gather,
    Number,
    Parameter,
    Pause,
    Play,
    Redirect,
    Say,
    Ssml,
    Verb,
    build,
    parse,
    ssml,
)
from markup.fields import Node, spec, tag_of
from markup.verbs import VERBS
from tests.markup.strategies import any_verb, node

HEAD = '<?xml version="1.0" encoding="UTF-8"?><Response>'
CLASSES: set[type[Node]] = {
    value for value in vars(markup).values() if isinstance(value, type) and issubclass(value, Node)
}
BY_NAME: list[type[Node]] = sorted(CLASSES, key=tag_of)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
@given(st.lists(any_verb(), max_size=4))
def test_what_is_built_reads_back_as_the_same_values(verbs: list[Verb]) -> None:
    assert parse(build(*verbs)).verbs == tuple(verbs)


@pytest.mark.parametrize("cls", list(VERBS.values()), ids=tag_of)
def test_every_verb_and_its_nouns_survive_the_round_trip(cls: type[Node]) -> None:
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(node(cls))
    def trip(verb: Any) -> None:
        document = parse(build(verb))
        assert document.verbs == (verb,)
        assert document.verbs[0].line == 1

    trip()


def test_every_class_exported_is_reachable_from_a_verb() -> None:
    seen: set[type[Node]] = set()
    ahead: list[type[Node]] = list(VERBS.values())
    while ahead:
        cls = ahead.pop()
        seen.add(cls)
        ahead += [child for group in spec(cls).nested for child in group.classes]
    assert seen == CLASSES
    assert len(seen) == 45


@pytest.mark.parametrize("cls", BY_NAME, ids=tag_of)
def test_each_declared_default_is_the_values_default_and_is_left_out(cls: type[Node]) -> None:
    value = cls()
    for attribute in spec(cls).attributes.values():
        assert getattr(value, attribute.name) == attribute.default
    assert {field.name for field in fields(cls)} >= {a.name for a in spec(cls).attributes.values()}


def test_the_document_has_a_declaration_and_only_what_differs_from_the_defaults() -> None:
    verbs = Gather([Say("Hi & bye")], timeout=5, num_digits=4), Redirect(), Pause(length=2)
    assert build(*verbs) == (
        HEAD
        + '<Gather numDigits="4"><Say>Hi &amp; bye</Say></Gather><Redirect/><Pause length="2"/></Response>'
    )


def test_speech_markup_is_written_as_elements() -> None:
    say = Say(
        ["Your code: ", ssml("say-as", "12", interpret_as="digits"), ssml("lang", "ja", xml_lang="de-DE")]
    )
    assert build(say) == (
        HEAD
        + '<Say>Your code: <say-as interpret-as="digits">12</say-as><lang xml:lang="de-DE">ja</lang></Say></Response>'
    )
    assert parse(build(say)).verbs == (say,)


def test_a_client_with_parameters_names_itself_in_a_child() -> None:
    assert "<Client>a</Client>" in build(Dial(nouns=[Client("a")]))
    full = Dial(nouns=[Client("a", [Parameter(name="x", value="1")])])
    assert '<Client><Identity>a</Identity><Parameter name="x" value="1"/></Client>' in build(full)


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        (Say("a\x07b"), "U+0007 at 1"),
        (Say(["a", ssml("p", "\x00")]), "U+0000"),
        (Say([ssml("sub", "x", alias="\x1b")]), "alias of <sub>"),
        (Say([ssml("blink", "x")]), "no SSML element <blink>"),
        (Say([ssml("break", colour="x")]), "no attribute 'colour'"),
        (Play("\ud800"), "U+D800"),
        (Gather(hints="\uffff"), "hints of <Gather>"),
        (Gather(timeout=-1), "timeout of <Gather>: -1 is below 0"),
        (Gather(method="PUT"), "not one of GET, POST"),
        (Gather(input=["dtmf", "sign"]), "'sign'"),
        (Gather([Dial("1")]), "Dial cannot stand in <Gather>"),  # type: ignore[list-item]
        (Dial(timeout=4), "clamped"),
        (Dial(nouns=[Number("")]), "is empty"),
        (Dial(" 1 "), "would read back as"),
        (Dial(nouns=[Number(str(n)) for n in range(11)]), "at most 10 Number"),
        (Dial(caller_id='"a\r\nVia: x'), "caller"),
        (Number("1"), "is not a verb"),
        (Say("x" * 65_536), "longer than 65536 bytes"),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else value.__class__.__name__,
)
def test_what_would_not_read_back_is_refused_with_a_reason(verb: Any, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        build(verb)
    assert words in str(caught.value)


def test_speech_nested_without_end_is_refused() -> None:
    inner: str | Ssml = "deep"
    for _ in range(33):
        inner = ssml("emphasis", inner)
    with pytest.raises(ValueError, match="more than 32 deep"):
        build(Say([inner]))


def test_lists_may_be_written_as_one_string_and_are_tuples() -> None:
    assert Gather(input="speech dtmf").input == ("speech", "dtmf")
    assert Number("1", status_callback_event=["answered"]).status_callback_event == ("answered",)
    assert Gather([Say("x")]).verbs == (Say("x"),)


def test_the_line_is_no_part_of_equality_and_values_can_be_keys() -> None:
    assert Say("x", line=3) == Say("x", line=9)
    assert len({Say([ssml("break", time="1s")]), Say([ssml("break", time="1s")], line=2)}) == 1
