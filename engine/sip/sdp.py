"""Session descriptions (RFC 4566): text to frozen values and back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_LINES = 1024  # a browser's offer has some 120; each line becomes a tuple
MAX_MEDIA = 32  # each m= line must come back in the answer, so this bounds what an offer makes us send
MAX_FORMATS = 256  # RTP has 128 payload types; the same bound again for a format list of another protocol
BLACK_HOLES = ("0.0.0.0", "::")  # noqa: S104  # RFC 3264 §8.4: the RFC 2543 way to hold

_STATIC = {  # RFC 3551 §6, audio
    0: "PCMU/8000", 3: "GSM/8000", 4: "G723/8000", 5: "DVI4/8000", 6: "DVI4/16000", 7: "LPC/8000",
    8: "PCMA/8000", 9: "G722/8000", 10: "L16/44100/2", 11: "L16/44100", 12: "QCELP/8000", 13: "CN/8000",
    14: "MPA/90000", 15: "G728/8000", 16: "DVI4/11025", 17: "DVI4/22050", 18: "G729/8000",
}  # fmt: skip
DIRECTIONS = {  # (sends, receives)
    "sendrecv": (True, True), "sendonly": (True, False), "recvonly": (False, True), "inactive": (False, False),
}  # fmt: skip
DIRECTION_NAMES = {flags: name for name, flags in DIRECTIONS.items()}
_RTPMAP = re.compile(r"([^\s/]++)/([0-9]{1,7})(?:/([0-9]{1,2}))?")
_MEDIA_LINE = re.compile(r"(\S++) ([0-9]{1,5})(?:/([0-9]{1,5}))? (\S++)((?: ++\S++)*)")
_ORIGIN = re.compile(r"(\S++) ([0-9]{1,20}) ([0-9]{1,20}) IN (IP4|IP6) (\S++)")
_CONNECTION = re.compile(r"IN (IP4|IP6) ([A-Za-z0-9.:/_\-]++)")
_TIMES = re.compile(r"([0-9]{1,20}) ([0-9]{1,20})")

Attributes = tuple[tuple[str, str | None], ...]


class SdpError(ValueError):
    """A body that is no session description, or an answer that does not answer its offer."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The `o=` line: `version` rises by one with every change (RFC 3264 §8)."""

    username: str
    session_id: int
    version: int
    addr_type: str
    address: str

    def __str__(self) -> str:
        return f"{self.username} {self.session_id} {self.version} IN {self.addr_type} {self.address}"


@dataclass(frozen=True, slots=True)
class Connection:
    """The `c=` line; `address` as written, a multicast TTL included."""

    addr_type: str
    address: str

    @property
    def host(self) -> str:
        """The address alone: IPv4, IPv6 without brackets, or a host name."""
        return self.address.partition("/")[0]

    def __str__(self) -> str:
        return f"IN {self.addr_type} {self.address}"


@dataclass(frozen=True, slots=True)
class Codec:
    """An RTP payload format: `clock_rate` in Hz as RTP counts it (8000 for G.722), `fmtp` its parameters."""

    payload_type: int
    name: str
    clock_rate: int
    channels: int = 1
    fmtp: str | None = None

    def same_format(self, other: Codec) -> bool:
        """Equal but for the number and parameters, which each side chooses for itself."""
        return self._format == other._format

    @property
    def rtpmap(self) -> str:
        """`name/clock[/channels]`."""
        return f"{self.name}/{self.clock_rate}" + (f"/{self.channels}" if self.channels > 1 else "")

    @property
    def _format(self) -> tuple[str, int, int]:
        return self.name.lower(), self.clock_rate, self.channels


