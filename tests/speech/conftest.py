"""Synthesizers for the speech tests: the real one, closed at the end, and one that a test steers step by step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import pytest

from speech.base import Segment, SpeechError, SpeechWarning, Utterance
from speech.tts import EspeakSynthesizer


@pytest.fixture
async def espeak() -> AsyncIterator[EspeakSynthesizer]:
    synthesizer = EspeakSynthesizer()
    yield synthesizer
    await synthesizer.close()


def pcm_of(segment: Segment) -> bytes:
    """What a media worker reads: by path, in another process."""
    data = Path(segment.path).read_bytes()[segment.start * 2 : (segment.start + segment.samples) * 2]
    assert len(data) == segment.samples * 2
    return data


class Scripted:
    """Renders what the test puts into `script`: bytes are a piece, None the end, an error is raised."""

    version = "1"

    def __init__(self, name: str = "scripted", *, good: bool = True) -> None:
        self.name = name
        self.good = good
        self.script: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self.started: list[Utterance] = []
        self.asked = asyncio.Event()
        self.cancelled = 0

    def put(self, *steps: bytes | Exception | None) -> None:
        for step in steps:
            self.script.put_nowait(step)

    def supports(self, utterance: Utterance) -> bool:
        return self.good

    def warnings(self, utterance: Utterance) -> tuple[SpeechWarning, ...]:
        return () if self.good else (SpeechWarning(13511, "other voice"),)

    async def synthesize(self, utterance: Utterance) -> AsyncGenerator[bytes, None]:
        self.started.append(utterance)
        self.asked.set()
        try:
            while (step := await self.script.get()) is not None:
                if isinstance(step, Exception):
                    raise step
                yield step
        except (GeneratorExit, asyncio.CancelledError):
            self.cancelled += 1
            raise

    async def close(self) -> None:
        self.put(SpeechError("closed"))
