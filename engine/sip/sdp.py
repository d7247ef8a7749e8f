"""Session descriptions (RFC 4566) and the audio offer/answer on top of them (RFC 3264): pure functions.

An answer holds exactly one codec, with telephone-event (RFC 4733) at that codec's clock when the peer has it:
a second codec would let the peer switch in mid-call, and a media worker encodes a call for one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address

MAX_LINES = 1024  # a browser's offer has some 120; each line becomes a tuple
MAX_MEDIA = 32  # each m= line must come back in the answer, so this bounds what an offer makes us send
MAX_FORMATS = 256  # RTP has 128 payload types; the same bound again for a format list of another protocol
MIN_PTIME, MAX_PTIME, DEFAULT_PTIME = (
    10,
    60,
    20,
)  # ms; 10 is the media tick's half, 60 the jitter buffer's depth
DTMF_EVENTS = "0-15"  # RFC 4733 §3.2: 0-9, *, #, A-D
FIRST_DTMF_TYPE = 101  # by custom; peers that ignore rtpmap assume it
BLACK_HOLES = ("0.0.0.0", "::")  # noqa: S104  # RFC 3264 §8.4: the RFC 2543 way to hold
RTP_PROTOCOLS = ("RTP/AVP", "RTP/AVPF")

_STATIC = {  # RFC 3551 §6, audio
    0: "PCMU/8000", 3: "GSM/8000", 4: "G723/8000", 5: "DVI4/8000", 6: "DVI4/16000", 7: "LPC/8000",
    8: "PCMA/8000", 9: "G722/8000", 10: "L16/44100/2", 11: "L16/44100", 12: "QCELP/8000", 13: "CN/8000",
    14: "MPA/90000", 15: "G728/8000", 16: "DVI4/11025", 17: "DVI4/22050", 18: "G729/8000",
}  # fmt: skip
_NOT_SPEECH = ("telephone-event", "cn", "red")  # ride beside a codec, never alone
_DIRECTIONS = {  # (sends, receives)
    "sendrecv": (True, True), "sendonly": (True, False), "recvonly": (False, True), "inactive": (False, False),
}  # fmt: skip
_DIRECTION_NAMES = {flags: name for name, flags in _DIRECTIONS.items()}
_RTPMAP = re.compile(r"([^\s/]++)/([0-9]{1,7})(?:/([0-9]{1,2}))?")
_MEDIA_LINE = re.compile(r"(\S++) ([0-9]{1,5})(?:/([0-9]{1,5}))? (\S++)((?: ++\S++)*+)")
_ORIGIN = re.compile(r"(\S++) ([0-9]{1,20}) ([0-9]{1,20}) IN (IP4|IP6) (\S++)")
_CONNECTION = re.compile(r"IN (IP4|IP6) ([A-Za-z0-9.:/_\-]++)")
_RTCP = re.compile(r"([0-9]{1,5})(?: IN (?:IP4|IP6) ([A-Za-z0-9.:_\-]++))?")
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
        return self._connection(media).host

    def is_hold(self, media: Media) -> bool:
        """Whether the sender takes no media: sendonly, inactive, or a c= line of 0.0.0.0 (RFC 3264 §8.4)."""
        return not _DIRECTIONS[self.effective_direction(media)][1]

    def effective_direction(self, media: Media) -> str:
        """`direction`, less receiving when the address is a black hole."""
        sends, receives = _DIRECTIONS[self.direction(media)]
        return _DIRECTION_NAMES[sends, receives and self.address(media) not in BLACK_HOLES]

    def _connection(self, media: Media) -> Connection:
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


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What we speak: `codecs` in order of preference, telephone-event clocks in Hz, `ptime` in ms."""

    codecs: tuple[Codec, ...]
    dtmf_clock_rates: tuple[int, ...] = (8000,)
    ptime: int = DEFAULT_PTIME


@dataclass(frozen=True, slots=True)
class Negotiated:
    """What both sides agreed on for audio.

    `codec` and `dtmf` carry the payload types that the *peer* wants to receive, so they are what we send
    with; `receive_type` tells what it sends to us. `direction` is ours. `rtcp_port` is a=rtcp's (RFC 3605),
    else the next port, None when there is none. `ptime` in ms, 10..60. `remote_hold`: send the peer nothing.
    """

    local: Sdp
    codec: Codec
    dtmf: Codec | None
    remote_address: str
    remote_port: int
    rtcp_address: str
    rtcp_port: int | None
    direction: str
    ptime: int
    remote_hold: bool

    def receive_type(self, codec: Codec) -> int:
        """The payload type our own description gave this format; answers may renumber (RFC 3264 §6.1)."""
        ours = (c for media in self.local.media if media.port for c in media.codecs())
        return next((c.payload_type for c in ours if c.same_format(codec)), codec.payload_type)


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


