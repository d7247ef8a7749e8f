"""Was it heard? A recording compared with the words that should be in it, rendered a second time."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from speech.base import Utterance
from speech.cache import PromptCache
from speech.tts import EspeakSynthesizer, Pyttsx3Synthesizer, Synthesizers

Pcm: TypeAlias = NDArray[np.int16]

RATE = 8000
COMPARED = int(1.2 * RATE)  # of each prompt: a key may have cut off the rest
PIECE = int(0.2 * RATE)  # a busy machine renders with gaps: the words are whole then, only not in one piece
SHIFT = int(0.3 * RATE)  # by so much may a piece be displaced
QUIET = 100.0  # RMS below which a piece is a pause, and says nothing
ALIKE = 0.8  # after G.711, words are like themselves by more than 0.99
CACHE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Heard:
    """Words, when they began in the recording (seconds), and how alike the sound is: 1.0 is the same."""

    words: str
    at: float
    likeness: float

    @property
    def found(self) -> bool:
        return self.likeness > ALIKE


async def look_for(words: Sequence[str], recording: Pcm) -> list[Heard]:
    """Each of these prompts in the recording, in order: one is looked for after the one before."""
    heard, rest = [], 0
    for text, pcm in zip(words, await render(words), strict=True):
        place, likeness = await asyncio.to_thread(find, recording[rest:], pcm[:COMPARED])
        heard.append(Heard(text, (rest + place) / RATE, likeness))
        if heard[-1].found:
            rest += place + min(len(pcm), COMPARED)
    return heard


async def render(words: Sequence[str]) -> list[Pcm]:
    """The words as PCM: int16, 8000 Hz. Raises `SpeechError`."""
    engines = Synthesizers([EspeakSynthesizer(), Pyttsx3Synthesizer()])
    with tempfile.TemporaryDirectory() as folder:
        prompts = PromptCache(Path(folder), CACHE_BYTES, engines)
        try:
            return [await _pcm(prompts, text) for text in words]
        finally:
            await prompts.close()
            await engines.close()


async def _pcm(prompts: PromptCache, text: str) -> Pcm:
    prompt = prompts.prompt(Utterance(text))
    samples = sum([segment.samples async for segment in prompt.segments()])
    data = await asyncio.to_thread(prompt.path.read_bytes)
    return np.frombuffer(data, "<i2", samples).astype(np.int16)


def find(recording: Pcm, prompt: Pcm) -> tuple[int, float]:
    """Where the recording is most like the prompt (samples), and how much, as the mean over the prompt's pieces."""
    place, whole = correlate(recording, prompt)
    if whole > ALIKE:
        return place, whole
    starts = range(0, len(prompt) - PIECE + 1, PIECE)
    loud = [start for start in starts if float(np.std(prompt[start : start + PIECE])) > QUIET]
    pieces = [_near(recording, prompt[start : start + PIECE], place + start) for start in loud]
    return place, sum(pieces) / len(pieces) if pieces else whole


def _near(recording: Pcm, piece: Pcm, place: int) -> float:
    return correlate(recording[max(place - SHIFT, 0) : place + len(piece) + SHIFT], piece)[1]


def correlate(recording: Pcm, prompt: Pcm) -> tuple[int, float]:
    """The best place of the whole prompt, by normalized cross-correlation (by FFT)."""
    places = len(recording) - len(prompt) + 1
    if places < 1:
        return 0, 0.0
    heard, wanted = recording.astype(np.float64), prompt.astype(np.float64)
    size = 1 << (len(heard) + len(wanted)).bit_length()
    products = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(wanted, size)), size)[:places]
    sums = np.concatenate([[0.0], np.cumsum(heard**2)])
    power = float((wanted**2).sum())
    # A stretch far quieter than the prompt counts as that loud, or silence would be like anything.
    windows = np.maximum(sums[len(wanted) :] - sums[:places], max(power / 100, 1.0))
    likeness = products / np.sqrt(windows * max(power, 1.0))
    best = int(np.argmax(likeness))
    return best, float(likeness[best])
