"""Session descriptions and audio offer/answer: RFC 4566, 3264, 4733, 3605, and the exchanges of RFC 4317."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.sip.offer import Capabilities, Negotiated, accept_answer, make_offer, negotiate, versioned
from engine.sip.sdp import MAX_FORMATS, MAX_LINES, MAX_MEDIA, Codec, Sdp, SdpError, parse_sdp

RFC4317 = Path(__file__).parents[2] / ".." / "shared" / "data" / "sdp-rfc4317"

PCMU, PCMA, G722 = Codec(0, "PCMU", 8000), Codec(8, "PCMA", 8000), Codec(9, "G722", 8000)
ILBC = Codec(97, "iLBC", 8000)
OPUS = Codec(96, "opus", 48000, 2, "useinbandfec=1")
US = Capabilities((PCMU, PCMA, G722))
ALL = Capabilities((OPUS, G722, PCMU, PCMA), dtmf_clock_rates=(8000, 48000))

SESSION = "v=0\r\no=alice 5 6 IN IP4 192.0.2.1\r\ns= \r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"
FULL = SESSION + (
    "a=group:x\r\na=sendonly\r\n"
    "m=audio 49170/2 RTP/AVP 9 96 101 13 0 55\r\nc=IN IP6 2001:db8::1\r\n"
    "a=rtpmap:96 opus/48000/2\r\na=fmtp:96 useinbandfec=1; x=y\r\n"
    "a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\na=ptime:30\r\na=maxptime:40\r\na=recvonly\r\n"
    "m=video 0 RTP/AVP 31\r\n"
)


def offer(media: str, session: str = SESSION) -> Sdp:
    return parse_sdp((session + media).encode())


def answered(sdp: Sdp, capabilities: Capabilities = US, direction: str = "sendrecv") -> Negotiated:
    result = negotiate(sdp, capabilities, "192.0.2.9", 4000, 1, 1, direction)
    assert result is not None
    assert parse_sdp(result.local.to_bytes()) == result.local
    return result


def test_parse() -> None:
    sdp = parse_sdp(FULL.encode())
    assert str(sdp) == FULL
    assert parse_sdp(FULL.replace("\r\n", "\n").encode()) == sdp
    assert (sdp.origin.username, sdp.origin.session_id, sdp.origin.version) == ("alice", 5, 6)
    audio, video = sdp.media
    assert (audio.kind, audio.port, audio.port_count, audio.protocol) == ("audio", 49170, 2, "RTP/AVP")
    assert (sdp.address(audio), sdp.address(video)) == ("2001:db8::1", "192.0.2.1")
    assert (audio.direction, video.direction) == ("recvonly", None)
    assert (sdp.direction(audio), sdp.direction(video)) == ("recvonly", "sendonly")
    assert (sdp.is_hold(audio), sdp.is_hold(video)) == (False, True)
    assert (audio.ptime, audio.maxptime, video.ptime) == (30, 40, None)
    assert audio.codecs() == (
        G722, Codec(96, "opus", 48000, 2, "useinbandfec=1; x=y"),
        Codec(101, "telephone-event", 8000, 1, "0-16"), Codec(13, "CN", 8000), PCMU,
    )  # fmt: skip


def test_lines_that_steer_nothing_are_dropped() -> None:
    noisy = SESSION.replace("c=", "i=info\r\nu=x\r\ne=x\r\np=x\r\nb=AS:1\r\nc=") + "r=1\r\nz=0\r\nk=x\r\n"
    assert parse_sdp(noisy.encode()) == parse_sdp(SESSION.encode())


@pytest.mark.parametrize(
    "text",
    ["", "v=1\r\n", "m=audio 1 RTP/AVP 0\r\n", "v=0\r\ns=-\r\n", SESSION.replace("5 6", "5 -6"),
     SESSION.replace("5 6", "5 " + "9" * 5000), SESSION.replace("c=IN IP4", "c=IN IP5"),
     SESSION.replace("t=0 0", "t=x"), SESSION + "m=audio\r\n", SESSION + "m=audio 65536 RTP/AVP 0\r\n",
     SESSION + "m=audio -1 RTP/AVP 0\r\n", SESSION + "junk\r\n", SESSION + "a=x\x00\r\n", SESSION + "a=x\ry\r\n",
     SESSION + "\r\n\r\na=x\r\n", SESSION.replace("c=IN IP4 192.0.2.1\r\n", "") + "m=audio 9 RTP/AVP 0\r\n",
     SESSION + "a=x\r\n" * MAX_LINES, SESSION + "m=audio 0 RTP/AVP 0\r\n" * (MAX_MEDIA + 1),
     SESSION + "m=audio 1 RTP/AVP" + " 0" * (MAX_FORMATS + 1) + "\r\n"],
)  # fmt: skip
def test_rejects(text: str) -> None:
    with pytest.raises(SdpError):
        parse_sdp(text.encode())


@given(st.binary(max_size=200), st.integers(0, len(FULL)), st.integers(0, 20))
def test_hostile_bytes_end_in_a_description_or_an_sdp_error(noise: bytes, at: int, drop: int) -> None:
    for body in (noise, FULL[:at].encode() + noise[:8] + FULL[at + drop :].encode()):
        try:
            sdp = parse_sdp(body)
        except SdpError:
            continue
        assert parse_sdp(sdp.to_bytes()) == sdp
        negotiate(sdp, ALL, "192.0.2.9", 4000, 1, 1)


def test_offer() -> None:
    assert str(make_offer("192.0.2.9", 4000, ALL, 7, 8)) == "\r\n".join([
        "v=0", "o=- 7 8 IN IP4 192.0.2.9", "s=-", "c=IN IP4 192.0.2.9", "t=0 0",
        "m=audio 4000 RTP/AVP 96 9 0 8 101 102",
        "a=rtpmap:96 opus/48000/2", "a=fmtp:96 useinbandfec=1", "a=rtpmap:9 G722/8000", "a=rtpmap:0 PCMU/8000",
        "a=rtpmap:8 PCMA/8000", "a=rtpmap:101 telephone-event/8000", "a=fmtp:101 0-15",
        "a=rtpmap:102 telephone-event/48000", "a=fmtp:102 0-15", "a=ptime:20", "a=sendrecv", "",
    ])  # fmt: skip


def test_offered_dtmf_avoids_a_codecs_number() -> None:
    sdp = make_offer("::1", 4, Capabilities((replace(OPUS, payload_type=101),)), 1, 1, "inactive")
    assert sdp.media[0].formats == ("101", "102")
    assert str(sdp.connection) == "IN IP6 ::1"
    assert sdp.origin.addr_type == "IP6"
    assert sdp.direction(sdp.media[0]) == "inactive"


def test_answer_holds_one_codec_and_its_telephone_event() -> None:
    result = answered(offer(
        "m=audio 5000 RTP/AVP 8 0 100 110 111\r\na=rtpmap:100 telephone-event/48000\r\n"
        "a=rtpmap:110 telephone-event/8000\r\na=rtpmap:111 opus/48000/2\r\n"
    ))  # fmt: skip
    assert (result.codec, result.dtmf) == (PCMU, Codec(110, "telephone-event", 8000))
    assert (result.remote_address, result.remote_port) == ("192.0.2.1", 5000)
    assert (result.direction, result.ptime, result.remote_hold) == ("sendrecv", 20, False)
    assert str(result.local.media[0].formats) == "('0', '110')"
    assert result.local.media[0].attribute("fmtp") == "110 0-15"
    assert result.local.media[0].port == 4000


def test_payload_numbers_follow_the_offer() -> None:
    result = answered(
        offer(
            "m=audio 5000 RTP/AVP 120 121\r\na=rtpmap:120 OPUS/48000/2\r\na=rtpmap:121 telephone-event/48000\r\n"
        ),
        ALL,
    )
    assert result.local.media[0].formats == ("120", "121")
    assert result.codec.payload_type == result.receive_type(OPUS) == 120
    assert result.local.media[0].attribute("fmtp") == "120 useinbandfec=1"


def test_dtmf_on_another_clock_is_not_answered() -> None:
    result = answered(offer("m=audio 5000 RTP/AVP 0 100\r\na=rtpmap:100 telephone-event/16000\r\n"), ALL)
    assert result.dtmf is None
    assert result.local.media[0].formats == ("0",)


@pytest.mark.parametrize(
    "media",
    ["", "m=audio 0 RTP/AVP 0\r\n", "m=video 9 RTP/AVP 0\r\n", "m=audio 9 RTP/SAVP 0\r\n", "m=audio 9 RTP/AVP 18\r\n",
     "m=audio 9 RTP/AVP 101\r\na=rtpmap:101 telephone-event/8000\r\n", "m=audio 9 RTP/AVP 13\r\n",
     "m=audio 9 RTP/AVP 0\r\na=rtpmap:0 PCMU/16000\r\n", "m=audio 9 RTP/AVP 0\r\nc=IN IP6 ::1\r\n",
     "m=audio 9 RTP/AVP 0\r\nc=IN IP4 224.0.0.1/127\r\n", "m=audio 9 RTP/AVP 0\r\nc=IN IP4 255.255.255.255\r\n"],
)  # fmt: skip
def test_no_common_audio_is_no_answer(media: str) -> None:
    assert (
        negotiate(offer(media), replace(US, codecs=(*US.codecs, Codec(13, "CN", 8000))), "192.0.2.9", 4, 1, 1)
        is None
    )


def test_every_other_stream_is_refused_in_place() -> None:
    result = answered(offer(
        "m=video 9 RTP/AVP 31\r\nm=audio 9 RTP/AVP 18\r\nm=audio 9 RTP/AVP 0\r\nm=audio 9 RTP/AVP 0\r\n"
        "m=application 9 UDP/BFCP *\r\n"
    ))  # fmt: skip
    lines = [line for line in str(result.local).split("\r\n") if line.startswith("m=")]
    assert lines == [
        "m=video 0 RTP/AVP 31", "m=audio 0 RTP/AVP 18", "m=audio 4000 RTP/AVP 0", "m=audio 0 RTP/AVP 0",
        "m=application 0 UDP/BFCP *",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("offered", "wanted", "direction", "hold"),
    [
        ("sendrecv", "sendrecv", "sendrecv", False), ("sendonly", "sendrecv", "recvonly", True),
        ("recvonly", "sendrecv", "sendonly", False), ("inactive", "sendrecv", "inactive", True),
        ("sendrecv", "sendonly", "sendonly", False), ("sendonly", "sendonly", "inactive", True),
        ("sendrecv", "inactive", "inactive", False), ("recvonly", "recvonly", "inactive", False),
    ],
)  # fmt: skip
def test_directions(offered: str, wanted: str, direction: str, hold: bool) -> None:
    for text in (SESSION, SESSION + f"a={offered}\r\n"):
        media = "m=audio 9 RTP/AVP 0\r\n" + (f"a={offered}\r\n" if text == SESSION else "")
        result = answered(offer(media, text), direction=wanted)
        assert (result.direction, result.remote_hold) == (direction, hold)
        assert result.local.direction(result.local.media[0]) == direction


@pytest.mark.parametrize("line", ["c=IN IP4 0.0.0.0", "c=IN IP6 ::"])
def test_black_hole_is_hold(line: str) -> None:
    result = answered(offer(f"m=audio 9 RTP/AVP 0\r\n{line}\r\n"))
    assert (result.remote_hold, result.direction) == (True, "recvonly")


@pytest.mark.parametrize(
    ("lines", "ptime"),
    [("a=ptime:30", 30), ("a=ptime:5", 10), ("a=ptime:200", 60), ("a=ptime:0", 20), ("a=ptime:x", 20),
     ("a=ptime:25.5", 20), ("a=ptime:99999", 20), ("a=maxptime:10", 10), ("a=ptime:60\r\na=maxptime:40", 40)],
)  # fmt: skip
def test_packet_time(lines: str, ptime: int) -> None:
    result = answered(offer(f"m=audio 9 RTP/AVP 0\r\n{lines}\r\n"))
    assert result.ptime == ptime
    assert result.local.media[0].ptime == ptime


@pytest.mark.parametrize(
    ("media", "address", "port"),
    [("m=audio 5000 RTP/AVP 0\r\n", "192.0.2.1", 5001), ("m=audio 65535 RTP/AVP 0\r\n", "192.0.2.1", None),
     ("m=audio 5000 RTP/AVP 0\r\na=rtcp:53020\r\n", "192.0.2.1", 53020),
     ("m=audio 5000 RTP/AVP 0\r\na=rtcp:53020 IN IP4 192.0.2.7\r\n", "192.0.2.7", 53020),
     ("m=audio 5000 RTP/AVP 0\r\na=rtcp:53020 IN IP4 224.0.0.1\r\n", "192.0.2.1", 53020),
     ("m=audio 5000 RTP/AVP 0\r\na=rtcp:nonsense\r\n", "192.0.2.1", 5001)],
)  # fmt: skip
def test_rtcp(media: str, address: str, port: int | None) -> None:
    result = answered(offer(media))
    assert (result.rtcp_address, result.rtcp_port) == (address, port)


@given(
    st.permutations([OPUS, G722, PCMU, PCMA]).flatmap(
        lambda c: st.integers(1, 4).map(lambda n: tuple(c[:n]))
    ),
    st.permutations([OPUS, G722, PCMU, PCMA]).flatmap(
        lambda c: st.integers(1, 4).map(lambda n: tuple(c[:n]))
    ),
    st.sampled_from(["sendrecv", "sendonly", "recvonly", "inactive"]),
    st.sampled_from(["sendrecv", "sendonly", "recvonly", "inactive"]),
)
def test_both_sides_agree(a: tuple[Codec, ...], b: tuple[Codec, ...], da: str, db: str) -> None:
    offered = make_offer("192.0.2.1", 10, Capabilities(a, (8000, 48000)), 1, 1, da)
    theirs = negotiate(offered, Capabilities(b, (8000, 48000)), "192.0.2.2", 20, 2, 1, db)
    if theirs is None:
        assert not set(a) & set(b)
        return
    ours = accept_answer(offered, parse_sdp(theirs.local.to_bytes()))
    assert ours.codec.same_format(theirs.codec)
    assert ours.codec.same_format(next(c for c in b if c in a))
    assert ours.dtmf == theirs.dtmf
    assert ours.dtmf is not None
    assert ours.dtmf.clock_rate == ours.codec.clock_rate
    mirrored = {"sendonly": "recvonly", "recvonly": "sendonly"}
    assert ours.direction == mirrored.get(theirs.direction, theirs.direction)
    assert (ours.remote_port, theirs.remote_port) == (20, 10)


def test_answer_may_renumber() -> None:
    ours = make_offer("192.0.2.9", 4000, Capabilities((ILBC,)), 1, 1)
    result = accept_answer(ours, offer("m=audio 9 RTP/AVP 99\r\na=rtpmap:99 iLBC/8000\r\na=ptime:30\r\n"))
    assert (result.codec.payload_type, result.receive_type(result.codec)) == (99, 97)
    assert (result.ptime, result.dtmf) == (30, None)


@pytest.mark.parametrize(
    "media",
    [
        "",
        "m=audio 0 RTP/AVP 0\r\n",
        "m=audio 9 RTP/AVP 18\r\n",
        "m=audio 9 RTP/AVP 0\r\nm=audio 9 RTP/AVP 0\r\n",
    ],
)
def test_answers_that_settle_nothing(media: str) -> None:
    with pytest.raises(SdpError):
        accept_answer(make_offer("192.0.2.9", 4000, US, 1, 1), offer(media))


def test_re_offer_keeps_every_line() -> None:
    previous = answered(offer("m=video 9 RTP/AVP 31\r\nm=audio 9 RTP/AVP 0\r\n")).local
    again = make_offer("192.0.2.9", 4000, US, 1, 2, "sendonly", previous=previous)
    assert [(m.kind, m.port) for m in again.media] == [("video", 0), ("audio", 4000)]
    silent = make_offer("192.0.2.9", 4000, US, 1, 2, previous=offer("m=audio 0 RTP/AVP 0\r\n"))
    assert [(m.kind, m.port) for m in silent.media] == [("audio", 0), ("audio", 4000)]


def test_version_moves_only_with_a_change() -> None:
    first = make_offer("192.0.2.9", 4000, US, 5, 40)
    assert versioned(first, None) is first
    assert versioned(make_offer("192.0.2.9", 4000, US, 5, 99), first) == first
    held = versioned(make_offer("192.0.2.9", 4000, US, 5, 0, "sendonly"), first)
    assert (held.origin.session_id, held.origin.version) == (5, 41)


def exchange(name: str) -> tuple[Sdp, Sdp]:
    paths = [RFC4317 / f"{name}-{part}.sdp" for part in ("offer", "answer")]
    if not all(path.exists() for path in paths):
        pytest.skip("RFC 4317 corpus is not beside the checkout")
    return parse_sdp(paths[0].read_bytes()), parse_sdp(paths[1].read_bytes())


def settle(name: str, *codecs: Codec) -> tuple[Negotiated | None, Negotiated]:
    """Our answer to the RFC's offer, and our reading of the RFC's answer to it."""
    offered, answer = exchange(name)
    return negotiate(offered, Capabilities(codecs), "host.example.com", 9000, 1, 1), accept_answer(
        offered, answer
    )


def test_rfc4317_all_round_trip() -> None:
    paths = sorted(RFC4317.glob("*.sdp"))
    if not paths:
        pytest.skip("RFC 4317 corpus is not beside the checkout")
    assert len(paths) == 54
    for path in paths:
        assert parse_sdp(path.read_bytes()).to_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize(
    ("name", "codec", "port", "direction"),
    [
        ("2.1-1", PCMU, 49174, "sendrecv"), ("2.2-1", PCMU, 49172, "sendrecv"), ("2.2-2", PCMU, 49172, "sendrecv"),
        ("2.3-1", ILBC, 49172, "sendrecv"), ("2.4-1", ILBC, 49172, "sendrecv"), ("2.5-1", ILBC, 49174, "sendrecv"),
        ("2.5-2", ILBC, 49170, "sendrecv"), ("2.6-1", ILBC, 49170, "sendrecv"), ("2.7-1", ILBC, 49172, "sendrecv"),
        ("2.7-2", ILBC, 49172, "sendrecv"), ("2.8-1", PCMU, 49174, "sendrecv"), ("3.1-1", ILBC, 49172, "recvonly"),
        ("3.1-2", ILBC, 49178, "sendrecv"), ("3.2-1", ILBC, 49172, "sendrecv"), ("3.2-2", PCMU, 49170, "sendonly"),
        ("4.1-1", ILBC, 49170, "sendrecv"), ("4.1-2", ILBC, 49170, "sendrecv"), ("4.2-1", PCMU, 49172, "sendrecv"),
        ("4.2-2", PCMU, 49172, "sendrecv"), ("4.3-1", ILBC, 49174, "sendrecv"), ("4.3-2", ILBC, 49170, "sendrecv"),
        ("5.1-2", ILBC, 49172, "sendrecv"), ("5.2-1", ILBC, 49170, "sendrecv"), ("5.2-2", ILBC, 49170, "sendrecv"),
        ("5.3-1", ILBC, 9322, "recvonly"), ("5.3-2", ILBC, 49170, "sendrecv"),
    ],
)  # fmt: skip
def test_rfc4317_exchange(name: str, codec: Codec, port: int, direction: str) -> None:
    if name == "3.2-2":  # the RFC's answer lists PCMU, which its offer does not: iLBC is what both have
        codec = ILBC
    answer, settled = settle(name, codec)
    assert settled.codec.same_format(codec)
    assert (settled.remote_port, settled.direction) == (port, direction)
    assert settled.remote_hold == (name in ("3.1-1", "5.3-1"))
    assert answer is not None
    offered, _ = exchange(name)
    assert [m.kind for m in answer.local.media] == [m.kind for m in offered.media]
    assert sum(bool(m.port) for m in answer.local.media) == 1
    assert accept_answer(offered, answer.local).codec.same_format(codec)


def test_rfc4317_hold_is_answered_recvonly() -> None:
    answer, _ = settle("3.2-2", ILBC)
    assert answer is not None
    assert (answer.direction, answer.remote_hold) == ("recvonly", True)
    black_hole, settled = settle("5.2-1", ILBC)
    assert black_hole is not None
    assert (black_hole.direction, black_hole.remote_hold, settled.remote_hold) == ("recvonly", True, False)


def test_rfc4317_offer_without_media() -> None:
    offered, answer = exchange("5.1-1")
    assert negotiate(offered, US, "192.0.2.9", 4000, 1, 1) is None
    with pytest.raises(SdpError):
        accept_answer(offered, answer)