@dataclass(frozen=True, slots=True)
class Media:
    """One `m=` section. `port` 0 means refused or removed; `attributes` in wire order."""

    kind: str
    port: int
    port_count: int
    protocol: str
    formats: tuple[str, ...]
    connection: Connection | None = None
    attributes: Attributes = ()

    def codecs(self) -> tuple[Codec, ...]:
        """The formats in the sender's order of preference, named by rtpmap or RFC 3551; others left out."""
        maps, params = self._by_format("rtpmap"), self._by_format("fmtp")
        return tuple(c for f in self.formats if (c := _codec(f, maps.get(f), params.get(f))) is not None)

    def attribute(self, name: str) -> str | None:
        """The first value of `a=name:value`; "" for a bare `a=name`, None when absent."""
        return _attribute(self.attributes, name)

    @property
    def direction(self) -> str | None:
        """This section's own direction, None when it inherits; see `Sdp.direction`."""
        return _direction(self.attributes)

    @property
    def ptime(self) -> int | None:
        """Milliseconds of audio per packet that the sender of this description wants to receive."""
        return _milliseconds(self.attribute("ptime"))

    @property
    def maxptime(self) -> int | None:
        """The most milliseconds per packet it can take."""
        return _milliseconds(self.attribute("maxptime"))

    def _by_format(self, name: str) -> dict[str, str]:
        pairs = [(value or "").partition(" ") for key, value in self.attributes if key == name]
        return {payload_type: value.strip() for payload_type, _, value in reversed(pairs)}

    def _lines(self) -> Iterator[str]:
        count = f"/{self.port_count}" if self.port_count != 1 else ""
        yield " ".join((f"m={self.kind}", f"{self.port}{count}", self.protocol, *self.formats))
        if self.connection is not None:
            yield f"c={self.connection}"
        yield from _attribute_lines(self.attributes)


@dataclass(frozen=True, slots=True)
class Sdp:
    """A session description. Lines that steer nothing here (i= u= e= p= b= r= z= k=) are read and dropped."""

    origin: Origin
    session_name: str
    connection: Connection | None
    timing: tuple[tuple[int, int], ...] = ((0, 0),)
    attributes: Attributes = ()
    media: tuple[Media, ...] = ()

    def __str__(self) -> str:
        return "\r\n".join(self._lines()) + "\r\n"

    def to_bytes(self) -> bytes:
        """The wire form, CRLF after every line."""
        return str(self).encode()

    def direction(self, media: Media) -> str:
        """The declared direction: the section's, else the session's, else sendrecv (RFC 4566 §6)."""
        return media.direction or _direction(self.attributes) or "sendrecv"

    def address(self, media: Media) -> str:
        """Where `media` is received: an IP address or a host name; raises SdpError when nothing says."""
        return self.connection_of(media).host

    def is_hold(self, media: Media) -> bool:
        """Whether the sender takes no media: sendonly, inactive, or a c= line of 0.0.0.0 (RFC 3264 §8.4)."""
        return not DIRECTIONS[self.effective_direction(media)][1]

    def effective_direction(self, media: Media) -> str:
        """`direction`, less receiving when the address is a black hole."""
        sends, receives = DIRECTIONS[self.direction(media)]
        return DIRECTION_NAMES[sends, receives and self.address(media) not in BLACK_HOLES]

    def connection_of(self, media: Media) -> Connection:
        """The c= line that applies to `media`; raises SdpError when none does."""
        connection = media.connection or self.connection
        if connection is None:
            raise SdpError("no c= line applies")
        return connection

    def _lines(self) -> Iterator[str]:
        yield from ("v=0", f"o={self.origin}", f"s={self.session_name}")
        if self.connection is not None:
            yield f"c={self.connection}"
        yield from (f"t={start} {stop}" for start, stop in self.timing)
        yield from _attribute_lines(self.attributes)
        for media in self.media:
            yield from media._lines()


def parse_sdp(body: bytes) -> Sdp:
    """Read a session description, lines ended by CRLF or LF; raises SdpError."""
    sections: list[list[tuple[str, str]]] = [[]]
    for kind, value in _split_lines(body):
        if kind == "m":
            sections.append([])
        sections[-1].append((kind, value))
    if len(sections) > MAX_MEDIA + 1:
        raise SdpError("too many m= lines")
    session = sections[0]
    if session[:1] != [("v", "0")]:
        raise SdpError("does not begin with v=0")
    media = tuple(_parse_media(section) for section in sections[1:])
    connection = _parse_connection(session)
    if connection is None and any(m.port and m.connection is None for m in media):
        raise SdpError("no c= line applies to a medium")
    name = _first(session, "s") or "-"  # RFC 4566 §5.3 wants one; a missing s= hides nothing
    return Sdp(_parse_origin(session), name, connection, _timing(session), _attributes(session), media)


