"""RTP headers by column and the packets that are not plain ones (RFC 3550 §5.1, §5.3.1)."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.media.worker import rtp
from tests.media.fake_io import audio_packet, take_apart


def test_headers_are_columns() -> None:
    packets = [
        audio_packet(0x0102, 0x03040506, b"ab", 0x0708090A, 8),
        audio_packet(0xFFFF, 0xFFFFFFFF, b"cd", 1),
    ]
    rows = np.stack([np.frombuffer(packet, np.uint8) for packet in packets])
    header = rtp.headers(rows)
    assert header["sequence"].tolist() == [0x0102, 0xFFFF]
    assert header["timestamp"].tolist() == [0x03040506, 0xFFFFFFFF]
    assert header["ssrc"].tolist() == [0x0708090A, 1]
    assert header["second"].tolist() == [8, 0]


def test_a_frame_is_what_goes_on_the_wire() -> None:
    frame = np.zeros(1, rtp.FRAME)
    frame["first"], frame["second"], frame["sequence"] = 0x80, 0x80, 0x0102
    frame["timestamp"], frame["ssrc"], frame["payload"] = 3, 4, 5
    octets = frame.tobytes()
    assert octets == bytes([0x80, 0x80, 1, 2, 0, 0, 0, 3, 0, 0, 0, 4]) + b"\5" * 160


@given(
    st.integers(0, 15),
    st.none() | st.integers(0, 5),
    st.none() | st.integers(1, 40),
    st.binary(max_size=200),
)
def test_strip_leaves_header_and_payload(
    sources: int, extension: int | None, padding: int | None, payload: bytes
) -> None:
    packet = audio_packet(9, 10, b"", 11)
    packet += b"CSRC" * sources
    first = 0x80 | sources
    if extension is not None:
        first |= 0x10
        packet += b"\xbe\xde" + extension.to_bytes(2, "big") + b"EXTN" * extension
    packet += payload
    if padding is not None:
        first |= 0x20
        packet += bytes(padding - 1) + bytes([padding])
    packet = bytes([first]) + packet[1:]
    assert rtp.strip(packet) == audio_packet(9, 10, payload, 11)


@given(st.binary(min_size=12, max_size=640))
def test_strip_never_raises_and_never_grows(packet: bytes) -> None:
    plain = rtp.strip(packet)
    assert plain is None or (12 <= len(plain) <= len(packet) and plain[1:12] == packet[1:12])


def test_padding_longer_than_the_packet_is_malformed() -> None:
    assert rtp.strip(audio_packet(1, 2, b"\xff", first=0xA0)) is None
    assert rtp.strip(audio_packet(1, 2, b"", first=0x90)) is None  # an extension of which nothing is there


def test_plausible() -> None:
    assert rtp.plausible(memoryview(audio_packet(1, 2, b"")))
    assert not rtp.plausible(memoryview(audio_packet(1, 2, b"")[:11]))
    assert not rtp.plausible(memoryview(audio_packet(1, 2, b"", first=0x40)))
    assert not rtp.plausible(memoryview(audio_packet(1, 2, b"", payload_type=200)))  # a sender report
    assert rtp.plausible(memoryview(audio_packet(1, 2, b"", payload_type=0x80 | 101)))


@given(
    st.integers(0, 127),
    st.booleans(),
    st.integers(0, 2**20),
    st.integers(-(2**33), 2**33),
    st.integers(0, 2**32 - 1),
)
def test_single(kind: int, marker: bool, sequence: int, timestamp: int, ssrc: int) -> None:
    sent = take_apart(0, None, rtp.single(kind, marker, sequence, timestamp, ssrc, b"key!"))
    assert (sent.payload_type, sent.marker, sent.ssrc, sent.payload) == (kind, marker, ssrc, b"key!")
    assert (sent.sequence, sent.timestamp) == (sequence % 2**16, timestamp % 2**32)
