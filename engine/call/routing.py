"""Which app answers a dialled number: the numbers table, looked up exact first, then prefix, then pattern."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engine.errors import ConfigError
from engine.schema import NumberRow

KINDS = ("exact", "prefix", "pattern")
EVENTS = ("initiated", "ringing", "answered", "completed")
MAX_PATTERN = 200  # characters of a regular expression: a table entry, not a program


@dataclass(frozen=True, slots=True)
class Route:
    """What to ask about a call: where its first instructions come from, and who hears how it goes."""

    voice_url: str
    voice_method: str = "POST"
    fallback_url: str = ""
    fallback_method: str = "POST"
    status_callback: str = ""
    status_callback_method: str = "POST"
    status_callback_event: tuple[str, ...] = (
        "completed",
    )  # an incoming number's callback is told only the end

    @classmethod
    def of(cls, row: NumberRow) -> Route:
        return cls(
            row.app or row.voice_url,
            row.voice_method,
            row.fallback_url,
            row.fallback_method,
            row.status_callback,
            row.status_callback_method,
            tuple(row.status_callback_event.split()),
        )


class Numbers:
    """The numbers table in the order it is tried: exact, the longest prefix, then patterns as they stand."""

    def __init__(self, rows: Iterable[NumberRow], default: Route | None = None) -> None:
        by_kind: dict[str, list[NumberRow]] = {kind: [] for kind in KINDS}
        for row in rows:
            check_row(row)
            by_kind[row.kind].append(row)
        self._exact = {plain(row.pattern): row for row in by_kind["exact"]}
        self._prefixes = sorted(by_kind["prefix"], key=lambda row: -len(plain(row.pattern)))
        self._patterns = [(compile_pattern(row.pattern), row) for row in by_kind["pattern"]]
        self._default = default

    def route(self, dialled: str) -> Route | None:
        """The app for a dialled number or name, or None when nobody answers it."""
        number = plain(dialled)
        row = self._exact.get(number) or self._by_prefix(number) or self._by_pattern(dialled)
        return Route.of(row) if row is not None else self._default

    def _by_prefix(self, number: str) -> NumberRow | None:
        return next((row for row in self._prefixes if number.startswith(plain(row.pattern))), None)

    def _by_pattern(self, dialled: str) -> NumberRow | None:
        return next((row for pattern, row in self._patterns if pattern.fullmatch(dialled)), None)


def plain(number: str) -> str:
    """A number without the marks people write into it and without +, since trunks disagree about sending it."""
    bare = re.sub(r"[\s().-]", "", number)
    return bare.removeprefix("+") if re.fullmatch(r"\+?\d+", bare) else number


def check_row(row: NumberRow) -> None:
    """Raises `ConfigError` for a row that can never be looked up."""
    if row.kind not in KINDS:
        raise ConfigError(f"number {row.pattern!r}: kind {row.kind!r} is not exact, prefix or pattern")
    if row.kind == "pattern":
        compile_pattern(row.pattern)


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """A table entry's regular expression. Raises `ConfigError` naming it."""
    try:
        if len(pattern) > MAX_PATTERN:
            raise re.error(f"longer than {MAX_PATTERN} characters")
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"number pattern {pattern!r} is not a regular expression: {error}") from error


def merged(*tables: Sequence[NumberRow]) -> list[NumberRow]:
    """Rows of several tables; of two with the same pattern and kind the later table's holds."""
    rows = {(row.kind, row.pattern): row for table in tables for row in table}
    return list(rows.values())
