from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.call.routing import Numbers, Route, compile_pattern, merged, plain
from engine.errors import ConfigError
from engine.store import NumberRow


def number(pattern: str, kind: str = "exact", url: str = "") -> NumberRow:
    return NumberRow(pattern, kind, url or f"http://app/{kind}/{pattern}")


TABLE = [
    number("+14155550100"),
    number("1000"),
    number("10", "prefix"),
    number("1", "prefix"),
    number(r"\d{3}", "pattern"),
    number("sales|support", "pattern"),
]


@pytest.mark.parametrize(
    ("dialled", "kind", "pattern"),
    [
        ("1000", "exact", "1000"),
        ("+14155550100", "exact", "+14155550100"),
        ("14155550100", "exact", "+14155550100"),  # trunks disagree about the plus
        ("+1 (415) 555-0100", "exact", "+14155550100"),
        ("1099", "prefix", "10"),  # the longest prefix, not the first
        ("1999", "prefix", "1"),
        ("234", "pattern", r"\d{3}"),
        ("support", "pattern", "sales|support"),
    ],
)
def test_exact_before_the_longest_prefix_before_patterns(dialled: str, kind: str, pattern: str) -> None:
    route = Numbers(TABLE).route(dialled)
    assert route is not None
    assert route.voice_url == f"http://app/{kind}/{pattern}"


def test_a_number_nobody_has_goes_to_the_default_or_nowhere() -> None:
    assert Numbers(TABLE).route("99999") is None
    default = Route("http://app/any")
    assert Numbers(TABLE, default).route("99999") is default
    assert Numbers(TABLE, default).route("") is default


def test_a_pattern_matches_the_whole_number() -> None:
    assert Numbers([number(r"\d{3}", "pattern")]).route("2345") is None


def test_a_row_brings_its_callbacks() -> None:
    row = NumberRow(
        "1",
        voice_url="http://v",
        voice_method="GET",
        status_callback="http://s",
        status_callback_event="ringing completed",
    )
    route = Numbers([row]).route("1")
    assert route == Route(
        "http://v", "GET", status_callback="http://s", status_callback_event=("ringing", "completed")
    )


@pytest.mark.parametrize("bad", ["(", "x" * 201])
def test_a_bad_pattern_is_named(bad: str) -> None:
    with pytest.raises(ConfigError, match="regular expression"):
        compile_pattern(bad)


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ConfigError, match="'fuzzy' is not exact, prefix or pattern"):
        Numbers([number("1", "fuzzy")])


def test_the_database_goes_before_the_file() -> None:
    rows = merged([number("1", url="http://file"), number("2")], [number("1", url="http://database")])
    assert {row.pattern: row.voice_url for row in rows} == {"1": "http://database", "2": "http://app/exact/2"}


@given(st.text(max_size=40))
def test_any_dialled_text_is_looked_up_without_an_error(dialled: str) -> None:
    Numbers(TABLE).route(dialled)
    assert plain(plain(dialled)) == plain(dialled)
