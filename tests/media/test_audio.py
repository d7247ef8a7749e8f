"""Every format `<Play>` allows, decoded and compared with the tone it was made from."""

from __future__ import annotations

import contextlib
import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.media import audio
from engine.media.audio import AudioError, decode, load_file, write_wav

TONE = 440.0
LEVEL = 0.5
SECONDS = 1.0


def sine(rate: int, channels: int = 1, level: float = LEVEL, seconds: float = SECONDS) -> NDArray[np.float32]:
    wave = level * np.sin(2 * np.pi * TONE * np.arange(int(rate * seconds)) / rate)
    return np.repeat(wave[:, None], channels, axis=1).astype(np.float32)


def encode(data: NDArray[np.float32], rate: int, container: str, subtype: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, data, rate, subtype=subtype, format=container)
    return file.getvalue()


def best_correlation(pcm: NDArray[np.int16]) -> float:
    """Of the decoded tone with a pure one, over every phase: codecs delay."""
    signal = pcm.astype(float)[800:7200]
    turns = 2j * np.pi * TONE * np.arange(signal.size) / audio.LINE_RATE
    return float(abs(np.vdot(np.exp(turns), signal)) * np.sqrt(2 / signal.size) / np.linalg.norm(signal))


def frequency(pcm: NDArray[np.int16]) -> float:
    signal = pcm.astype(float)[:8000] * np.hanning(min(pcm.size, 8000))
    return float(np.abs(np.fft.rfft(signal, 8000)).argmax())


def assert_tone(pcm: NDArray[np.int16], purity: float = 0.999, seconds: float = SECONDS) -> None:
    assert pcm.dtype == np.int16
    assert pcm.size == pytest.approx(seconds * 8000, abs=1400)  # codecs pad their last frame
    assert frequency(pcm) == pytest.approx(TONE, abs=1)
    assert np.sqrt(np.mean((pcm[800:7200] / 32768.0) ** 2)) == pytest.approx(LEVEL / np.sqrt(2), rel=0.06)
    assert best_correlation(pcm) > purity


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_wav(rate: int, channels: int, subtype: str) -> None:
    pcm = decode(encode(sine(rate, channels), rate, "WAV", subtype), "audio/wav", "a.wav")
    assert_tone(pcm)
    assert abs(pcm.size - 8000) <= 1


@pytest.mark.parametrize(
    ("container", "subtype", "rate", "content_type", "purity"),
    [
        ("WAV", "ULAW", 8000, "audio/x-wav", 0.998),
        ("WAV", "ALAW", 8000, "audio/wave", 0.998),
        ("WAV", "GSM610", 8000, "audio/wav", 0.97),
        ("WAV", "IMA_ADPCM", 8000, "audio/wav", 0.98),
        ("WAV", "MS_ADPCM", 22050, "audio/wav", 0.98),
        ("WAVEX", "PCM_16", 16000, "audio/wav", 0.999),
        ("RF64", "PCM_16", 16000, "audio/wav", 0.999),
        ("AIFF", "PCM_16", 44100, "audio/aiff", 0.999),
        ("AIFF", "ULAW", 8000, "audio/x-aifc", 0.998),
        ("AU", "ULAW", 8000, "audio/basic", 0.998),
        ("AU", "PCM_16", 16000, "audio/basic", 0.999),
        ("FLAC", "PCM_16", 44100, "audio/flac", 0.999),
        ("OGG", "VORBIS", 44100, "application/ogg", 0.99),
        ("OGG", "OPUS", 48000, "audio/ogg", 0.99),
        ("MP3", "MPEG_LAYER_III", 44100, "audio/mpeg", 0.99),
        ("MP3", "MPEG_LAYER_III", 8000, "audio/mpeg", 0.99),
        ("CAF", "PCM_16", 44100, "audio/x-caf", 0.999),
        ("RAW", "ULAW", 8000, "audio/ulaw", 0.998),
        ("RAW", "ULAW", 8000, "audio/basic", 0.998),
        ("RAW", "ALAW", 8000, "audio/x-alaw", 0.998),
        ("RAW", "GSM610", 8000, "audio/x-gsm", 0.97),
    ],
)
def test_container(container: str, subtype: str, rate: int, content_type: str, purity: float) -> None:
    data = encode(sine(rate), rate, container, subtype)
    assert_tone(decode(data, content_type, "play"), purity)


@pytest.mark.parametrize(
    ("container", "subtype", "name"),
    [
        ("RAW", "ULAW", "a.ul"),
        ("RAW", "ALAW", "a.al"),
        ("RAW", "GSM610", "a.gsm"),
        ("MP3", "MPEG_LAYER_III", "x"),
    ],
)
@pytest.mark.parametrize("content_type", [None, "application/octet-stream"])
def test_vague_type_is_decided_by_name_and_content(
    container: str, subtype: str, name: str, content_type: str | None
) -> None:
    assert_tone(decode(encode(sine(8000), 8000, container, subtype), content_type, name), 0.97)


