"""Hypothesis strategies for every verb and noun, made from the declarations alone: no attribute is named here."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from markup.fields import Attribute, Choice, Flag, Kind, Nested, Node, Str, Tokens, Url, Whole, spec
from markup.ssml import SSML, Ssml
from markup.verbs import VERBS, Say

TEXT = st.text(
    st.characters(
        codec="utf-8",
        exclude_categories=["Cs", "Cc"],
        include_characters="\t\n\r",
        exclude_characters="\ufffe\uffff",
    ),
    max_size=12,
)


def of_kind(kind: Kind) -> st.SearchStrategy[Any]:
    """Values that the kind reads without complaint."""
    if isinstance(kind, Flag):
        return st.booleans()
    if isinstance(kind, Choice):
        return st.sampled_from(kind.values)
    if isinstance(kind, Tokens):
        return st.lists(st.sampled_from(kind.values), min_size=1, unique=True).map(tuple)
    if isinstance(kind, Whole):
        numbers = st.integers(kind.low, 10_000 if kind.high is None else kind.high)
        return numbers | st.sampled_from(list(kind.words.values())) if kind.words else numbers
    if isinstance(kind, Url):
        start = f"{kind.schemes[0]}://" if kind.schemes else ""
        return st.from_regex(r"[a-z/?&=%.#]{1,20}", fullmatch=True).map(lambda rest: start + rest)
    assert isinstance(kind, Str)
    if kind.pattern:
        words = st.from_regex(kind.pattern, fullmatch=True)
        return words.filter(lambda value: not kind.read(value).complaint and value.isprintable())
    return TEXT.filter(lambda value: kind.min_length <= len(value) <= kind.max_length)


def attributes(items: list[Attribute]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={item.name: of_kind(item.kind) for item in items})


def content(holds: tuple[str, ...], depth: int = 0) -> st.SearchStrategy[list[str | Ssml]]:
    parts: st.SearchStrategy[Any] = TEXT
    if holds and depth < 3:
        parts |= st.sampled_from(holds).flatmap(lambda name: element(name, depth + 1))
    return st.lists(parts, max_size=3)


def element(name: str, depth: int) -> st.SearchStrategy[Ssml]:
    rule = SSML[name]
    pairs = st.fixed_dictionaries({}, optional={key: of_kind(kind) for key, kind in rule.attributes.items()})
    return st.builds(
        lambda given, inside: Ssml(name, tuple(given.items()), inside), pairs, content(rule.holds, depth)
    )


def children(group: Nested) -> st.SearchStrategy[list[Node]]:
    return st.lists(st.sampled_from(group.classes).flatmap(node), max_size=min(3, group.limit or 3))


def node(cls: type[Node]) -> st.SearchStrategy[Any]:
    """Any value of one verb or noun."""
    table = spec(cls)
    parts: dict[str, st.SearchStrategy[Any]] = {group.name: children(group) for group in table.nested}
    if table.text:
        stripped: st.SearchStrategy[Any] = of_kind(table.text.kind).map(lambda value: value.strip())
        kind = table.text.kind
        parts[table.text.name] = stripped.filter(lambda value: bool(not kind.read(value).complaint))
    if cls is Say:
        parts["content"] = content(tuple(SSML))
    given = attributes(list(table.attributes.values()))
    return st.tuples(st.fixed_dictionaries(parts), given).map(lambda both: cls(**both[0], **both[1]))


def any_verb() -> st.SearchStrategy[Any]:
    return st.sampled_from(list(VERBS.values())).flatmap(node)
