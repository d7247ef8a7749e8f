"""From what an engine renders to what a telephone plays: rate, level, edges, as a stream.

One `Shaper` per utterance. numpy throughout; nothing here waits for the whole prompt.
"""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray

from speech.base import SAMPLE_RATE

Samples = NDArray[np.int16]
Floats = NDArray[np.float32]

TARGET_RMS = (
    10 ** (-20 / 20) * 32768
)  # -20 dBFS while speaking: as loud as a person on the line (ITU-T P.56 practice)
MAX_GAIN_DB = 12.0  # a nearly silent render is broken, not quiet: do not blow up its noise
SPEAKING = 300.0  # samples below this are pauses and do not count for the level
KNEE = 24000.0  # above this the limiter bends, so that nothing ever wraps or clips
SILENCE = 100.0  # below this at the edges nobody hears anything at 8 kHz mu-law
KEPT_SILENCE = SAMPLE_RATE * 30 // 1000  # 30 ms kept at each edge, so that no consonant is cut


def level_gain(speech: Floats) -> float:
    """The factor that brings this stretch of speech (int16 range) to TARGET_RMS."""
    spoken = speech[np.abs(speech) > SPEAKING]
    if not spoken.size:
        return 1.0
    limit = 10 ** (MAX_GAIN_DB / 20)
    return float(np.clip(TARGET_RMS / np.sqrt(np.mean(spoken**2)), 1 / limit, limit))


def limit_peaks(samples: Floats) -> Samples:
    """int16 with everything above KNEE bent smoothly under full scale."""
    over = np.abs(samples) - KNEE
    room = 32767.0 - KNEE
    bent = np.sign(samples) * (KNEE + room * np.tanh(np.maximum(over, 0) / room))
    return np.rint(np.where(over > 0, bent, samples)).astype(np.int16)


class Trimmer:
    """Drops the silence before the first and after the last sound, keeping KEPT_SILENCE of each."""

    def __init__(self) -> None:
        self._leading = True
        self._held: list[Samples] = []  # silence that is a pause if sound follows and a tail if none does

    def feed(self, samples: Samples) -> Samples:
        """What of the stream so far is certain to be part of the prompt."""
        loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > SILENCE)
        if not loud.size:
            self._hold(samples)
            return samples[:0]
        end = int(loud[-1]) + 1
        passed = np.concatenate((*self._held, samples[:end]))
        if self._leading:
            quiet = passed.size - end + int(loud[0])
            passed = passed[max(quiet - KEPT_SILENCE, 0) :]
            self._leading = False
        self._held = [samples[end:]]
        return passed

    def finish(self) -> Samples:
        """The tail, cut to KEPT_SILENCE; nothing when there was no sound at all."""
        held = np.concatenate((np.zeros(0, np.int16), *self._held))
        return held[:0] if self._leading else held[:KEPT_SILENCE]

    def _hold(self, samples: Samples) -> None:
        self._held.append(samples)
        if self._leading:  # only the end of it can be used: do not keep the rest
            self._held = [np.concatenate(self._held)[-KEPT_SILENCE:]]


class Shaper:
    """Engine samples (int16 at `rate`) in, line PCM out."""

    def __init__(self, rate: int, gain: float = 1.0) -> None:
        self._gain = np.float32(gain)
        self._resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        self._trimmer = Trimmer()

    def feed(self, samples: Samples) -> bytes:
        return self._trimmer.feed(self._line(samples, last=False)).tobytes()

    def finish(self) -> bytes:
        flushed = self._trimmer.feed(self._line(np.zeros(0, np.int16), last=True))
        return flushed.tobytes() + self._trimmer.finish().tobytes()

    def _line(self, samples: Samples, *, last: bool) -> Samples:
        # The gain comes before soxr and the limiter after: filtering can raise a peak above what went in.
        scaled = samples.astype(np.float32) * self._gain
        return limit_peaks(np.asarray(self._resampler.resample_chunk(scaled, last=last), np.float32))
