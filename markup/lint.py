"""What is wrong in a document, as lines an editor can jump to."""

from __future__ import annotations

from markup.document import MarkupError
from markup.parse import parse


def report(source: bytes, name: str) -> list[str]:
    """`name:line:column: level code: message` for each problem, by line; empty when there is none.

    A column of 0 is unknown. Never raises: a document that cannot be read is one line.
    """
    try:
        problems = parse(source).problems
    except MarkupError as error:
        return [f"{name}:{error.line}:{error.column}: error {error.code}: {error.message}"]
    ordered = sorted(problems, key=lambda problem: problem.line)
    return [f"{name}:{one.line}:{one.column}: {one.level} {one.code}: {one.message}" for one in ordered]
