"""Scanners shared by every SIP header: tokens, quoted strings, comma lists and `;name=value` parameters.

All of it runs on hostile text, so every pattern is anchored and possessive (`++`, `*+`): a scan reads each
character a bounded number of times, and 64 kB of quotes or commas costs what 64 kB of letters costs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

Params = tuple[tuple[str, str | None], ...]
"""`;name=value` pairs in wire order; the value as written (quotes kept), None for a bare flag."""

LWS = " \t"  # after unfolding, the only white space RFC 3261 knows; str.strip() would also eat U+00A0

MAX_PARAMS = 64  # real headers carry under ten; each one becomes a tuple, so a datagram of ";a;a;a" is cheap
MAX_LIST = 256  # elements of one comma list: a longest Allow or Record-Route has some thirty

NAME_CHARS = r"A-Za-z0-9\-.!%*_+`'~"
_TOKEN = re.compile(rf"[{NAME_CHARS}]++")
# Possessive repeats (++) keep hostile input linear, but only of single characters: Python before 3.11.5, Debian 12's
# among them, forgets to step back from a repeated group's last, half-matched turn.
_QUOTED = r'"(?:[^"\\]++|\\.)*"'
_QUOTED_STRING = re.compile(_QUOTED, re.DOTALL)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_NEEDS_ESCAPE = re.compile(r'(["\\\x00-\x08\x0b\x0c\x0e-\x1f\x7f])')
_LIST_PIECE = re.compile(rf"{_QUOTED}|<[^>]*+>|,|[^\",<]++", re.DOTALL)
# Beyond token and host, tags and branches in the field hold base64 and addresses ("=", "/", "@", "$", "&").
_VALUE_CHARS = rf"{NAME_CHARS}\[\]:/@=&$"
_VALUE = re.compile(rf"[{_VALUE_CHARS}]++")
_PARAM = re.compile(
    rf"[ \t]*+;[ \t]*+([{NAME_CHARS}]++)(?:[ \t]*+=[ \t]*+([{_VALUE_CHARS}]++|{_QUOTED}))?", re.DOTALL
)


class SipSyntaxError(ValueError):
    """Text that breaks the grammar. `status` is the SIP answer a request containing it deserves."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


def is_token(text: str) -> bool:
    """RFC 3261 §25.1 `token`: ASCII only, at least one character."""
    return _TOKEN.fullmatch(text) is not None


def parse_number(text: str, limit: int, what: str) -> int:
    """Decimal digits only (no sign, no Unicode digits), value at most `limit`; leading zeros are allowed."""
    digits = text.lstrip("0")
    if not (text.isascii() and text.isdigit()):
        raise SipSyntaxError(f"{what} is not a number")
    if len(digits) > len(str(limit)):  # before int(): thousands of digits are slow, then an error of Python's
        raise SipSyntaxError(f"{what} is too large")
    number = int(digits or "0")
    if number > limit:
        raise SipSyntaxError(f"{what} is too large")
    return number


def quote(text: str) -> str:
    """A `quoted-string`. CR and LF cannot be quoted and would start a new header, so they become spaces."""
    clean = text.replace("\r", " ").replace("\n", " ")
    return '"' + _NEEDS_ESCAPE.sub(r"\\\1", clean) + '"'


def unquote(text: str) -> str:
    """The content of a `quoted-string`; any other text unchanged."""
    if len(text) < 2 or not text.startswith('"'):
        return text
    inner = text[1:-1]
    return _QUOTED_PAIR.sub(r"\1", inner) if "\\" in inner else inner


def quoted_end(text: str) -> int:
    """Where the `quoted-string` that opens `text` ends."""
    found = _QUOTED_STRING.match(text)
    if found is None:
        raise SipSyntaxError("unterminated quoted string")
    return found.end()


def split_commas(text: str) -> list[str]:
    """Split a comma list outside quotes and angle brackets; elements are stripped, empty ones are kept."""
    if "," not in text:
        return [text.strip(LWS)]
    pieces: list[str] = []
    start = position = 0
    while position < len(text):
        found = _LIST_PIECE.match(text, position)
        if found is None:
            raise SipSyntaxError("unbalanced quote or angle bracket in a list")
        if found[0] == ",":
            pieces.append(text[start:position].strip(LWS))
            if len(pieces) >= MAX_LIST:
                raise SipSyntaxError("too many list elements")
            start = found.end()
        position = found.end()
    pieces.append(text[start:].strip(LWS))
    return pieces


def parse_params(text: str) -> Params:
    """Read `*(SEMI generic-param)`, white space allowed around `;` and `=` (RFC 3261 §25.1)."""
    params: list[tuple[str, str | None]] = []
    position = 0
    while found := _PARAM.match(text, position):
        params.append((found[1], found[2]))
        position = found.end()
        if len(params) > MAX_PARAMS:
            raise SipSyntaxError("too many parameters")
    if text[position:].strip(LWS):
        raise SipSyntaxError("malformed parameter")
    return tuple(params)


def format_params(params: Params) -> str:
    """The wire form of `params`, each with its leading semicolon."""
    return "".join(f";{name}" if value is None else f";{name}={value}" for name, value in params)


def param_value(text: str) -> str:
    """A parameter value fit for the wire: as it is when the grammar allows that, else quoted."""
    return text if _VALUE.fullmatch(text) else quote(text)


def merge_params(params: Params, changes: Mapping[str, str | None]) -> Params:
    """`params` with `changes` applied: a known name (in any case) keeps its place, a new one goes last."""
    pending = {name.lower(): (name, value) for name, value in changes.items()}
    kept = [(name, pending.pop(name.lower(), (name, value))[1]) for name, value in params]
    return (*kept, *pending.values())


class Parameterised:
    """Reading access to a value's header parameters; names compare without case."""

    __slots__ = ()

    params: Params

    def param(self, name: str) -> str | None:
        """The unquoted value of the first parameter `name`; None when absent or a bare flag."""
        wanted = name.lower()
        for key, value in self.params:
            if key.lower() == wanted:
                return value if value is None else unquote(value)
        return None

    def has_param(self, name: str) -> bool:
        """Whether the parameter is there, with or without a value."""
        wanted = name.lower()
        return any(key.lower() == wanted for key, _ in self.params)