def make_offer(
    address: str,
    port: int,
    capabilities: Capabilities,
    session_id: int,
    version: int,
    direction: str = "sendrecv",
    *,
    previous: Sdp | None = None,
) -> Sdp:
    """An offer of one audio stream, received at `address:port` (IPv4 or IPv6).

    In a re-offer give our last description as `previous`: its m= lines stay in number and order, all but the
    audio stream's refused, since RFC 3264 §8 lets no line disappear.
    """
    dtmf = _offered_dtmf(capabilities)
    audio = _audio(port, "RTP/AVP", (*capabilities.codecs, *dtmf), direction, capabilities.ptime)
    return _describe(address, session_id, version, _in_place(audio, previous))


def negotiate(
    offer: Sdp,
    capabilities: Capabilities,
    address: str,
    port: int,
    session_id: int,
    version: int,
    local_direction: str = "sendrecv",
) -> Negotiated | None:
    """Answer `offer` (RFC 3264 §6): the first audio stream with a codec of ours, in our order of preference;
    every other stream refused. None when there is no such stream: the answer is then 488."""
    for index, media in enumerate(offer.media):
        codec = _common(capabilities.codecs, media) if _usable(offer, media, address) else None
        if codec is None:
            continue
        dtmf = _matching_dtmf(media, codec, capabilities.dtmf_clock_rates)
        direction = _meet(local_direction, offer.effective_direction(media))
        ptime = _packet_time(media, capabilities.ptime)
        formats = [_own_fmtp(c, capabilities) for c in (codec, dtmf) if c is not None]
        answered = list(map(_refused, offer.media))
        answered[index] = _audio(port, media.protocol, tuple(formats), direction, ptime)
        local = _describe(address, session_id, version, tuple(answered))
        return _agreed(local, offer, media, codec, dtmf, direction, ptime)
    return None


def accept_answer(offer: Sdp, answer: Sdp) -> Negotiated:
    """What the answer to our `offer` settled; raises SdpError when it settles no audio stream."""
    if len(answer.media) != len(offer.media):
        raise SdpError("the answer's m= lines do not match the offer's")
    for ours, theirs in zip(offer.media, answer.media, strict=True):
        if not ours.port or not _usable(answer, theirs, offer.address(ours)):
            continue
        codec = _common(theirs.codecs(), ours)
        if codec is None:
            continue
        codec = next(c for c in theirs.codecs() if c.same_format(codec))
        dtmf = _matching_dtmf(theirs, codec, _dtmf_rates(ours))
        direction = _meet(offer.direction(ours), answer.effective_direction(theirs))
        ptime = _packet_time(theirs, ours.ptime or DEFAULT_PTIME)
        return _agreed(offer, answer, theirs, codec, dtmf, direction, ptime)
    raise SdpError("the answer accepts no audio stream")


def versioned(sdp: Sdp, previous: Sdp | None) -> Sdp:
    """`sdp` with the o= version RFC 3264 §8 asks for after `previous`: the same when nothing else changed,
    else one more. A peer may ignore a description whose version did not move."""
    if previous is None:
        return sdp
    origin = previous.origin
    if replace(sdp, origin=origin) == previous:
        return previous
    return replace(sdp, origin=replace(origin, version=origin.version + 1))


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
    return next((name for name, value in attributes if value is None and name in _DIRECTIONS), None)


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


def _is_dtmf(codec: Codec) -> bool:
    return codec.name.lower() == "telephone-event"


def _dtmf_rates(media: Media) -> tuple[int, ...]:
    return tuple(codec.clock_rate for codec in media.codecs() if _is_dtmf(codec))


def _offered_dtmf(capabilities: Capabilities) -> list[Codec]:
    taken = {codec.payload_type for codec in capabilities.codecs}
    free = (number for number in range(FIRST_DTMF_TYPE, 128) if number not in taken)
    rates = capabilities.dtmf_clock_rates
    return [Codec(n, "telephone-event", r, fmtp=DTMF_EVENTS) for n, r in zip(free, rates, strict=False)]