def test_line_rate_file_comes_through_sample_for_sample() -> None:
    pcm = np.random.default_rng(1).integers(-32768, 32768, 4000).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, pcm, 8000, subtype="PCM_16", format="WAV")
    assert np.array_equal(decode(file.getvalue(), "audio/wav; rate=8000", "a"), pcm)


def test_header_beats_content_type() -> None:
    assert_tone(decode(encode(sine(8000), 8000, "WAV", "PCM_16"), "audio/ulaw", "a.ul"))


def test_stereo_is_mixed_evenly() -> None:
    left = sine(16000, 2)
    left[:, 1] = 0
    pcm = decode(encode(left, 16000, "WAV", "PCM_16"), "audio/wav", "a")
    assert np.abs(pcm[800:7200]).max() == pytest.approx(LEVEL / 2 * 32768, rel=0.01)


def test_above_the_line_bandwidth_nothing_folds_back() -> None:
    rate = 44100
    whistle = (0.5 * np.sin(2 * np.pi * 6000 * np.arange(rate) / rate)).astype(np.float32)
    pcm = decode(encode(whistle[:, None], rate, "WAV", "PCM_16"), "audio/wav", "a")
    assert np.abs(pcm[800:7200]).max() < 20


def test_hostile_floats_stay_in_range() -> None:
    data = sine(16000)
    data[100], data[200], data[300], data[400] = np.nan, np.inf, -np.inf, 1e30
    pcm = decode(encode(data, 16000, "WAV", "FLOAT"), "audio/wav", "a")
    assert frequency(pcm[1000:]) == pytest.approx(TONE, abs=2)


@pytest.mark.parametrize(
    "content_type", ["text/html; charset=utf-8", "image/png", "video/mp4", "application/json"]
)
def test_other_content_types_are_13420(content_type: str) -> None:
    with pytest.raises(AudioError, match="is no audio") as caught:
        decode(encode(sine(8000), 8000, "WAV", "PCM_16"), content_type, "a.wav")
    assert caught.value.code == 13420


@pytest.mark.parametrize(
    "data", [b"", b"RIFF", b"<html>no audio</html>", b"\xff\xfb" + bytes(10), b"OggS" * 40]
)
def test_broken_data_is_13420(data: bytes) -> None:
    with pytest.raises(AudioError, match="cannot be decoded") as caught:
        decode(data, "audio/wav", "a.wav")
    assert caught.value.code == 13420


@given(
    cut=st.integers(0, 3000), flips=st.lists(st.tuples(st.integers(0, 2999), st.integers(0, 255)), max_size=8)
)
@settings(max_examples=150, deadline=None)
def test_damaged_files_decode_or_raise_audio_error(cut: int, flips: list[tuple[int, int]]) -> None:
    data = bytearray(encode(sine(8000, seconds=0.2), 8000, "WAV", "PCM_16"))
    for position, value in flips:
        data[position] = value
    with contextlib.suppress(AudioError):
        pcm = decode(bytes(data[:cut]), "audio/wav", "a.wav")
        assert pcm.dtype == np.int16
        assert (
            pcm.size <= 8 * 3000
        )  # 1000 samples a second at the least: one byte is eight samples at the most


def test_duration_limit_stops_a_small_file_that_unpacks_to_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(np.zeros((8000 * 12, 1), np.float32), 8000, "FLAC", "PCM_16")
    monkeypatch.setattr(audio, "MAX_SECONDS", 12)
    assert decode(data, "audio/flac", "a").size == 8000 * 12
    monkeypatch.setattr(audio, "MAX_SECONDS", 11)
    with pytest.raises(AudioError, match="longer than 11 seconds"):
        decode(data, "audio/flac", "a")


def test_absurd_sample_rate_is_refused() -> None:
    data = bytearray(encode(sine(8000), 8000, "WAV", "PCM_16"))
    data[24:28] = struct.pack("<I", 1)
    with pytest.raises(AudioError, match="no telephone audio"):
        decode(bytes(data), "audio/wav", "a.wav")


def test_wav_file_round_trip(tmp_path: Path) -> None:
    pcm = (sine(8000)[:, 0] * 32767).astype(np.int16)
    write_wav(tmp_path / "a.wav", pcm)
    info = soundfile.info(tmp_path / "a.wav")
    assert (info.samplerate, info.channels, info.subtype) == (8000, 1, "PCM_16")
    assert np.array_equal(load_file(tmp_path / "a.wav"), pcm)


def test_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"a\.wav cannot be read: No such file or directory\."):
        load_file(tmp_path / "a.wav")
    with pytest.raises(AudioError, match="cannot be written"):
        write_wav(tmp_path / "no" / "a.wav", np.zeros(8, np.int16))
