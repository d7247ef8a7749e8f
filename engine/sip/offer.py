"""Audio offer/answer (RFC 3264) on session descriptions: pure functions.

An answer holds exactly one codec, with telephone-event (RFC 4733) at that codec's clock when the peer has it:
a second codec would let the peer switch in mid-call, and a media worker encodes a call for one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from ipaddress import ip_address

from engine.sip.sdp import (
    BLACK_HOLES,
    DIRECTION_NAMES,
    DIRECTIONS,
    Codec,
    Connection,
    Media,
    Origin,
    Sdp,
    SdpError,
)

MIN_PTIME, MAX_PTIME, DEFAULT_PTIME = (
    10,
    60,
    20,
)  # ms; half the media tick, and what the jitter buffer can take
DTMF_EVENTS = "0-15"  # RFC 4733 §3.2: 0-9, *, #, A-D
FIRST_DTMF_TYPE = 101  # by custom; peers that ignore rtpmap assume it
RTP_PROTOCOLS = ("RTP/AVP", "RTP/AVPF")
_NOT_SPEECH = ("telephone-event", "cn", "red")  # ride beside a codec, never alone
_RTCP = re.compile(r"([0-9]{1,5})(?: IN (?:IP4|IP6) ([A-Za-z0-9.:_\-]++))?")


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
    """Plain RTP audio, to be sent from our address family to one host and not to a group. The host may be a name:
    the media worker then sends to where its audio comes from."""
    if media.kind != "audio" or not media.port or media.protocol not in RTP_PROTOCOLS:
        return False
    connection = sdp.connection_of(media)
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
    we_send, we_receive = DIRECTIONS[ours]
    they_send, they_receive = DIRECTIONS[theirs]
    return DIRECTION_NAMES[we_send and they_receive, we_receive and they_send]


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
