"""Header fields: the ordered multimap of raw values, and the frozen values the important ones parse to.

`Headers` keeps what arrived, in order, under one spelling per name; typed values are read from it on demand
(`typed`) and forgotten when that name changes, so a message costs only what is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from engine.sip.grammar import (
    LWS,
    NAME_CHARS,
    Parameterised,
    Params,
    SipSyntaxError,
    format_params,
    is_token,
    merge_params,
    param_value,
    parse_number,
    parse_params,
    quote,
    quoted_end,
    split_commas,
    unquote,
)
from engine.sip.uri import OtherUri, SipUri, parse_host, parse_port, parse_uri

T = TypeVar("T")

MAX_CSEQ = 2**31 - 1  # RFC 3261 §8.1.1.5: a CSeq number is below 2**31

_COMPACT = {  # RFC 3261 §7.3.3, and the extensions that registered a letter
    "a": "Accept-Contact", "b": "Referred-By", "c": "Content-Type", "d": "Request-Disposition",
    "e": "Content-Encoding", "f": "From", "i": "Call-ID", "j": "Reject-Contact", "k": "Supported",
    "l": "Content-Length", "m": "Contact", "n": "Identity-Info", "o": "Event", "r": "Refer-To",
    "s": "Subject", "t": "To", "u": "Allow-Events", "v": "Via", "x": "Session-Expires", "y": "Identity",
}  # fmt: skip
# Splitting any other header at its commas would break it: WWW-Authenticate, Date and Subject have commas.
_LISTS = (
    "Accept", "Accept-Contact", "Accept-Encoding", "Accept-Language", "Alert-Info", "Allow", "Allow-Events",
    "Call-Info", "Contact", "Content-Encoding", "Content-Language", "Diversion", "Error-Info",
    "History-Info", "In-Reply-To", "P-Asserted-Identity", "P-Associated-URI", "P-Preferred-Identity",
    "Path", "Proxy-Require", "Reason", "Record-Route", "Reject-Contact", "Require", "Route",
    "Security-Client", "Security-Server", "Security-Verify", "Service-Route", "Supported", "Unsupported",
    "Via", "Warning",
)  # fmt: skip
_SINGLE = (
    "Authentication-Info", "Authorization", "Call-ID", "Content-Disposition", "Content-Length", "CSeq",
    "Date", "Expires", "Max-Forwards", "MIME-Version", "Min-Expires", "Min-SE", "Organization",
    "Priority", "Privacy", "Proxy-Authenticate", "Proxy-Authorization", "RAck", "Replaces", "Reply-To",
    "Retry-After", "RSeq", "Server", "SIP-ETag", "SIP-If-Match", "Subscription-State", "Timestamp",
    "User-Agent", "User-to-User", "WWW-Authenticate",
)  # fmt: skip
_LIST_KEYS = frozenset(name.lower() for name in _LISTS)
_CANONICAL = {name.lower(): name for name in (*_LISTS, *_SINGLE, *_COMPACT.values())} | _COMPACT
# The spellings seen in practice resolve by one look-up; the rest go through lower().
_EXACT = {name: (name.lower(), name) for name in _CANONICAL.values()}

_VIA = re.compile(
    rf"([{NAME_CHARS}]++)[ \t]*+/[ \t]*+([{NAME_CHARS}]++)[ \t]*+/[ \t]*+([{NAME_CHARS}]++)[ \t]++"
    r"(\[[0-9A-Fa-f:.]++\]|[A-Za-z0-9._\-]++)(?:[ \t]*+:[ \t]*+([0-9]++))?"
)
_CSEQ = re.compile(rf"([0-9]++)[ \t]++([{NAME_CHARS}]++)")
_MEDIA_TYPE = re.compile(rf"([{NAME_CHARS}]++)[ \t]*+/[ \t]*+([{NAME_CHARS}]++)")
# `Watson, Thomas <sip:…>` is two list elements and `a@b <…>` two addresses: those need quotes. The
# other characters outside token (UTF-8, parentheses) are unambiguous, and phones send them bare.
_BARE_DISPLAY = re.compile(r'[^",;:@<>\\\x00-\x08\x0a-\x1f\x7f]*+')
_TOKENS = re.compile(rf"[{NAME_CHARS}]++(?: [{NAME_CHARS}]++)*")


def fold_name(name: str) -> tuple[str, str]:
    """A header name's key (lower case, compact form expanded) and the spelling we write."""
    known = _EXACT.get(name)
    if known is not None:
        return known
    lower = name.lower()
    canonical = _CANONICAL.get(lower)
    return (lower, name) if canonical is None else (canonical.lower(), canonical)