def _matching_dtmf(media: Media, codec: Codec, rates: tuple[int, ...]) -> Codec | None:
    """telephone-event on the codec's clock: another clock would not share its timestamps (RFC 4733 §2.1)."""
    if codec.clock_rate not in rates:
        return None
    return next((c for c in media.codecs() if _is_dtmf(c) and c.clock_rate == codec.clock_rate), None)


def _common(preferred: tuple[Codec, ...], media: Media) -> Codec | None:
    """The first of `preferred` that `media` has too, under the number `media` gives it."""
    there = [codec for codec in media.codecs() if codec.name.lower() not in _NOT_SPEECH]
    return next((t for ours in preferred for t in there if t.same_format(ours)), None)


def _usable(sdp: Sdp, media: Media, local_address: str) -> bool:
    """Plain RTP audio, to be sent from our address family to one host and not to a group."""
    if media.kind != "audio" or not media.port or media.protocol not in RTP_PROTOCOLS:
        return False
    connection = sdp._connection(media)
    if connection.host in BLACK_HOLES:
        return True
    return connection.addr_type == _family(local_address) and not _is_group(connection.host)


def _is_group(host: str) -> bool:
    # One forged c= line must not make us send a call's audio to a whole network.
    try:
        return ip_address(host).is_multicast or host == "255.255.255.255"
    except ValueError:
        return False


def _family(address: str) -> str:
    return "IP6" if ":" in address else "IP4"


def _meet(ours: str, theirs: str) -> str:
    """Our direction when we want `ours` and the peer declares `theirs` (RFC 3264 §6.1)."""
    we_send, we_receive = _DIRECTIONS[ours]
    they_send, they_receive = _DIRECTIONS[theirs]
    return _DIRECTION_NAMES[we_send and they_receive, we_receive and they_send]


def _packet_time(media: Media, preferred: int) -> int:
    wanted = media.ptime or preferred
    limit = media.maxptime or MAX_PTIME
    whole = min(wanted, limit, MAX_PTIME) // 10 * 10  # the tick deals in 10 ms
    return max(whole, MIN_PTIME)


def _own_fmtp(codec: Codec, capabilities: Capabilities) -> Codec:
    """The answered format: the offer's number and our own parameters, since fmtp says what *we* receive."""
    if _is_dtmf(codec):
        return replace(codec, fmtp=DTMF_EVENTS)
    return replace(codec, fmtp=next(c.fmtp for c in capabilities.codecs if c.same_format(codec)))


def _audio(port: int, protocol: str, codecs: tuple[Codec, ...], direction: str, ptime: int) -> Media:
    attributes: list[tuple[str, str | None]] = []
    for codec in codecs:
        attributes.append(("rtpmap", f"{codec.payload_type} {codec.rtpmap}"))
        if codec.fmtp:
            attributes.append(("fmtp", f"{codec.payload_type} {codec.fmtp}"))
    attributes += [("ptime", str(ptime)), (direction, None)]
    formats = tuple(str(codec.payload_type) for codec in codecs)
    return Media("audio", port, 1, protocol, formats, None, tuple(attributes))


def _refused(media: Media) -> Media:
    return Media(media.kind, 0, 1, media.protocol, media.formats)


def _in_place(audio: Media, previous: Sdp | None) -> tuple[Media, ...]:
    lines = () if previous is None else previous.media
    live = next((i for i, m in enumerate(lines) if m.kind == "audio" and m.port), None)
    if live is None:
        return (*map(_refused, lines), audio)
    return (*map(_refused, lines[:live]), audio, *map(_refused, lines[live + 1 :]))


def _describe(address: str, session_id: int, version: int, media: tuple[Media, ...]) -> Sdp:
    origin = Origin("-", session_id, version, _family(address), address)
    return Sdp(origin, "-", Connection(_family(address), address), media=media)


def _agreed(
    local: Sdp, remote: Sdp, media: Media, codec: Codec, dtmf: Codec | None, direction: str, ptime: int
) -> Negotiated:
    address = remote.address(media)
    rtcp_address, rtcp_port = _rtcp(media, address)
    hold = remote.is_hold(media)
    return Negotiated(
        local, codec, dtmf, address, media.port, rtcp_address, rtcp_port, direction, ptime, hold
    )


def _rtcp(media: Media, address: str) -> tuple[str, int | None]:
    """a=rtcp (RFC 3605), else the port above RTP's (RFC 3550 §11)."""
    found = _RTCP.fullmatch(media.attribute("rtcp") or "")
    port = int(found[1]) if found else media.port + 1
    host = found[2] if found and found[2] and not _is_group(found[2]) else address
    return host, port if 0 < port <= 65535 else None
