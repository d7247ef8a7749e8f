"""Requests and responses: start line, headers and body, with typed views of the headers every layer reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from engine.sip.grammar import LWS, SipSyntaxError, parse_number, split_commas
from engine.sip.headers import ContentType, CSeq, Headers, NameAddr, Via
from engine.sip.uri import OtherUri, SipUri

T = TypeVar("T")

MAX_FORWARDS = 255  # RFC 3261 §20.22: the field's range
MAX_EXPIRES = 2**32 - 1  # RFC 3261 §20.19: delta-seconds; more than this means "as long as you let me"

REASONS = {
    100: "Trying", 180: "Ringing", 181: "Call Is Being Forwarded", 182: "Queued", 183: "Session Progress",
    199: "Early Dialog Terminated", 200: "OK", 202: "Accepted", 204: "No Notification",
    300: "Multiple Choices", 301: "Moved Permanently", 302: "Moved Temporarily", 305: "Use Proxy",
    380: "Alternative Service",
    400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found",
    405: "Method Not Allowed", 406: "Not Acceptable", 407: "Proxy Authentication Required",
    408: "Request Timeout", 410: "Gone", 412: "Conditional Request Failed", 413: "Request Entity Too Large",
    414: "Request-URI Too Long", 415: "Unsupported Media Type", 416: "Unsupported URI Scheme",
    417: "Unknown Resource-Priority", 420: "Bad Extension", 421: "Extension Required",
    422: "Session Interval Too Small", 423: "Interval Too Brief", 428: "Use Identity Header",
    429: "Provide Referrer Identity", 430: "Flow Failed", 433: "Anonymity Disallowed",
    436: "Bad Identity Info", 437: "Unsupported Credential", 438: "Invalid Identity Header",
    439: "First Hop Lacks Outbound Support", 440: "Max-Breadth Exceeded", 469: "Bad Info Package",
    470: "Consent Needed", 480: "Temporarily Unavailable", 481: "Call/Transaction Does Not Exist",
    482: "Loop Detected", 483: "Too Many Hops", 484: "Address Incomplete", 485: "Ambiguous",
    486: "Busy Here", 487: "Request Terminated", 488: "Not Acceptable Here", 489: "Bad Event",
    491: "Request Pending", 493: "Undecipherable", 494: "Security Agreement Required",
    500: "Server Internal Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
    504: "Server Time-out", 505: "Version Not Supported", 513: "Message Too Large",
    555: "Push Notification Service Not Supported", 580: "Precondition Failure",
    600: "Busy Everywhere", 603: "Decline", 604: "Does Not Exist Anywhere", 606: "Not Acceptable",
    607: "Unwanted", 608: "Rejected",
}  # fmt: skip
"""Reason phrases as the IANA registry spells them."""

# RFC 3261 §12.1.1, RFC 6665 §4.2.1, RFC 3515 §3: a response to these may found a dialog, and the dialog's
# route set is its Record-Route; without the copy, in-dialog requests would miss the proxies.
_DIALOG_METHODS = frozenset({"INVITE", "SUBSCRIBE", "REFER"})


class Message:
    """What requests and responses share. Typed views raise SipSyntaxError on a header that does not parse;
    a message from `parse_datagram` has been checked, so there they do not. Views are read once and
    remembered until the header changes."""

    __slots__ = ()

    headers: Headers
    body: bytes

    def start_line(self) -> str:
        """The first line, without CRLF."""
        raise NotImplementedError

    def to_bytes(self) -> bytes:
        """The wire form. Content-Length is always ours to write: it is what ends the body on a stream."""
        start = self.start_line()
        if "\r" in start or "\n" in start:
            raise ValueError("line break in a start line")
        lines = [start]
        lines += [f"{name}: {value}" for name, value in self.headers.items() if name != "Content-Length"]
        lines += [f"Content-Length: {len(self.body)}", "", ""]
        return "\r\n".join(lines).encode() + self.body

    @property
    def via(self) -> Via:
        """The topmost Via."""
        return self.vias[0]

    @property
    def vias(self) -> tuple[Via, ...]:
        """Every Via, topmost first; at least one."""
        return self.headers.typed("Via", _read_vias)

    @property
    def from_(self) -> NameAddr:
        """Who the request is from; its tag names the caller's side of the dialog."""
        return self.headers.typed("From", _read_from)

    @property
    def to(self) -> NameAddr:
        """Who the request was first sent to; its tag names the called side of the dialog."""
        return self.headers.typed("To", _read_to)

    @property
    def call_id(self) -> str:
        """The Call-ID, compared byte for byte."""
        return self.headers.typed("Call-ID", _read_call_id)

    @property
    def cseq(self) -> CSeq:
        """Sequence number and method."""
        return self.headers.typed("CSeq", _read_cseq)

    @property
    def contact(self) -> NameAddr | None:
        """The first Contact; None when there is none, or only `*`."""
        contacts = self.contacts
        return contacts[0] if contacts else None

    @property
    def contacts(self) -> tuple[NameAddr, ...]:
        """Every Contact; empty for `Contact: *`, which `wildcard_contact` tells from none at all."""
        return self.headers.typed("Contact", _read_contacts)

    @property
    def wildcard_contact(self) -> bool:
        """`Contact: *`: remove every binding (RFC 3261 §10.2.2)."""
        return self.headers.raw("Contact") == ["*"]

    @property
    def record_routes(self) -> tuple[NameAddr, ...]:
        """Every Record-Route in wire order: a UAC's route set is the reverse (RFC 3261 §12.1.2)."""
        return self.headers.typed("Record-Route", _read_addresses)

    @property
    def routes(self) -> tuple[NameAddr, ...]:
        """Every Route in wire order, next hop first."""
        return self.headers.typed("Route", _read_addresses)

    @property
    def content_type(self) -> ContentType | None:
        """The body's type, if given."""
        return self.headers.typed("Content-Type", _read_content_type)

    @property
    def max_forwards(self) -> int | None:
        """Hops left, 0..255; None when absent or over 255, which RFC 4475 §3.1.2.4 lets us ignore."""
        return self.headers.typed("Max-Forwards", _read_max_forwards)

    @property
    def expires(self) -> int | None:
        """The Expires header in seconds, at most 2**32 - 1; None when absent."""
        return self.headers.typed("Expires", _read_expires)

    def options(self, name: str) -> frozenset[str]:
        """The tokens of Require, Supported, Proxy-Require, Unsupported or Allow."""
        return frozenset(self.headers.all(name))


