"""Datagram in, message out: the one door through which a peer's bytes become a Request or a Response.

`parse_datagram` never raises. What breaks the grammar comes back as `Malformed`, which carries the answer the
RFC wants and, when a Via could be read, just enough of the request to address that answer. The grammar is
checked here once and in full for the headers that steer the stack; RFC 4475 says what may not get through.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from engine.sip.grammar import LWS, SipSyntaxError, is_token, parse_number, split_commas
from engine.sip.headers import Headers, NameAddr, Via, fold_name
from engine.sip.message import Message, Request, Response
from engine.sip.uri import OtherUri, SipUri, parse_uri

MAX_DATAGRAM = 65535  # no UDP payload is larger; more can only come from a caller's mistake
MAX_HEADER_BYTES = 32768  # the longest honest header blocks (STIR passports, WebRTC) stay under 16 kB
MAX_HEADERS = 256  # lines, a comma list counting as one; RFC 4475's longest message has 43
MAX_VIAS = 70  # each proxy adds one and Max-Forwards starts at 70, so more never travelled

_KEEP_ALIVE = b"\r\n\x00 "  # RFC 5626 §4.4.1 sends CRLF CRLF; some phones send NULs or a lone space
_FOLD = re.compile(r"\r\n[ \t]+")
_DATE = re.compile(
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), [0-9]{1,2} "
    r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"
)
# Two values here would mean two different dialogs, lengths or lifetimes: RFC 4475 §3.3.8 and §3.3.9.
_SINGLE_VALUE = frozenset({
    "call-id", "content-length", "content-type", "cseq", "date", "event", "expires", "from", "max-forwards",
    "min-expires", "min-se", "refer-to", "replaces", "session-expires", "to",
})  # fmt: skip
_SALVAGED = ("From", "To", "Call-ID", "CSeq")
_UNREADABLE = OtherUri("invalid", "unreadable")

_Row = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Malformed:
    """Bytes that are no acceptable message.

    `reason` is for logs. `status` is the answer due; 0 means drop in silence: keep-alives, responses, ACKs
    (which are never answered) and what is not SIP at all. `request` serves `response_to` and nothing else;
    None when no Via could be read, so that there is nowhere to answer to.
    """

    reason: str
    status: int
    request: Request | None


def parse_datagram(data: bytes) -> Request | Response | Malformed:
    """Read one whole message from one datagram; never raises.

    Octets after Content-Length are ignored (RFC 3261 §18.3), a Content-Length past the end is malformed. A
    parsed message has no Content-Length header: `len(body)` is the truth, and `to_bytes` writes it.
    """
    if not data.strip(_KEEP_ALIVE):
        return Malformed("keep-alive", 0, None)
    try:
        return _parse(data)
    except SipSyntaxError as fault:
        return _malformed(data, fault)


def _parse(data: bytes) -> Request | Response:
    head, body = _split(data)
    start, _, lines = head.partition("\r\n")
    message: Request | Response
    if start[:4].upper() == "SIP/":
        message = Response(*_status_line(start))
    else:
        message = Request(*_request_line(start))
    rows = _rows(lines)
    message.body = _body(rows, body)
    message.headers = Headers.from_wire([row for row in rows if row[0] != "content-length"])
    _check(message)
    return message


def _split(data: bytes) -> tuple[str, bytes]:
    """Header text and everything after the blank line. Invalid UTF-8 is replaced, so that no string of ours
    fails to encode later, in a database or a webhook; the identifiers that matter are ASCII anyway."""
    if len(data) > MAX_DATAGRAM:
        raise SipSyntaxError("datagram is too large", 513)
    data = data.lstrip(b"\r\n")  # RFC 3261 §7.5
    end = data.find(b"\r\n\r\n")
    if end < 0:
        raise SipSyntaxError("no blank line after the headers")
    if end > MAX_HEADER_BYTES:
        raise SipSyntaxError("headers are too large", 513)
    head = data[:end]
    # A bare CR or LF would be one line here and two to the next element that reads our copy of it.
    if not head.count(b"\r\n") == head.count(b"\r") == head.count(b"\n"):
        raise SipSyntaxError("bare CR or LF in the headers")
    return head.decode("utf-8", "replace"), data[end + 4 :]


def _status_line(line: str) -> tuple[int, str]:
    version, _, rest = line.partition(" ")
    status, _, reason = rest.partition(" ")
    _check_version(version)
    number = parse_number(status, 699, "status code")
    if len(status) != 3 or number < 100:
        raise SipSyntaxError("status code is not 100..699")
    return number, reason


def _request_line(line: str) -> tuple[str, SipUri | OtherUri]:
    """Exactly two spaces (RFC 4475 §3.1.2.8 to §3.1.2.10): any other reading leaves the URI in doubt."""
    parts = line.split(" ", 3)
    if len(parts) != 3 or not is_token(parts[0]):
        raise SipSyntaxError("malformed request line")
    method, target, version = parts
    _check_version(version)
    uri = parse_uri(target)
    if isinstance(uri, SipUri) and uri.headers:  # §19.1.1: not allowed here, and never to be acted on
        raise SipSyntaxError("Request-URI carries headers")
    return method, uri


def _check_version(version: str) -> None:
    if version.upper() == "SIP/2.0":
        return
    raise SipSyntaxError("unknown SIP version", 505 if version[:4].upper() == "SIP/" else 400)


def _rows(lines: str) -> list[_Row]:
    if "\r\n " in lines or "\r\n\t" in lines:
        lines = _FOLD.sub(" ", lines)
    split = lines.split("\r\n", MAX_HEADERS) if lines else []
    if len(split) > MAX_HEADERS:
        raise SipSyntaxError("too many headers")
    rows = [_row(line) for line in split]
    single = [key for key, _, _ in rows if key in _SINGLE_VALUE]
    if len(single) != len(set(single)):
        raise SipSyntaxError("single-value header repeated")
    return rows


def _row(line: str) -> _Row:
    name, colon, value = line.partition(":")
    name = name.rstrip(LWS)
    if not colon or not is_token(name):
        raise SipSyntaxError("malformed header line")
    key, canonical = fold_name(name)
    return key, canonical, value.strip(LWS)


def _body(rows: list[_Row], body: bytes) -> bytes:
    length = next((value for key, _, value in rows if key == "content-length"), None)
    if length is None:  # allowed on UDP: the datagram ends the body
        return body
    size = parse_number(length, MAX_DATAGRAM, "Content-Length")
    if size > len(body):
        raise SipSyntaxError("Content-Length exceeds the message")
    return body[:size]


def _check(message: Request | Response) -> None:
    """Read every header that steers the stack, so that nobody meets its breach later."""
    _check_headers(message)
    if isinstance(message, Request) and message.cseq.method != message.method:
        raise SipSyntaxError("CSeq method differs from the request's")
    date = message.headers.get("Date")
    if date is not None and not _DATE.fullmatch(date):
        raise SipSyntaxError("Date is not GMT")


def _check_headers(message: Message) -> None:
    if len(message.vias) > MAX_VIAS:
        raise SipSyntaxError("too many Vias")
    for view in (message.from_, message.to):
        _check_tag(view)
    _ = (message.call_id, message.cseq, message.max_forwards, message.expires)
    _ = (message.contacts, message.routes, message.record_routes, message.content_type)


def _check_tag(address: NameAddr) -> None:
    """An empty tag would match "no tag" and let a request slip into the wrong dialog."""
    if address.has_param("tag") and not address.tag:
        raise SipSyntaxError("tag without a value")


def _malformed(data: bytes, fault: SipSyntaxError) -> Malformed:
    head = data[:MAX_HEADER_BYTES].lstrip(b"\r\n").partition(b"\r\n\r\n")[0].decode("utf-8", "replace")
    start, _, lines = head.partition("\r\n")
    method = start.partition(" ")[0]
    silent = start[:4].upper() == "SIP/" or method == "ACK" or "SIP/" not in start.upper()
    if silent:
        return Malformed(fault.reason, 0, None)
    return Malformed(fault.reason, fault.status, _salvage(method, lines))


def _salvage(method: str, lines: str) -> Request | None:
    """The first From, To, Call-ID and CSeq as they came, and the readable Vias; None without a Via."""
    rows: list[_Row] = []
    for line in _FOLD.sub(" ", lines).split("\r\n", MAX_HEADERS)[:MAX_HEADERS]:
        try:
            row = _row(line)
        except SipSyntaxError:
            continue
        if "\r" not in row[2] and "\n" not in row[2]:  # ours to send again: never with a line break inside
            rows.append(row)
    vias = [via for key, _, value in rows if key == "via" for via in _readable_vias(value)]
    if not vias or len(vias) > MAX_VIAS:
        return None
    headers = Headers([("Via", str(via)) for via in vias])
    for name in _SALVAGED:
        value = next((value for _, known, value in rows if known == name), None)
        if value is not None:
            headers.add(name, value)
    return Request(method if is_token(method) else "UNKNOWN", _UNREADABLE, headers)


def _readable_vias(value: str) -> list[Via]:
    """The Vias of one header line; of a broken one, what stands before its first bad parameter."""
    try:
        return [Via.parse(element) for element in split_commas(value)]
    except SipSyntaxError:
        return _via_prefix(value)


def _via_prefix(value: str) -> list[Via]:
    """At most one Via: the branch is first in most, and even sent-by alone is enough to answer to."""
    sent_by, _, rest = value.partition(";")
    branch = rest.partition(";")[0].partition(",")[0]
    for candidate in (f"{sent_by};{branch}", sent_by):
        try:
            return [Via.parse(candidate)]
        except SipSyntaxError:
            continue
    return []
