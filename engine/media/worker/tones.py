"""Keys as sound, for a far end that did not negotiate telephone events (ITU-T Q.23, Q.24)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.media.protocol import FRAME_SAMPLES, SAMPLE_RATE, Clip
from engine.media.worker import dtmf

SCHEME = "dtmf:"  # a clip with this path is made here instead of read from a file
ROW_LEVEL, COLUMN_LEVEL = 4600.0, 5600.0  # about -17 and -15 dBm0: the column tone 2 dB up, as phones send it
RAMP = 40  # samples of fade at each end, against clicks


def clips(digits: str) -> tuple[Clip, ...]:
    """One clip for each key or pause of a TwiML digits string."""
    return tuple(Clip(SCHEME + digit, 0, len(samples(SCHEME + digit))) for digit in digits)


def samples(path: str) -> NDArray[np.int16]:
    """Line PCM of `dtmf:5` (100 ms of tone, 100 ms of silence) or of a pause, `dtmf:w`."""
    digit = path.removeprefix(SCHEME)
    if digit in dtmf.PAUSES:
        return np.zeros(dtmf.PAUSES[digit], np.int16)
    time = np.arange(dtmf.TONE_FRAMES * FRAME_SAMPLES) / SAMPLE_RATE
    low, high = dtmf.frequencies(digit.upper())
    tone = ROW_LEVEL * np.sin(2 * np.pi * low * time) + COLUMN_LEVEL * np.sin(2 * np.pi * high * time)
    ramp = np.minimum(1.0, np.arange(len(time)) / RAMP)
    tone *= ramp * ramp[::-1]
    return np.concatenate([tone.astype(np.int16), np.zeros(dtmf.GAP_FRAMES * FRAME_SAMPLES, np.int16)])
