"""RTCP packets: what is packed is parsed, and what is malformed is left out (RFC 3550 §6.4)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.media.worker import rtcp
from engine.media.worker.rtcp import Report, ReportBlock

U32 = st.integers(0, 2**32 - 1)
BLOCKS = st.lists(
    st.builds(
        ReportBlock,
        ssrc=U32,
        fraction_lost=st.integers(0, 255),
        lost=st.integers(-(2**23), 2**23 - 1),
        highest=U32,
        jitter=U32,
        last_sender_report=U32,
        delay=U32,
    ),
    max_size=3,
)
WALL = 1_800_000_000.25


@given(U32, U32, U32, U32, BLOCKS)
def test_sender_report_round_trip(
    ssrc: int, timestamp: int, packets: int, octets: int, blocks: list[ReportBlock]
) -> None:
    packet = rtcp.sender_report(ssrc, WALL, timestamp, packets, octets, blocks)
    assert packet[:2] == bytes([0x80 | len(blocks), 200])
    assert len(packet) == 4 * (1 + int.from_bytes(packet[2:4], "big"))
    assert int.from_bytes(packet[8:12], "big") == int(WALL) + 2_208_988_800
    assert int.from_bytes(packet[12:16], "big") == 1 << 30  # a quarter of a second
    assert packet[16:28] == b"".join(each.to_bytes(4, "big") for each in (timestamp, packets, octets))
    assert rtcp.parse(packet) == [Report(ssrc, rtcp.compact_ntp(WALL), tuple(blocks))]


@given(U32, BLOCKS)
def test_receiver_report_round_trip(ssrc: int, blocks: list[ReportBlock]) -> None:
    compound = rtcp.receiver_report(ssrc, blocks) + rtcp.description(ssrc, "a@b") + rtcp.goodbye(ssrc)
    assert rtcp.parse(compound) == [Report(ssrc, None, tuple(blocks))]


def test_loss_beyond_24_bits_is_clamped() -> None:
    for lost, packed in ((10**9, 2**23 - 1), (-(10**9), -(2**23))):
        block = ReportBlock(1, 0, lost, 0, 0, 0, 0)
        assert rtcp.parse(rtcp.receiver_report(1, [block]))[0].blocks[0].lost == packed


@pytest.mark.parametrize("name", ["", "a", "ab", "abc", "0badcafe@switchhook"])
def test_description_is_padded_and_ended(name: str) -> None:
    packet = rtcp.description(5, name)
    assert len(packet) % 4 == 0
    assert len(packet) == 4 * (1 + int.from_bytes(packet[2:4], "big"))
    assert packet[:2] == bytes([0x81, 202])
    assert packet[8 : 10 + len(name)] == bytes([1, len(name)]) + name.encode()
    assert packet[10 + len(name)] == 0


@given(st.binary(max_size=200))
def test_random_octets_do_not_raise(octets: bytes) -> None:
    rtcp.parse(octets)


@given(st.integers(0, 79), st.binary(min_size=1, max_size=4))
def test_cut_and_damaged_reports(length: int, damage: bytes) -> None:
    block = ReportBlock(1, 2, 3, 4, 5, 6, 7)
    whole = rtcp.sender_report(9, WALL, 1, 2, 3, [block, block])
    assert len(whole) == 76
    assert len(rtcp.parse(whole[:length])) == (length >= 76)
    rtcp.parse(whole[:length] + damage + whole[length + len(damage) :])


def test_more_blocks_announced_than_there_are() -> None:
    packet = bytearray(rtcp.receiver_report(9, [ReportBlock(1, 2, 3, 4, 5, 6, 7)]))
    packet[0] = 0x80 | 31
    assert rtcp.parse(bytes(packet)) == []


def test_round_trip_is_the_example_of_the_rfc() -> None:
    # RFC 3550 §6.4.1, figure 2: A=0xb710:8000, LSR=0xb705:2000, DLSR=0x0005:4000 → 6.125 s
    block = ReportBlock(0, 0, 0, 0, 0, 0xB7052000, 0x00054000)
    assert rtcp.round_trip(0xB7108000, block) == 6.125
    assert rtcp.round_trip(0xB7108000, ReportBlock(0, 0, 0, 0, 0, 0, 5)) is None
    assert rtcp.round_trip(0xB7050000, block) is None  # before it was sent: a broken clock
