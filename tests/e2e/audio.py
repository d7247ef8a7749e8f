"""What a telephone recorded, compared with what the engine had to play: a call's sound cannot pass by accident."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import soundfile
from numpy.typing import NDArray

from engine.app import Engine
from engine.media.worker import g711
from markup import Say
from speech.base import Utterance

Pcm: TypeAlias = NDArray[np.int16]

RATE = 8000
FRAME = 160  # samples in a packet of 20 ms
SEARCH_FRAMES = 32  # a jitter buffer may insert so much silence between two frames
RENDER_SECONDS = 20.0
QUIET = 30.0  # RMS; below it a stretch holds no speech, and a correlation with it says nothing


class Match(NamedTuple):
    """Where a prompt was found in a recording, in samples, and how well: 1.0 is the same shape throughout."""

    offset: int
    score: float


def read_wav(path: Path) -> Pcm:
    """A recording: 16 bits, mono, 8000 Hz; anything else is a failure of whoever wrote it."""
    pcm, rate = soundfile.read(path, dtype="int16")
    assert (rate, pcm.ndim) == (RATE, 1), f"{path} has {rate} Hz and {pcm.ndim} dimensions"
    return np.asarray(pcm, np.int16)


def correlate(recording: Pcm, prompt: Pcm) -> Match:
    """The place in `recording` that is most like `prompt`, by normalized cross-correlation over its whole length."""
    scores = _scores(recording, prompt)
    best = int(np.argmax(scores))
    return Match(best, float(scores[best]))


def _scores(recording: Pcm, prompt: Pcm) -> NDArray[np.float64]:
    """How alike `prompt` and each of the recording's places are; one place of score 0 when it cannot fit."""
    places = len(recording) - len(prompt) + 1
    if places < 1 or not len(prompt):
        return np.zeros(1)
    heard, wanted = recording.astype(np.float64), prompt.astype(np.float64)
    size = 1 << (len(heard) + len(wanted) - 1).bit_length()
    spectrum = np.fft.rfft(heard, size) * np.conj(np.fft.rfft(wanted, size))
    products = np.fft.irfft(spectrum, size)[:places]
    energy = np.concatenate([[0.0], np.cumsum(heard**2)])
    windows = energy[len(wanted) :] - energy[:places]
    floor = len(wanted) * QUIET**2  # else near-silence would match anything
    return np.asarray(products / np.sqrt(np.maximum(windows, floor) * max(float((wanted**2).sum()), floor)))


async def prompt_pcm(engine: Engine, say: Say) -> Pcm:
    """The PCM that `engine` plays for `say`: its own prompt, from its own cache, once it is complete."""
    prompts = engine.services.prompts
    prompt = prompts.prompt(Utterance(say.text, say.ssml, say.language, say.voice))
    async with asyncio.timeout(RENDER_SECONDS):
        segments = [segment async for segment in prompt.segments()]
    samples = sum(segment.samples for segment in segments)
    data = await asyncio.to_thread(prompt.path.read_bytes)
    return np.frombuffer(data, "<i2", samples).astype(np.int16)


def over_the_line(pcm: Pcm, law: int = g711.MU_LAW) -> Pcm:
    """What is left of `pcm` after G.711 and back: what a telephone hears when nothing is lost."""
    return np.asarray(g711.DECODE[law, g711.ENCODE[law, pcm.view(np.uint16)]], np.int16)


def assert_played(recording: Pcm, pcm: Pcm, *, law: int = g711.MU_LAW, lost: int = 0) -> int:
    """Every 20 ms of `pcm` is in `recording`, sample for sample after G.711 and in order; returns where it begins.

    At most `lost` frames may be missing. Time that a jitter buffer inserted between frames is no loss.
    """
    expected = over_the_line(pcm, law)
    begin, score = correlate(recording, expected)
    assert score > 0.5, f"the prompt was not played at all (correlation {score:.2f})"
    missing, place = [], begin
    for number in range(len(expected) // FRAME):
        frame = expected[number * FRAME : (number + 1) * FRAME]
        found = _find(recording, frame, place)
        if found is None:
            missing.append(number)
        place = (place if found is None else found) + FRAME
    assert len(missing) <= lost, f"{len(missing)} frames differ, the first at {missing[0] * 0.02:.2f} s"
    return begin


def assert_in_order(recording: Pcm, prompts: Sequence[Pcm], score: float = 0.95) -> list[int]:
    """All `prompts` were heard, one after the other, each at least so well; returns where each begins."""
    offsets, rest = [], 0
    for number, prompt in enumerate(prompts):
        scores = _scores(recording[rest:], prompt)
        good = np.flatnonzero(scores > score)
        assert len(good), f"prompt {number} is not in the rest of the recording: {scores.max():.3f} at best"
        first = int(good[0])  # the first place, as a prompt may be heard twice; its peak is samples away
        offsets.append(rest + first + int(np.argmax(scores[first : first + FRAME])))
        rest = offsets[-1] + len(prompt)
    return offsets


def _find(recording: Pcm, frame: Pcm, place: int) -> int | None:
    places = range(place, place + SEARCH_FRAMES * FRAME, FRAME)
    return next((at for at in places if np.array_equal(recording[at : at + FRAME], frame)), None)