@dataclass(frozen=True, slots=True)
class NameAddr(Parameterised):
    """From, To, Contact, Route and their kind: `display` unescaped ("" when none), `params` as written."""

    display: str
    uri: SipUri | OtherUri
    params: Params = ()

    @classmethod
    def parse(cls, text: str) -> NameAddr:
        """`name-addr` or `addr-spec` with parameters (RFC 3261 §20.10, §25.1); raises SipSyntaxError."""
        text = text.strip(LWS)
        if text.startswith('"'):
            end = quoted_end(text)
            return _after_display(unquote(text[:end]), text[end:].lstrip(LWS))
        opening = text.find("<")
        if opening < 0:
            return _addr_spec(text)
        display = text[:opening].rstrip(LWS)
        if not _BARE_DISPLAY.fullmatch(display):
            raise SipSyntaxError("display name needs quotes")
        return _after_display(display, text[opening:])

    def __str__(self) -> str:
        # Always in brackets: without them the URI's own parameters would read as the header's.
        address = f"<{self.uri}>{format_params(self.params)}"
        if not self.display:
            return address
        display = self.display if _TOKENS.fullmatch(self.display) else quote(self.display)
        return f"{display} {address}"

    @property
    def tag(self) -> str | None:
        """The dialog tag of a From or To."""
        return self.param("tag")

    def with_tag(self, tag: str) -> NameAddr:
        """A copy whose tag is `tag`."""
        return self.with_params(tag=tag)

    def with_params(self, **changes: str | None) -> NameAddr:
        """A copy with header parameters set (None: a bare flag), quoted where the grammar asks for it."""
        return replace(self, params=merge_params(self.params, _wire(changes)))


@dataclass(frozen=True, slots=True)
class Via(Parameterised):
    """One hop of the way back (RFC 3261 §20.42): `protocol` "SIP/2.0", `host` without IPv6 brackets."""

    protocol: str
    transport: str
    host: str
    port: int | None
    params: Params = ()

    @classmethod
    def parse(cls, text: str) -> Via:
        """One `via-parm`; raises SipSyntaxError."""
        text = text.strip(LWS)
        found = _VIA.match(text)
        if found is None:
            raise SipSyntaxError("malformed Via")
        name, version, transport, host, port = found.groups()
        params = parse_params(text[found.end() :])
        return cls(f"{name}/{version}", transport, parse_host(host), parse_port(port), params)

    def __str__(self) -> str:
        return f"{self.protocol}/{self.transport} {self.sent_by}{format_params(self.params)}"

    @property
    def sent_by(self) -> str:
        """`host[:port]` as on the wire: part of the transaction key, RFC 3261 §17.2.3."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    @property
    def branch(self) -> str | None:
        """The transaction's branch; None for an RFC 2543 peer."""
        return self.param("branch")

    @property
    def received(self) -> str | None:
        """The source address the receiver wrote in (RFC 3261 §18.2.1), without IPv6 brackets."""
        value = self.param("received")
        return None if value is None else value.strip("[]")

    @property
    def rport(self) -> int | None:
        """The source port written in (RFC 3581); None also for a bare `;rport` — see `has_param("rport")`."""
        value = self.param("rport")
        try:
            return parse_port(value)
        except SipSyntaxError:  # a value only the peer itself would follow: as if not there
            return None

    def with_params(self, **changes: str | None) -> Via:
        """A copy with parameters set (None: a bare flag)."""
        return replace(self, params=merge_params(self.params, _wire(changes)))


@dataclass(frozen=True, slots=True)
class CSeq:
    """Sequence number below 2**31 and method (RFC 3261 §20.16); the method's case counts."""

    number: int
    method: str

    @classmethod
    def parse(cls, text: str) -> CSeq:
        """Raises SipSyntaxError, also for a number of 2**31 or more."""
        found = _CSEQ.fullmatch(text.strip(LWS))
        if found is None:
            raise SipSyntaxError("malformed CSeq")
        return cls(parse_number(found[1], MAX_CSEQ, "CSeq"), found[2])

    def __str__(self) -> str:
        return f"{self.number} {self.method}"


@dataclass(frozen=True, slots=True)
class ContentType(Parameterised):
    """A media type (RFC 3261 §20.15), `type` and `subtype` in lower case."""

    type: str
    subtype: str
    params: Params = ()

    @classmethod
    def parse(cls, text: str) -> ContentType:
        """Raises SipSyntaxError."""
        text = text.strip(LWS)
        found = _MEDIA_TYPE.match(text)
        if found is None:
            raise SipSyntaxError("malformed Content-Type")
        return cls(found[1].lower(), found[2].lower(), parse_params(text[found.end() :]))

    def __str__(self) -> str:
        return f"{self.type}/{self.subtype}{format_params(self.params)}"


