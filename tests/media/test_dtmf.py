"""Telephone events in both directions (RFC 4733), also as careless senders and bad networks make them."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.media.worker.dtmf import (
    END_OF_EVENT,
    EVENT_DIGITS,
    MAX_DURATION,
    DigitReceiver,
    DigitSender,
    frequencies,
)

RESERVED = 0x40


def event(digit: str, duration: int, *, end: bool = False, flags: int = 10) -> bytes:
    return bytes([EVENT_DIGITS.index(digit), flags | (END_OF_EVENT if end else 0)]) + duration.to_bytes(
        2, "big"
    )


def press(digit: str, timestamp: int, frames: int = 5) -> list[tuple[int, bytes]]:
    """A key of `frames` x 20 ms as the RFC has it: growing duration, one timestamp, three ends."""
    going = [(timestamp, event(digit, 160 * n)) for n in range(1, frames)]
    return going + 3 * [(timestamp, event(digit, 160 * frames, end=True))]


def hear(packets: list[tuple[int, bytes]]) -> str:
    receiver = DigitReceiver()
    return "".join(receiver.take(timestamp, payload) or "" for timestamp, payload in packets)


@pytest.mark.parametrize("digit", EVENT_DIGITS)
def test_every_key(digit: str) -> None:
    assert hear(press(digit, 4_000_000_000)) == digit


def test_it_is_told_at_the_first_packet() -> None:
    receiver = DigitReceiver()
    packets = press("7", 1000)
    assert [receiver.take(*packet) for packet in packets] == ["7"] + [None] * 6


@pytest.mark.parametrize("lost", range(1, 7))
def test_the_start_may_be_lost(lost: int) -> None:
    assert hear(press("3", 99)[lost:]) == "3"


def test_only_ends_arrive() -> None:
    assert hear(press("3", 99)[-3:] + press("3", 5000)[-1:]) == "33"


def test_a_quick_repeat_of_a_key_is_two_keys() -> None:
    assert hear(press("1", 0, 2) + press("1", 480, 2) + press("1", 960, 2)) == "111"


def test_a_repeat_whose_ends_were_lost_before_it() -> None:
    assert hear(press("1", 0)[:2] + press("1", 1600)[1:]) == "11"


@pytest.mark.parametrize("step", [1, 7, 159, 161, 800, 7201, 2**30 + 1, 2**32 - 160])
def test_timestamps_that_step_oddly(step: int) -> None:
    keys = "1223#"
    packets = [each for n, key in enumerate(keys) for each in press(key, n * step % 2**32)]
    assert hear(packets) == keys


@pytest.mark.parametrize("scale", [1, 2, 6])
def test_any_clock_rate(scale: int) -> None:
    packets = [(0, event("4", 160 * scale * n)) for n in range(1, 20)]
    packets += [(9600 * scale, event("4", 160 * scale * n)) for n in range(1, 20)]
    assert hear(packets) == "44"


@pytest.mark.parametrize("flags", [0, 63, RESERVED, RESERVED | 63])
def test_volume_and_the_reserved_bit_do_not_matter(flags: int) -> None:
    assert hear([(5, event("9", 160, flags=flags)), (5, event("9", 320, end=True, flags=flags))]) == "9"


def test_other_events_and_short_payloads_are_no_keys() -> None:
    flash, tone = bytes([16, 10, 0, 160]), bytes([66, 10, 0, 160])
    assert hear([(1, flash), (2, tone), (3, b""), (4, b"\x01\x0a\x00"), (5, bytes([255] * 4))]) == ""


def test_a_second_event_in_the_packet_is_ignored() -> None:
    assert hear([(1, event("5", 160) + b"\xff" * 40)]) == "5"


@given(st.permutations(press("1", 0) + press("2", 1600) + press("2", 3200)))
def test_reordering_repeats_no_key(packets: list[tuple[int, bytes]]) -> None:
    assert sorted(hear(packets)) == ["1", "2", "2"]


def long_press(digit: str, timestamp: int, segments: int) -> list[tuple[int, bytes]]:
    """A key held so long that its duration overflows: RFC 4733 §2.5.1.3."""
    packets = []
    for n in range(segments):
        start = (timestamp + n * MAX_DURATION) % 2**32
        packets += [(start, event(digit, duration)) for duration in range(160, MAX_DURATION, 160)]
        packets += [(start, event(digit, MAX_DURATION))]
    end = (timestamp + segments * MAX_DURATION) % 2**32
    return packets + [(end, event(digit, 800))] + 3 * [(end, event(digit, 960, end=True))]


@pytest.mark.parametrize("timestamp", [0, 2**32 - MAX_DURATION - 80, 2**32 - 10])
def test_a_long_key_is_one_key(timestamp: int) -> None:
    assert hear(long_press("6", timestamp, 2)) == "6"


@given(st.integers(0, 10**9))
def test_a_long_key_with_lost_and_late_packets_is_one_key(seed: int) -> None:
    lost = random.Random(seed)  # a fair loss: hypothesis' own would lose everything
    packets = [packet for packet in long_press("6", 77, 1) if lost.random() > 0.3]
    for at in range(0, len(packets) - 1, 5):
        packets[at], packets[at + 1] = packets[at + 1], packets[at]
    assert hear(packets) == "6"


def test_the_same_key_8_seconds_after_one_that_ended_is_another() -> None:
    assert hear(press("6", 0) + press("6", MAX_DURATION)) == "66"


def test_another_key_after_a_full_segment_is_another() -> None:
    packets = [(0, event("6", MAX_DURATION)), (MAX_DURATION, event("7", 160))]
    assert hear(packets) == "67"


@given(
    st.text(EVENT_DIGITS, min_size=1, max_size=20),
    st.integers(0, 2**32 - 1),
    st.integers(0, 10**9),
)
def test_a_key_of_which_any_packet_arrives_is_told_once(keys: str, start: int, seed: int) -> None:
    expected, arriving, lost = "", [], random.Random(seed)
    for n, key in enumerate(keys):
        packets = press(key, (start + 1600 * n) % 2**32)
        here = [packet for packet in packets if lost.random() > 0.3]
        expected += key if here else ""
        arriving += here
    assert hear(arriving) == expected


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.binary(max_size=8))))
def test_hostile_payloads_do_not_raise(packets: list[tuple[int, bytes]]) -> None:
    assert len(hear(packets)) <= len(packets)


# --- sending -----------------------------------------------------------------------------------------------


def plan(digits: str) -> list[tuple[int, bytes, bool]]:
    """(frame, payload, marker) of each event packet."""
    sender = DigitSender(digits)
    packets: list[tuple[int, bytes, bool]] = []
    for frame in itertools.count():
        if sender.finished:
            return packets
        packet = sender.next_packet()
        if packet is not None:
            packets.append((frame, packet.payload, packet.marker))
    raise AssertionError


@pytest.mark.parametrize("digit", EVENT_DIGITS)
def test_a_sent_key_has_the_structure_of_the_rfc(digit: str) -> None:
    packets = plan(digit)
    durations = [int.from_bytes(payload[2:], "big") for _, payload, _ in packets]
    ends = [bool(payload[1] & END_OF_EVENT) for _, payload, _ in packets]
    assert durations == [160, 320, 480, 640, 800, 800, 800]
    assert ends == [False] * 4 + [True] * 3
    assert [marker for *_, marker in packets] == [True] + [False] * 6
    assert [frame for frame, *_ in packets] == list(range(7))
    assert {payload[0] for _, payload, _ in packets} == {EVENT_DIGITS.index(digit)}
    assert not any(payload[1] & RESERVED for _, payload, _ in packets)


@given(st.text("0123456789*#ABCDabcdwW", max_size=12))
def test_what_is_sent_is_heard(digits: str) -> None:
    packets, start = [], 0
    for frame, payload, marker in plan(digits):
        start = 160 * frame if marker else start
        packets.append((start, payload))
    assert hear(packets) == digits.replace("w", "").replace("W", "").upper()


def test_pauses_take_their_time() -> None:
    starts = [frame for frame, _, marker in plan("1w2W3") if marker]
    assert [second - first for first, second in itertools.pairwise(starts)] == [12 + 25, 12 + 50]


def test_what_is_no_key_is_refused() -> None:
    with pytest.raises(ValueError):
        DigitSender("12x")
    with pytest.raises(ValueError):
        frequencies("w")
    assert DigitSender("").finished
