"""Level, limiter and edges, on signals whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speech.shaping import KEPT_SILENCE, TARGET_RMS, Shaper, Trimmer, level_gain, limit_peaks


def tone(samples: int, level: float, rate: int = 8000) -> np.ndarray:
    return (level * np.sin(2 * np.pi * 400 * np.arange(samples) / rate)).astype(np.float32)


def test_gain_reaches_the_target_and_ignores_pauses() -> None:
    speech = np.concatenate((np.zeros(30000, np.float32), tone(8000, 12000), np.zeros(30000, np.float32)))
    loud = speech[np.abs(speech) > 300] * level_gain(speech)
    assert np.sqrt(np.mean(loud**2)) == pytest.approx(TARGET_RMS, rel=0.001)
    assert level_gain(np.zeros(100, np.float32)) == 1.0
    assert level_gain(tone(8000, 301)) == pytest.approx(10 ** (12 / 20))


def test_limiter_leaves_speech_alone_and_never_wraps() -> None:
    quiet = tone(8000, 20000)
    assert np.array_equal(limit_peaks(quiet), np.rint(quiet).astype(np.int16))
    bent = limit_peaks(np.array([-1e6, -40000, -25000, 25000, 40000, 1e6], np.float32))
    assert list(np.sign(bent)) == [-1, -1, -1, 1, 1, 1]
    assert bent[3] < bent[4] <= bent[5] == 32767


@given(
    lead=st.integers(0, 2000),
    pause=st.integers(0, 2000),
    tail=st.integers(0, 2000),
    cuts=st.lists(st.integers(0, 7000), max_size=12),
)
@settings(deadline=None)
def test_trimming_does_not_depend_on_the_pieces(lead: int, pause: int, tail: int, cuts: list[int]) -> None:
    sound = np.full(500, 5000, np.int16)
    silence = np.zeros(2000, np.int16)
    whole = np.concatenate((silence[:lead], sound, silence[:pause], sound, silence[:tail]))
    trimmer = Trimmer()
    parts = [trimmer.feed(piece) for piece in np.split(whole, sorted(min(cut, whole.size) for cut in cuts))]
    result = np.concatenate((*parts, trimmer.finish()))
    expected = (
        silence[: min(lead, KEPT_SILENCE)],
        sound,
        silence[:pause],
        sound,
        silence[: min(tail, KEPT_SILENCE)],
    )
    assert np.array_equal(result, np.concatenate(expected))


def test_silence_alone_is_an_empty_prompt() -> None:
    trimmer = Trimmer()
    assert trimmer.feed(np.zeros(3000, np.int16)).size == 0
    assert trimmer.finish().size == 0


def test_shaper_streams_the_same_as_at_once() -> None:
    samples = tone(22050, 8000, 22050).astype(np.int16)
    whole = Shaper(22050, 0.5)
    expected = np.frombuffer(whole.feed(samples) + whole.finish(), np.int16)
    shaper = Shaper(22050, 0.5)
    pieces = [shaper.feed(samples[start : start + 441]) for start in range(0, samples.size, 441)]
    result = np.frombuffer(b"".join(pieces) + shaper.finish(), np.int16)
    assert abs(result.size - 8000) < 20
    assert np.abs(result.astype(int) - expected).max() <= 1
    assert np.abs(result[800:7200]).max() == pytest.approx(4000, rel=0.01)