class Headers:
    """Raw header values in wire order. Names match in any case and in compact form (RFC 3261 §7.3.3)."""

    __slots__ = ("_items", "_typed")

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        self._items: list[tuple[str, str, str]] = []
        self._typed: dict[str, Any] = {}
        for name, value in items:
            self.add(name, value)

    @classmethod
    def from_wire(cls, items: list[tuple[str, str, str]]) -> Headers:
        """Take over `(key, name, value)` rows that the parser has checked, without checking them again."""
        headers = cls()
        headers._items = items
        return headers

    def get(self, name: str) -> str | None:
        """The first raw value, or None."""
        key = fold_name(name)[0]
        return next((value for k, _, value in self._items if k == key), None)

    def raw(self, name: str) -> list[str]:
        """Every raw value of `name` in order, lists not split."""
        key = fold_name(name)[0]
        return [value for k, _, value in self._items if k == key]

    def all(self, name: str) -> list[str]:
        """Every value in order; the elements of comma lists one by one, for headers that are lists."""
        values = self.raw(name)
        if fold_name(name)[0] not in _LIST_KEYS:
            return values
        return [element for value in values for element in _elements(value) if element]

    def add(self, name: str, value: str) -> None:
        """Append a header. Raises ValueError on a name that is no token or a line break in the value."""
        self._items.append(_row(name, value))
        self._forget(self._items[-1][0])

    def prepend(self, name: str, value: str) -> None:
        """Put a header before all others of the message: what a Via or Record-Route needs."""
        row = _row(name, value)
        self._items.insert(0, row)
        self._forget(row[0])

    def set(self, name: str, value: str) -> None:
        """Replace every value of `name` by this one, in the first one's place."""
        row = _row(name, value)
        place = next((i for i, item in enumerate(self._items) if item[0] == row[0]), len(self._items))
        self.remove(name)
        self._items.insert(place, row)

    def replace_first(self, name: str, value: str) -> None:
        """Replace the first element only, also inside a comma list: how the top Via gets its `received`."""
        row = _row(name, value)
        place = next((i for i, item in enumerate(self._items) if item[0] == row[0]), None)
        if place is None:
            self._items.append(row)
        else:
            rest = _elements(self._items[place][2])[1:] if row[0] in _LIST_KEYS else []
            self._items[place] = (row[0], row[1], ", ".join([row[2], *rest]))
        self._forget(row[0])

    def remove(self, name: str) -> None:
        """Drop every value of `name`; nothing happens when there is none."""
        key = fold_name(name)[0]
        self._items = [item for item in self._items if item[0] != key]
        self._forget(key)

    def items(self) -> list[tuple[str, str]]:
        """`(name, raw value)` in wire order."""
        return [(name, value) for _, name, value in self._items]

    def copy(self) -> Headers:
        """An independent copy; typed values are immutable and shared."""
        twin = Headers.from_wire(list(self._items))
        twin._typed = dict(self._typed)
        return twin

    def typed(self, name: str, read: Callable[[list[str]], T]) -> T:
        """`read(raw values)`, remembered until `name` changes. One reader per name, or they would mix."""
        key = fold_name(name)[0]
        if key not in self._typed:
            self._typed[key] = read(self.raw(name))
        value: T = self._typed[key]
        return value

    def _forget(self, key: str) -> None:
        self._typed.pop(key, None)

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.items())

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self._items == other._items

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"Headers({self.items()!r})"


def _row(name: str, value: str) -> tuple[str, str, str]:
    # A line break in a value that came from an app or a caller's header would start a header of its choosing.
    if not is_token(name) or "\r" in value or "\n" in value:
        raise ValueError(f"not a header field: {name!r}")
    return (*fold_name(name), value.strip(LWS))


def _elements(value: str) -> list[str]:
    """Comma elements of a value nobody has checked: one that does not scan counts as a single element."""
    try:
        return split_commas(value)
    except SipSyntaxError:
        return [value]


def _wire(changes: dict[str, str | None]) -> dict[str, str | None]:
    return {name: None if value is None else param_value(value) for name, value in changes.items()}


def _after_display(display: str, text: str) -> NameAddr:
    closing = text.find(">")
    if not text.startswith("<") or closing < 0:
        raise SipSyntaxError("URI is not enclosed in <>")
    return NameAddr(display, parse_uri(text[1:closing]), parse_params(text[closing + 1 :]))


def _addr_spec(text: str) -> NameAddr:
    """Without brackets every parameter is the header's, and "?" or "," in the URI is forbidden (§20.10)."""
    uri, semicolon, params = text.partition(";")
    uri = uri.rstrip(LWS)
    if "?" in uri or "," in uri:
        raise SipSyntaxError("URI with ? or , must be enclosed in <>")
    return NameAddr("", parse_uri(uri), parse_params(semicolon + params))
