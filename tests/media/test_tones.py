"""Keys as sound, heard by a Goertzel filter written here from its recurrence."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.media.worker import g711, tones
from engine.media.worker.arena import read_clip

ROWS, COLUMNS = (697, 770, 852, 941), (1209, 1336, 1477, 1633)  # ITU-T Q.23
KEYS = ["123A", "456B", "789C", "*0#D"]


def power(samples: NDArray[np.float64], hertz: float) -> float:
    coefficient, one, two = 2 * math.cos(2 * math.pi * hertz / 8000), 0.0, 0.0
    for sample in samples.tolist():
        one, two = sample + coefficient * one - two, one
    return (one * one + two * two - coefficient * one * two) * 2 / len(samples)


def detect(pcm: NDArray[np.int16]) -> str:
    """The key in a stretch of PCM; "" when there is none."""
    samples = pcm.astype(float)
    total = float(np.sum(samples**2))
    if total < 1e6:
        return ""
    rows, columns = [power(samples, f) for f in ROWS], [power(samples, f) for f in COLUMNS]
    row, column = rows.index(max(rows)), columns.index(max(columns))
    pure = rows[row] + columns[column] > 0.9 * total
    balanced = 10 ** (-0.8) < rows[row] / columns[column] < 10**0.4  # Q.24: -8 to +4 dB of twist
    return KEYS[row][column] if pure and balanced else ""


def detect_all(pcm: NDArray[np.int16]) -> str:
    """Keys in a longer recording: a key counts once until it is gone for a block of 20 ms."""
    found, before = "", ""
    for start in range(0, len(pcm) - 159, 160):
        key = detect(pcm[start : start + 160])
        found += key if key != before else ""
        before = key
    return found


@pytest.mark.parametrize("digit", "0123456789*#ABCD")
def test_every_key_is_heard_as_itself_after_either_law(digit: str) -> None:
    pcm = tones.samples(f"dtmf:{digit}")
    for law in (g711.MU_LAW, g711.A_LAW):
        heard = g711.decode(g711.encode(pcm, law), law)
        assert detect(heard[:800]) == digit
        assert detect_all(heard) == digit
    assert len(pcm) == 1600
    assert not pcm[800:].any()


def test_a_string_of_keys_and_pauses() -> None:
    clips = tones.clips("11w2dW#")
    assert [clip.samples for clip in clips] == [1600, 1600, 4000, 1600, 1600, 8000, 1600]
    pcm = np.concatenate([read_clip(clip) for clip in clips])
    assert detect_all(pcm) == "112D#"
    assert not pcm[3200:7200].any()


def test_no_click_and_no_overload() -> None:
    pcm = tones.samples("dtmf:5").astype(int)
    assert np.abs(pcm).max() < 16000
    assert np.abs(np.diff(pcm))[:5].max() < 1500
    assert (pcm[0], abs(pcm[799]) < 200) == (0, True)


def test_no_key() -> None:
    with pytest.raises(ValueError, match="not a DTMF digit"):
        tones.clips("1x")