@dataclass(slots=True)
class Request(Message):
    """A request; `method` is case-sensitive (RFC 3261 §7.1)."""

    method: str
    uri: SipUri | OtherUri
    headers: Headers = field(default_factory=Headers)
    body: bytes = b""

    def start_line(self) -> str:
        """`Request-Line`, RFC 3261 §7.1."""
        return f"{self.method} {self.uri} SIP/2.0"


@dataclass(slots=True)
class Response(Message):
    """A response; `status` 100..699, `reason` for people only."""

    status: int
    reason: str
    headers: Headers = field(default_factory=Headers)
    body: bytes = b""

    def start_line(self) -> str:
        """`Status-Line`, RFC 3261 §7.2."""
        return f"SIP/2.0 {self.status} {self.reason}"


def response_to(
    request: Request,
    status: int,
    reason: str | None = None,
    *,
    to_tag: str | None = None,
    headers: Iterable[tuple[str, str]] = (),
    body: bytes = b"",
) -> Response:
    """A response as RFC 3261 §8.2.6.2 builds it: Via list, From, To, Call-ID and CSeq copied as they came.

    `to_tag` goes into a To that has none. Record-Route is copied where the response may found a dialog
    (§12.1.1), Timestamp into a 100 (§8.2.6.1). Headers that the request lacks are left out, so that a
    malformed request can be answered too.
    """
    copied = Headers()
    for name in ("Via", "From", "To", "Call-ID", "CSeq", *_extra_copies(request, status)):
        for value in request.headers.raw(name):
            copied.add(name, value)
    if to_tag is not None and (tagged := _tagged(copied.get("To"), to_tag)) is not None:
        copied.set("To", tagged)
    for name, value in headers:
        copied.add(name, value)
    return Response(status, REASONS.get(status, "") if reason is None else reason, copied, body)


def _extra_copies(request: Request, status: int) -> tuple[str, ...]:
    if status == 100:
        return ("Timestamp",)
    return ("Record-Route",) if status < 300 and request.method in _DIALOG_METHODS else ()


def _tagged(value: str | None, tag: str) -> str | None:
    """`value` with the tag added; None when it needs none or cannot take one."""
    try:
        to = NameAddr.parse(value or "")
    except SipSyntaxError:
        return None
    return None if to.tag else str(to.with_tag(tag))


def _only(values: list[str], name: str) -> str:
    if len(values) != 1:
        raise SipSyntaxError(f"{name} is {'repeated' if values else 'missing'}")
    return values[0]


def _at_most_one(values: list[str], name: str) -> str | None:
    return _only(values, name) if values else None


def _read_list(values: list[str], read: Callable[[str], T]) -> tuple[T, ...]:
    return tuple(read(element) for value in values for element in split_commas(value))


def _read_vias(values: list[str]) -> tuple[Via, ...]:
    if not values:
        raise SipSyntaxError("Via is missing")
    return _read_list(values, Via.parse)


def _read_addresses(values: list[str]) -> tuple[NameAddr, ...]:
    return _read_list(values, NameAddr.parse) if values else ()


def _read_contacts(values: list[str]) -> tuple[NameAddr, ...]:
    return () if values == ["*"] else _read_addresses(values)


def _read_from(values: list[str]) -> NameAddr:
    return NameAddr.parse(_only(values, "From"))


def _read_to(values: list[str]) -> NameAddr:
    return NameAddr.parse(_only(values, "To"))


def _read_cseq(values: list[str]) -> CSeq:
    return CSeq.parse(_only(values, "CSeq"))


def _read_call_id(values: list[str]) -> str:
    value = _only(values, "Call-ID")
    if not value or not value.isascii() or not value.isprintable() or " " in value:
        raise SipSyntaxError("malformed Call-ID")
    return value


def _read_content_type(values: list[str]) -> ContentType | None:
    value = _at_most_one(values, "Content-Type")
    return None if value is None else ContentType.parse(value)


def _read_max_forwards(values: list[str]) -> int | None:
    hops = _read_seconds(values, "Max-Forwards")
    return hops if hops is not None and hops <= MAX_FORWARDS else None


def _read_expires(values: list[str]) -> int | None:
    return _read_seconds(values, "Expires")


def _read_seconds(values: list[str], name: str) -> int | None:
    """Digits only; past 2**32 - 1 counts as that: the sender meant "long" (RFC 4475 §3.1.2.4)."""
    value = _at_most_one(values, name)
    if value is None:
        return None
    digits = value.strip(LWS)
    overlarge = digits.isascii() and digits.isdigit() and len(digits.lstrip("0")) > len(str(MAX_EXPIRES))
    return MAX_EXPIRES if overlarge else min(parse_number(digits, 10**10, name), MAX_EXPIRES)