def _split_lines(body: bytes) -> list[tuple[str, str]]:
    text = body.decode("utf-8", "replace").replace("\r\n", "\n").rstrip("\n")
    if "\r" in text or "\x00" in text:
        raise SdpError("CR or NUL inside a line")
    lines = text.split("\n", MAX_LINES)
    if len(lines) > MAX_LINES:
        raise SdpError("too many lines")
    pairs = [(line[:1], line[2:]) for line in lines if line[1:2] == "=" and line[0].isalpha()]
    if len(pairs) != len(lines):
        raise SdpError("a line is not <type>=<value>")
    return pairs


def _first(section: list[tuple[str, str]], kind: str) -> str | None:
    return next((value for key, value in section if key == kind), None)


def _parse_origin(session: list[tuple[str, str]]) -> Origin:
    found = _ORIGIN.fullmatch((_first(session, "o") or "").strip())
    if found is None:
        raise SdpError("malformed o= line")
    return Origin(found[1], int(found[2]), int(found[3]), found[4], found[5])


def _parse_connection(section: list[tuple[str, str]]) -> Connection | None:
    value = _first(section, "c")
    if value is None:
        return None
    found = _CONNECTION.fullmatch(value.strip())
    if found is None:
        raise SdpError("malformed c= line")
    return Connection(found[1], found[2])


def _timing(session: list[tuple[str, str]]) -> tuple[tuple[int, int], ...]:
    found = [_TIMES.fullmatch(value.strip()) for kind, value in session if kind == "t"]
    times = tuple((int(t[1]), int(t[2])) for t in found if t is not None)
    if len(times) != len(found):
        raise SdpError("malformed t= line")
    return times or ((0, 0),)


def _attributes(section: list[tuple[str, str]]) -> Attributes:
    pairs = [value.partition(":") for kind, value in section if kind == "a"]
    return tuple((name, value if colon else None) for name, colon, value in pairs)


def _parse_media(section: list[tuple[str, str]]) -> Media:
    found = _MEDIA_LINE.fullmatch(section[0][1].rstrip())
    if found is None or int(found[2]) > 65535:
        raise SdpError("malformed m= line")
    kind, port, count, protocol, formats = found.groups()
    listed = tuple(formats.split())
    if len(listed) > MAX_FORMATS:
        raise SdpError("too many formats")
    connection, attributes = _parse_connection(section), _attributes(section)
    return Media(kind, int(port), int(count or 1), protocol, listed, connection, attributes)


def _attribute_lines(attributes: Attributes) -> Iterator[str]:
    return (f"a={name}" if value is None else f"a={name}:{value}" for name, value in attributes)


def _attribute(attributes: Attributes, name: str) -> str | None:
    return next((value or "" for key, value in attributes if key == name), None)


def _direction(attributes: Attributes) -> str | None:
    return next((name for name, value in attributes if value is None and name in DIRECTIONS), None)


def _milliseconds(value: str | None) -> int | None:
    """Positive whole milliseconds; a fraction ("20.0") is cut, nonsense counts as absent."""
    found = re.match(r"\s*([0-9]{1,4})(?![0-9])", value or "")
    return (int(found[1]) or None) if found else None


def _codec(payload: str, rtpmap: str | None, fmtp: str | None) -> Codec | None:
    if not (payload.isascii() and payload.isdigit()) or len(payload) > 3 or int(payload) > 127:
        return None
    found = _RTPMAP.fullmatch(rtpmap or _STATIC.get(int(payload), ""))
    if found is None or not int(found[2]):
        return None
    return Codec(int(payload), found[1], int(found[2]), int(found[3] or 1), fmtp or None)
