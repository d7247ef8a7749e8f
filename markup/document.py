"""What reading a document comes to: its verbs, and what was wrong with it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from markup.fields import Level
from markup.verbs import Verb

# Problems kept of one document. A 64 kB body can hold ten thousand bad elements, and each suggestion costs a search
# through the names: without a limit one hostile response would hold the process for seconds.
MAX_PROBLEMS: Final = 100

MAX_SUGGESTED: Final = 40  # characters of a name worth a did-you-mean; the search is quadratic in them


class MarkupError(ValueError):
    """The document cannot be executed at all. `code` is the vendor's (12100 …); line and column 0 are unknown."""

    def __init__(self, code: int, message: str, line: int = 0, column: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.line = line
        self.column = column


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that was skipped or replaced by its default. Column 0 is unknown; attribute "" is the element."""

    code: int
    level: Level
    message: str
    line: int
    column: int
    verb: str
    attribute: str


@dataclass(frozen=True, slots=True)
class Document:
    """A document that can be executed: its verbs in order, and the problems met on the way."""

    verbs: tuple[Verb, ...]
    problems: tuple[Problem, ...] = ()


@dataclass(slots=True)
class Problems:
    """Collects problems up to MAX_PROBLEMS; the rest are only counted."""

    kept: list[Problem] = field(default_factory=list)
    dropped: int = 0

    @property
    def full(self) -> bool:
        return len(self.kept) >= MAX_PROBLEMS

    def add(
        self, code: int, message: str, *, line: int, verb: str, attribute: str = "", level: Level = "warning"
    ) -> None:
        if self.full:
            self.dropped += 1
        else:
            self.kept.append(Problem(code, level, message, line, 0, verb, attribute))

    def did_you_mean(self, word: str, names: Iterable[str]) -> str:
        """A half-sentence with the nearest name, or nothing when none is near."""
        if self.full or len(word) > MAX_SUGGESTED:
            return ""
        folded = {name.lower(): name for name in names}
        near = difflib.get_close_matches(word.lower(), folded, n=1, cutoff=0.7)
        return f"; did you mean {folded[near[0]]!r}?" if near else ""

    def all(self) -> tuple[Problem, ...]:
        """What was kept, with a last entry that counts what was not."""
        if not self.dropped:
            return tuple(self.kept)
        message = f"{self.dropped} more problems are not listed"
        return (*self.kept, Problem(12200, "warning", message, self.kept[-1].line, 0, "", ""))
