"""The media tick in virtual time, on a network in memory: what goes out, what comes in, and what it must survive."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.media import protocol as p
from engine.media.worker import g711, rtcp
from engine.media.worker.core import SLOTS
from engine.media.worker.sockets import BATCH
from tests.media.fake_io import Bench, Sent, audio_packet
from tests.media.test_tones import detect_all

RNG = np.random.default_rng(8)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def clip(folder: Path, samples: int, name: str = "clip") -> tuple[p.Clip, NDArray[np.int16]]:
    pcm = RNG.integers(-30000, 30000, samples).astype(np.int16)
    path = folder / f"{name}-{samples}.pcm"
    pcm.astype("<i2").tofile(path)
    return p.Clip(str(path), 0, samples), pcm


def octets(packets: list[Sent]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(packet.payload for packet in packets), np.uint8)


def is_silence(packet: Sent, law: int = g711.MU_LAW) -> bool:
    return packet.payload == bytes([g711.SILENCE[law]]) * 160


def assert_continuous(packets: list[Sent], resumed: tuple[int, ...] = ()) -> None:
    """One stream: sequence by one, one SSRC, timestamps at 8 kHz of the step's time, and the marker where sound
    begins: at the start, and at the packets after a hold (`resumed`)."""
    first = packets[0]
    assert [packet.sequence for packet in packets] == [
        (first.sequence + n) % 65536 for n in range(len(packets))
    ]
    assert {packet.ssrc for packet in packets} == {first.ssrc}
    audio = [packet for packet in packets if packet.payload_type in (0, 8)]
    starts = [0, *resumed] if audio[0] is first else [*resumed]
    assert [n for n, packet in enumerate(audio) if packet.marker] == starts
    for packet in audio:
        elapsed = round((packet.at - first.at) * 50) * 160
        assert packet.timestamp == (first.timestamp + elapsed) % 2**32


# --- playing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("codec", "law"), [(p.PCMU, g711.MU_LAW), (p.PCMA, g711.A_LAW)])
@pytest.mark.parametrize("samples", [160, 1, 8000, 8001, 79])
def test_a_clip_arrives_sample_for_sample(
    bench: Bench, tmp_path: Path, codec: int, law: int, samples: int
) -> None:
    leg = bench.open(codec=codec, payload_type=codec)
    what, pcm = clip(tmp_path, samples)
    bench.do(p.Play(leg, 1, (what,)))
    frames = -(-samples // 160)
    bench.frames(frames + 3)
    packets = bench.sent(leg)
    assert np.array_equal(octets(packets[:frames])[:samples], g711.encode(pcm, law))
    assert np.all(octets(packets)[samples:] == g711.SILENCE[law])
    assert {packet.payload_type for packet in packets} == {codec}
    assert bench.events(p.PlayDone) == [p.PlayDone(leg, 1, True, samples)]


def test_one_stream_over_prompt_silence_keys_and_prompt(bench: Bench, tmp_path: Path) -> None:
    leg = bench.open()
    what, pcm = clip(tmp_path, 1600)
    bench.frames(3)
    bench.do(p.Play(leg, 1, (what,)))
    bench.frames(13)
    bench.do(p.SendDigits(leg, 2, "1w#"))
    bench.frames(60)
    bench.do(p.Play(leg, 3, (what,)))
    bench.frames(12)
    packets = bench.sent(leg)
    assert len(packets) == 3 + 13 + 60 + 12
    assert_continuous(packets)
    for start in (3, 76):
        assert np.array_equal(octets(packets[start : start + 10]), g711.encode(pcm, g711.MU_LAW))
    assert sum(packet.payload_type == 101 for packet in packets) == 14
    assert bench.events(p.PlayDone) == [
        p.PlayDone(leg, 1, True, 1600),
        p.PlayDone(leg, 2, True, 0),
        p.PlayDone(leg, 3, True, 1600),
    ]


def test_sequence_and_timestamp_wrap(bench: Bench) -> None:
    leg = bench.open()
    row = bench.row(leg)
    bench.core._sequence[row], bench.core._timestamp[row] = 65530, 2**32 - 500
    bench.frames(4)
    bench.do(p.SendDigits(leg, 1, "12"))
    bench.frames(20)
    assert_continuous(bench.sent(leg))
    assert bench.sent(leg)[-1].sequence == 65530 + 23 - 65536


def test_packets_are_20_ms_apart_and_legs_are_spread_over_the_slots(bench: Bench) -> None:
    legs = [bench.open() for _ in range(SLOTS)]
    bench.frames(5)
    offsets = set()
    for leg in legs:
        times = [packet.at for packet in bench.sent(leg)]
        assert [round(b - a, 6) for a, b in itertools.pairwise(times)] == [0.02] * 4
        offsets.add(round(times[0], 3))
    assert len(offsets) == SLOTS


def test_forever_is_until_stopped(bench: Bench, tmp_path: Path) -> None:
    leg = bench.open()
    what, pcm = clip(tmp_path, 480)
    bench.do(p.Play(leg, 1, (what,), loops=0))
    bench.frames(100)
    expected = np.resize(g711.encode(pcm, g711.MU_LAW), 16000)
    assert np.array_equal(octets(bench.sent(leg)), expected)
    bench.do(p.Stop(leg, 1))
    bench.frames(1)
    assert is_silence(bench.sent(leg)[-1])
    assert bench.events(p.PlayDone) == [p.PlayDone(leg, 1, False, 16000)]


def test_a_late_stop_does_not_end_the_next_play(bench: Bench, tmp_path: Path) -> None:
    leg = bench.open()
    what, _ = clip(tmp_path, 1600)
    bench.do(p.Play(leg, 1, (what,)))
    bench.do(p.Play(leg, 2, (what,)))
    bench.do(p.Stop(leg, 1))
    bench.frames(11)
    bench.do(p.SendDigits(leg, 3, "1"))
    bench.do(p.Stop(leg, 2))
    bench.frames(20)
    assert bench.events(p.PlayDone) == [
        p.PlayDone(leg, 1, False, 0),
        p.PlayDone(leg, 2, True, 1600),
        p.PlayDone(leg, 3, True, 0),
    ]


def test_extend_while_it_plays(bench: Bench, tmp_path: Path) -> None:
    leg = bench.open()
    first, pcm = clip(tmp_path, 640)
    second, more = clip(tmp_path, 800)
    bench.do(p.Play(leg, 1, (first,), last=False))
    bench.frames(2)
    bench.do(p.Extend(leg, 1, (second,), last=True))
    bench.frames(10)
    expected = g711.encode(np.concatenate([pcm, more]), g711.MU_LAW)
    assert np.array_equal(octets(bench.sent(leg)[:9]), expected)
    assert bench.events(p.PlayDone) == [p.PlayDone(leg, 1, True, 1440)]


def test_a_key_silences_within_its_step(bench: Bench, tmp_path: Path) -> None:
    leg = bench.open()
    what, _ = clip(tmp_path, 16000)
    bench.do(p.Play(leg, 1, (what,), interrupt_on="5"))
    bench.frames(10)
    bench.events()
    bench.arrive(leg, key_packet(0, 0, 4))
    bench.frames(1)
    assert bench.events() == [p.Digit(leg, "4")]
    bench.arrive(leg, key_packet(1, 1600, 5))
    bench.step()
    assert bench.events() == [p.PlayDone(leg, 1, False, 160 * 11), p.Digit(leg, "5")]
    bench.frames(5)
    assert all(is_silence(packet) for packet in bench.sent(leg)[11:])
    assert not any(is_silence(packet) for packet in bench.sent(leg)[:11])


def test_hold_freezes_the_playout(bench: Bench, tmp_path: Path) -> None:
    leg = bench.open()
    what, pcm = clip(tmp_path, 1600)
    bench.do(p.Play(leg, 1, (what,)))
    bench.frames(4)
    bench.aim(leg, send=False)
    bench.frames(50)
    assert len(bench.sent(leg)) == 4
    assert bench.events(p.PlayDone) == []
    bench.aim(leg)
    bench.frames(6)
    assert np.array_equal(octets(bench.sent(leg)), g711.encode(pcm, g711.MU_LAW))
    assert_continuous(bench.sent(leg), resumed=(4,))
    assert bench.events(p.PlayDone) == [p.PlayDone(leg, 1, True, 1600)]


def test_hold_in_the_middle_of_a_key_keeps_its_timestamp(bench: Bench) -> None:
    leg = bench.open()
    bench.do(p.SendDigits(leg, 1, "8"))
    bench.frames(3)
    bench.aim(leg, send=False)
    bench.frames(20)
    bench.aim(leg)
    bench.frames(4)
    assert len({packet.timestamp for packet in bench.sent(leg)}) == 1
    assert [packet.payload_type for packet in bench.sent(leg)] == [101] * 7


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_nowhere_to_send(bench: Bench, host: str) -> None:
    leg = bench.open(host=host)
    bench.frames(3)
    assert bench.sent(leg) == []
    assert bench.io.targets[bench.row(leg)] == (None, None)


def test_a_name_is_sent_to_once_it_is_heard(bench: Bench, tmp_path: Path) -> None:
    leg = bench.open(host="phone.example", rtcp_host="phone.example")
    row = bench.row(leg)
    assert bench.io.targets[row] == (("phone.example", 4000), None)
    what, pcm = clip(tmp_path, 1600)
    bench.do(p.Play(leg, 1, (what,)))
    bench.frames(5)
    assert bench.sent(leg) == []
    bench.io.locks.append((row, ("192.0.2.50", 4444)))
    bench.arrive(leg, audio_packet(1, 160, bytes(160)))
    bench.frames(12)
    packets = bench.sent(leg)
    assert packets[0].marker
    assert np.array_equal(
        octets(packets[:10]), g711.encode(pcm, g711.MU_LAW)
    )  # none of it was lost meanwhile
    bench.aim(leg, host="phone.example", send=False)
    bench.frames(3)
    bench.aim(leg, host="phone.example")  # the source is known still
    bench.frames(3)
    assert len(bench.sent(leg)) == 12 + 3


def test_a_name_on_hold_stays_silent_when_it_is_heard(bench: Bench) -> None:
    leg = bench.open(host="phone.example", send=False)
    bench.io.locks.append((bench.row(leg), ("192.0.2.50", 4444)))
    bench.frames(3)
    assert bench.sent(leg) == []


def test_rtcp_has_a_host_of_its_own(bench: Bench) -> None:
    leg = bench.open(rtcp_host="192.0.2.7", rtcp_port=53020)
    assert bench.io.targets[bench.row(leg)] == (("192.0.2.1", 4000), ("192.0.2.7", 53020))
    bench.aim(leg, rtcp_host="rtcp.example")
    assert bench.io.targets[bench.row(leg)] == (("192.0.2.1", 4000), None)


def test_ports_that_do_not_exist(bench: Bench) -> None:
    leg = bench.open(port=65535, rtcp_port=65536)
    assert bench.io.targets[bench.row(leg)] == (("192.0.2.1", 65535), None)
    bench.aim(leg, port=0, rtcp_port=1)
    assert bench.io.targets[bench.row(leg)] == (None, None)


def test_aimed_elsewhere(bench: Bench) -> None:
    leg = bench.open()
    bench.frames(2)
    bench.aim(leg, host="192.0.2.99", port=7000, payload_type=8, codec=p.PCMA)
    bench.frames(2)
    assert [packet.target for packet in bench.sent(leg)] == 2 * [("192.0.2.1", 4000)] + 2 * [
        ("192.0.2.99", 7000)
    ]
    assert [packet.payload_type for packet in bench.sent(leg)] == [0, 0, 8, 8]
    assert is_silence(bench.sent(leg)[-1], g711.A_LAW)
    assert_continuous(bench.sent(leg))


def test_two_hundred_legs_of_both_laws(tmp_path: Path) -> None:
    bench = Bench(capacity=200)
    what, pcm = clip(tmp_path, 800)
    legs = [bench.open(codec=codec, payload_type=codec) for _ in range(100) for codec in (p.PCMU, p.PCMA)]
    bench.do(p.Open(5000, "127.0.0.1"))
    assert isinstance(bench.events(p.OpenFailed)[0], p.OpenFailed)
    for n, leg in enumerate(legs):
        bench.do(p.Play(leg, leg, (p.Clip(what.path, n, 800 - n),)))
    bench.frames(6)
    done = {event.leg: event for event in bench.events(p.PlayDone) if isinstance(event, p.PlayDone)}
    ssrcs = set()
    for n, leg in enumerate(legs):
        law = n % 2
        heard = octets(bench.sent(leg))
        assert np.array_equal(heard[: 800 - n], g711.encode(pcm[n:], law))
        assert np.all(heard[800 - n :] == g711.SILENCE[law])
        assert done[leg] == p.PlayDone(leg, leg, True, 800 - n)
        assert_continuous(bench.sent(leg))
        ssrcs.add(bench.sent(leg)[0].ssrc)
    assert len(ssrcs) == 200


def test_a_row_is_used_again_without_its_past(tmp_path: Path) -> None:
    bench = Bench(capacity=1)
    what, _ = clip(tmp_path, 16000)
    leg = bench.open()
    bench.do(p.Record(leg, str(tmp_path / "a.wav")))
    bench.do(p.Play(leg, 1, (what,), loops=0))
    bench.arrive(leg, audio_packet(1, 0, bytes(160)), key_packet(2, 0, 5))
    bench.frames(3)
    bench.do(p.Close(leg))
    assert [type(event) for event in bench.events()][-2:] == [p.PlayDone, p.Closed]
    assert bench.io.closed == [0]
    bench.io.sent.clear()
    again = bench.open()
    bench.arrive(again, key_packet(3, 0, 5))
    bench.frames(3)
    assert all(is_silence(packet) for packet in bench.sent(again))
    assert bench.sent(again)[0].marker
    assert bench.events(p.Digit) == [p.Digit(again, "5")]
    bench.do(p.Close(again))
    closed = bench.events(p.Closed)[0]
    assert isinstance(closed, p.Closed)
    assert (closed.quality.packets_received, closed.quality.packets_sent) == (1, 3)


def test_skipped_time_is_a_gap_in_timestamps_not_in_sequence(bench: Bench) -> None:
    legs = [bench.open() for _ in range(12)]
    bench.step(37)
    bench.core.skip(123)
    bench.now += 0.246
    bench.step(40)
    for leg in legs:
        assert_continuous(bench.sent(leg))


# --- keys ----------------------------------------------------------------------------------------------------


def key_packet(sequence: int, timestamp: int, event: int, duration: int = 160, end: bool = False) -> bytes:
    payload = bytes([event, 10 | (0x80 if end else 0)]) + duration.to_bytes(2, "big")
    return audio_packet(sequence, timestamp, payload, payload_type=101)


def test_keys_between_two_cores() -> None:
    sender, receiver = Bench(), Bench()
    leg, far = sender.open(dtmf_payload_type=96), receiver.open(dtmf_receive_type=96)
    sender.do(p.SendDigits(leg, 1, "1159#wD"))
    sender.frames(120)
    for packet in sender.sent(leg):
        kind = packet.payload_type | (0x80 if packet.marker else 0)
        receiver.arrive(
            far, audio_packet(packet.sequence, packet.timestamp, packet.payload, packet.ssrc, kind)
        )
    receiver.frames(20)
    receiver.step(100)
    assert receiver.events(p.Digit) == [p.Digit(far, digit) for digit in "1159#D"]
    assert len(sender.events(p.PlayDone)) == 1


def test_keys_as_tones_where_events_were_not_negotiated(bench: Bench) -> None:
    leg = bench.open(dtmf_payload_type=None)
    bench.do(p.SendDigits(leg, 1, "11w90*#A"))
    bench.frames(110)
    pcm = g711.decode(octets(bench.sent(leg)), g711.MU_LAW)
    assert detect_all(pcm) == "1190*#A"
    assert bench.events(p.PlayDone) == [p.PlayDone(leg, 1, True, 7 * 1600 + 4000)]


def test_what_is_no_key_is_trouble_and_no_crash(bench: Bench) -> None:
    for kind in (101, None):
        leg = bench.open(dtmf_payload_type=kind)
        bench.events()
        bench.do(p.SendDigits(leg, 1, "1x2"))
        trouble, done = bench.events()
        assert isinstance(trouble, p.Trouble)
        assert "1x2" in trouble.text
        assert done == p.PlayDone(leg, 1, False, 0)


def test_no_op_packets_and_unknown_types_are_no_keys(bench: Bench) -> None:
    leg = bench.open()
    bench.events()
    for n in range(20):
        bench.arrive(leg, audio_packet(n, 160 * n, bytes([5, 10, 0, 160]), payload_type=97 if n % 2 else 96))
    bench.step(20)
    assert bench.events() == []
    assert bench.core.reception.total(bench.row(leg)) == 20


def test_without_events_negotiated_nothing_is_a_key(bench: Bench) -> None:
    leg = bench.open(dtmf_receive_type=None)
    bench.events()
    bench.arrive(leg, key_packet(1, 0, 5))
    bench.step()
    assert bench.events() == []


@settings(max_examples=30)
@given(st.text("0123456789*#ABCD", min_size=1, max_size=8), st.integers(0, 10**9))
def test_keys_over_a_bad_network(digits: str, seed: int) -> None:
    sender, receiver = Bench(), Bench()
    leg, far = sender.open(), receiver.open()
    sender.do(p.SendDigits(leg, 1, digits))
    sender.frames(12 * len(digits) + 1)
    expected, before, network = "", None, random.Random(seed)
    for packet in sender.sent(leg):
        if network.random() < 0.3:
            continue
        if packet.payload_type == 101 and packet.timestamp != before:
            expected, before = expected + "0123456789*#ABCD"[packet.payload[0]], packet.timestamp
        wire = audio_packet(
            packet.sequence, packet.timestamp, packet.payload, packet.ssrc, packet.payload_type
        )
        receiver.arrive(far, *[wire] * (1 + (network.random() < 0.2)))
    receiver.step(20 * 12 * 8 + 40)
    told = [event.digit for event in receiver.events(p.Digit) if isinstance(event, p.Digit)]
    assert "".join(told) == expected


# --- hearing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", [g711.MU_LAW, g711.A_LAW])
@pytest.mark.parametrize("first", [0x80, 0x90, 0xA0])
def test_a_recording_is_what_was_sent(bench: Bench, tmp_path: Path, law: int, first: int) -> None:
    leg = bench.open()
    path = tmp_path / "a.wav"
    pcm = g711.decode(RNG.integers(0, 256, 160 * 50).astype(np.uint8), law)
    bench.do(p.Record(leg, str(path)))
    for n in range(50):
        payload = g711.encode(pcm[160 * n : 160 * (n + 1)], law).tobytes()
        before = b"\xbe\xde\x00\x01ABCD" if first & 0x10 else b""
        after = b"\0\0\3" if first & 0x20 else b""
        kind = p.PCMA if law == g711.A_LAW else p.PCMU
        bench.arrive(leg, audio_packet(n, 160 * n, before + payload + after, payload_type=kind, first=first))
        bench.frames(1)
    bench.do(p.StopRecord(leg))
    heard, _ = soundfile.read(path, dtype="int16")
    start = int(np.flatnonzero(heard)[0])
    assert start <= 160 * 4
    first_sound = int(np.flatnonzero(pcm)[0])
    assert np.array_equal(heard[start:], pcm[first_sound:][: len(heard) - start])
    assert len(heard) == 160 * 50


@pytest.mark.parametrize(("codec", "law"), [(p.PCMU, g711.MU_LAW), (p.PCMA, g711.A_LAW)])
@pytest.mark.parametrize("kind", [96, 127, 0, 8])
def test_a_codec_is_known_by_the_agreed_number(
    bench: Bench, tmp_path: Path, codec: int, law: int, kind: int
) -> None:
    leg = bench.open(codec=codec, payload_type=codec, receive_type=kind)
    path = tmp_path / "a.wav"
    sound = RNG.integers(0, 256, 160 * 20).astype(np.uint8)
    bench.do(p.Record(leg, str(path)))
    for n in range(20):
        payload = sound[160 * n : 160 * (n + 1)].tobytes()
        bench.arrive(leg, audio_packet(n, 160 * n, payload, payload_type=kind))
        bench.frames(1)
    bench.do(p.StopRecord(leg))
    heard, _ = soundfile.read(path, dtype="int16")
    start, pcm = 160 * 2, g711.decode(sound, law)
    ends = [heard[at:] for at in (start, start + 160)]
    assert any(np.array_equal(end, pcm[: len(end)]) for end in ends)


def test_an_unknown_number_is_not_heard(bench: Bench, tmp_path: Path) -> None:
    leg, path = bench.open(receive_type=96), tmp_path / "a.wav"
    bench.do(p.Record(leg, str(path)))
    for n in range(20):
        bench.arrive(leg, audio_packet(n, 160 * n, bytes(160), payload_type=97))
        bench.frames(1)
    bench.do(p.StopRecord(leg))
    assert not soundfile.read(path, dtype="int16")[0].any()


def test_a_new_source_in_the_middle_of_a_recording(bench: Bench, tmp_path: Path) -> None:
    leg, path = bench.open(), tmp_path / "a.wav"
    pcm = g711.decode(RNG.integers(0, 127, 160 * 40).astype(np.uint8), g711.MU_LAW)
    bench.do(p.Record(leg, str(path)))
    for n in range(40):
        payload = g711.encode(pcm[160 * n : 160 * (n + 1)], g711.MU_LAW).tobytes()
        stamp = (5_000_000 if n < 20 else 1000) + 160 * n
        bench.arrive(leg, audio_packet(n if n < 20 else n + 30000, stamp, payload, ssrc=1 + (n >= 20)))
        bench.frames(1)
    bench.do(p.Close(leg))
    heard, _ = soundfile.read(path, dtype="int16")
    tail = pcm[160 * 20 : 160 * 37]
    assert np.array_equal(heard[160 * 22 :][: len(tail)], tail) or np.array_equal(
        heard[160 * 23 :][: len(tail)], tail
    )
    closed = bench.events(p.Closed)[0]
    assert isinstance(closed, p.Closed)
    assert (closed.quality.packets_received, closed.quality.packets_lost) == (40, 0)
    assert closed.quality.packets_late == 0


def test_an_unwritable_recording_is_trouble(bench: Bench, tmp_path: Path) -> None:
    leg = bench.open()
    bench.do(p.Record(leg, str(tmp_path / "no" / "a.wav")))
    bench.frames(3)
    (trouble,) = bench.events(p.Trouble)
    assert isinstance(trouble, p.Trouble)
    assert "No such file" in trouble.text
    bench.do(p.Record(leg, "/dev/full"))
    bench.frames(60)
    trouble = bench.events(p.Trouble)[0]
    assert isinstance(trouble, p.Trouble)
    assert "No space left" in trouble.text
    assert len(bench.sent(leg)) == 63


def test_silence_is_told_once(bench: Bench) -> None:
    leg, quiet = bench.open(timeout=2.0), bench.open(timeout=0.0)
    bench.arrive(leg, audio_packet(1, 0, bytes(160)))
    bench.step(900)
    assert bench.events(p.MediaTimeout) == []
    bench.step(2000)
    assert bench.events(p.MediaTimeout) == [p.MediaTimeout(leg, 2.0)]
    bench.aim(leg, timeout=1.0)
    bench.step(600)
    assert bench.events(p.MediaTimeout) == [p.MediaTimeout(leg, 1.0)]
    bench.aim(quiet, receive=False, timeout=1.0)
    bench.step(600)
    assert bench.events(p.MediaTimeout) == []


# --- hostile packets -------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(
    st.lists(
        st.binary(min_size=0, max_size=660)
        | st.tuples(
            st.sampled_from([0x80, 0x90, 0xA0, 0xB0, 0x8F, 0xBF]),
            st.sampled_from([0, 8, 101, 0x80 | 101, 13, 97, 200, 201, 207]),
            st.binary(min_size=10, max_size=638),
        ).map(lambda parts: bytes(parts[:2]) + parts[2]),
        max_size=30,
    )
)
def test_hostile_octets_never_raise_nor_reach_another_leg(packets: list[bytes]) -> None:
    bench = Bench(capacity=4)
    victim, leg = bench.open(), bench.open()
    bench.do(p.Record(leg, "/dev/null"))
    bench.do(p.Record(victim, "/dev/null"))
    bench.events()
    bench.arrive(leg, *packets)
    bench.step(len(packets) * 2 + 20)
    assert all(event.leg == leg for event in bench.events())  # type: ignore[union-attr]
    assert bench.core.reception.total(bench.row(victim)) == 0
    assert not bench.core.jitter._frames[bench.row(victim)].any()
    assert all(is_silence(packet) for packet in bench.sent(victim))
    assert bench.core.packets_received + bench.io.dropped == len(packets)
    bench.do(p.Shutdown())


def test_rtcp_on_the_rtp_port_is_no_source(bench: Bench) -> None:
    leg = bench.open()
    bench.arrive(leg, audio_packet(1, 0, bytes(160)))
    bench.arrive(leg, rtcp.sender_report(5, 1e9, 1, 2, 3, []))
    bench.arrive(leg, audio_packet(2, 160, bytes(160)))
    bench.step(3)
    assert bench.core.reception.total(bench.row(leg)) == 2
    assert bench.core.reception.lost(bench.row(leg)) == 0
    assert bench.io.dropped == 1


def test_a_flood_is_taken_in_a_bounded_number_a_step(bench: Bench) -> None:
    leg = bench.open()
    for n in range(100):
        bench.arrive(leg, audio_packet(n, 160 * n, bytes(160)))
    bench.step()
    assert 0 < bench.core.packets_received < BATCH


def test_commands_for_a_leg_that_is_gone(bench: Bench) -> None:
    leg = bench.open()
    bench.do(p.Close(leg))
    bench.events()
    for command in (p.Stop(leg, 1), p.Close(leg), p.SendDigits(leg, 1, "1"), p.Play(leg, 1, ())):
        bench.do(command)
    bench.frames(2)
    assert bench.events() == []
    assert bench.core.leg_count == 0


def test_shutdown_closes_every_leg(bench: Bench, tmp_path: Path) -> None:
    legs = [bench.open(), bench.open()]
    bench.do(p.Record(legs[0], str(tmp_path / "a.wav")))
    bench.frames(5)
    bench.do(p.Shutdown())
    closed = bench.events(p.Closed)
    assert [event.leg for event in closed if isinstance(event, p.Closed)] == legs
    assert soundfile.info(tmp_path / "a.wav").frames == 800
