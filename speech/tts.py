"""The synthesizers: espeak-ng in long-lived processes, pyttsx3 in one process a prompt, and the choice."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile

from speech.base import (
    MAX_UTTERANCE_SECONDS,
    SpeechError,
    SpeechWarning,
    Synthesizer,
    Utterance,
    check_length,
)
from speech.espeak import version
from speech.process import SpeechProcess, run_once
from speech.shaping import Shaper, level_gain
from speech.ssml import clean_text, espeak_ssml, plain_text
from speech.voices import choose_voice, languages

PYTTSX3_TIMEOUT = 40.0  # half an hour of speech takes two seconds; past this the process hangs
MAX_PYTTSX3_PROCESSES = 2  # one prompt a process: a burst of calls must not become a burst of processes


class EspeakSynthesizer:
    """espeak-ng: over a hundred languages, SSML, first audio within milliseconds.

    It runs in `processes` processes of its own; a render waits for a free one. A process that dies fails the
    render it had, and is started again for the next.
    """

    name = "espeak"

    def __init__(self, processes: int = 1) -> None:
        self._processes = [SpeechProcess() for _ in range(processes)]
        self._free: asyncio.LifoQueue[SpeechProcess] = (
            asyncio.LifoQueue()
        )  # last used first: idle ones never start
        for process in self._processes:
            self._free.put_nowait(process)

    @property
    def version(self) -> str:
        return version()

    @property
    def pids(self) -> list[int]:
        """The processes now running."""
        return [process.pid for process in self._processes if process.pid is not None]

    def supports(self, utterance: Utterance) -> bool:
        return not choose_voice(utterance).warnings

    def warnings(self, utterance: Utterance) -> tuple[SpeechWarning, ...]:
        return choose_voice(utterance).warnings

    async def synthesize(self, utterance: Utterance) -> AsyncGenerator[bytes, None]:
        check_length(utterance)
        if utterance.ssml is not None:
            espeak_ssml(utterance.ssml)  # a broken document fails here, before it waits for a process
        process = await self._free.get()
        try:
            async with contextlib.aclosing(process.render(utterance)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self._free.put_nowait(process)

    async def close(self) -> None:
        await asyncio.gather(*(process.close() for process in self._processes))


class Pyttsx3Synthesizer:
    """pyttsx3 (on Linux: libespeak-ng by another way). Plain text; audio starts when the prompt is done."""

    name = "pyttsx3"

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(MAX_PYTTSX3_PROCESSES)

    @property
    def version(self) -> str:
        return f"{importlib.metadata.version('pyttsx3')}-{version()}"

    def supports(self, utterance: Utterance) -> bool:
        return utterance.ssml is None and not choose_voice(utterance).warnings

    def warnings(self, utterance: Utterance) -> tuple[SpeechWarning, ...]:
        return choose_voice(utterance).warnings

    async def synthesize(self, utterance: Utterance) -> AsyncGenerator[bytes, None]:
        check_length(utterance)
        text = clean_text(utterance.text if utterance.ssml is None else plain_text(utterance.ssml))
        # The driver hands tags on to espeak, whose `<audio>` opens files.
        text = text.replace("<", " ").replace(">", " ").strip()
        if not text:
            return
        async with self._slots:
            pcm = await self._render(text, choose_voice(utterance).name)
        yield pcm

    async def _render(self, text: str, voice: str) -> bytes:
        with tempfile.TemporaryDirectory(prefix="speech-") as folder:
            path = Path(folder) / "prompt.wav"
            command = (sys.executable, "-m", "speech.pyttsx3_prompt", str(path), voice)
            status = await run_once(*command, stdin=text.encode("utf-8", "replace"), timeout=PYTTSX3_TIMEOUT)
            if status:
                raise SpeechError(f"pyttsx3 could not render the text (exit status {status}).")
            return await asyncio.to_thread(_read_wav, path)

    async def close(self) -> None:
        """Nothing stays running between prompts."""


def _read_wav(path: Path) -> bytes:
    try:
        info = soundfile.info(path)
        if info.duration > MAX_UTTERANCE_SECONDS:
            raise SpeechError(f"The text takes more than {MAX_UTTERANCE_SECONDS} seconds to speak.")
        samples, rate = soundfile.read(path, dtype="int16", always_2d=True)
    except soundfile.SoundFileError as error:
        raise SpeechError(f"pyttsx3 wrote a file that cannot be read: {error}.") from None
    mono = samples[:, 0]
    shaper = Shaper(rate, level_gain(mono.astype(np.float32)))
    return shaper.feed(mono) + shaper.finish()


class Synthesizers:
    """Several synthesizers as one.

    `espeak:…` or `pyttsx3:…` in the voice names one; else the first that supports the utterance speaks, and
    the next takes over when it fails before its first sound. (After it, a change would say the beginning twice.)
    """

    name = "any"

    def __init__(self, synthesizers: Sequence[Synthesizer]) -> None:
        if not synthesizers:
            raise ValueError("at least one synthesizer is needed")
        self._synthesizers = tuple(synthesizers)

    @property
    def version(self) -> str:
        return " ".join(f"{one.name}/{one.version}" for one in self._synthesizers)

    def supports(self, utterance: Utterance) -> bool:
        return any(one.supports(_without_prefix(utterance, one)) for one in self._candidates(utterance))

    def warnings(self, utterance: Utterance) -> tuple[SpeechWarning, ...]:
        first = self._candidates(utterance)[0]
        return first.warnings(_without_prefix(utterance, first))

    async def synthesize(self, utterance: Utterance) -> AsyncGenerator[bytes, None]:
        failures = []
        for one in self._candidates(utterance):
            spoke = False
            try:
                async with contextlib.aclosing(_iterate(one, utterance)) as pieces:
                    async for piece in pieces:
                        spoke = True
                        yield piece
                return
            except SpeechError as error:
                if spoke:
                    raise
                failures.append(f"{one.name}: {error}")
        raise SpeechError(" ".join(failures))

    async def close(self) -> None:
        await asyncio.gather(*(one.close() for one in self._synthesizers))

    def _candidates(self, utterance: Utterance) -> list[Synthesizer]:
        """Who may speak this, best first; never empty."""
        prefix = (utterance.voice or "").partition(":")[0]
        named = [one for one in self._synthesizers if one.name == prefix]
        # Sorting is stable: the order given decides among those that do it as asked, then among the rest.
        return named or sorted(self._synthesizers, key=lambda one: not one.supports(utterance))


async def _iterate(one: Synthesizer, utterance: Utterance) -> AsyncGenerator[bytes, None]:
    """A synthesizer may return any iterator; this one can be closed."""
    async for piece in one.synthesize(_without_prefix(utterance, one)):
        yield piece


def _without_prefix(utterance: Utterance, one: Synthesizer) -> Utterance:
    prefix, colon, voice = (utterance.voice or "").partition(":")
    return replace(utterance, voice=voice or None) if colon and prefix == one.name else utterance


@dataclass(frozen=True, slots=True)
class EngineReport:
    """What `switchhook doctor` shows of one engine: whether it spoke, its languages, or why not."""

    name: str
    ok: bool
    detail: str
    languages: tuple[str, ...]


async def probe() -> list[EngineReport]:
    """Render a word by every engine. Raises nothing: what fails is in the report."""
    return [await _probe(one) for one in (EspeakSynthesizer(), Pyttsx3Synthesizer())]


async def _probe(one: Synthesizer) -> EngineReport:
    try:
        size = 0
        async for piece in one.synthesize(Utterance("Test.")):
            size += len(piece)
        if not size:
            return EngineReport(one.name, False, "It rendered no sound.", ())
        return EngineReport(one.name, True, f"version {one.version}", tuple(sorted(languages())))
    except (SpeechError, OSError, importlib.metadata.PackageNotFoundError) as error:
        return EngineReport(one.name, False, str(error), ())
    finally:
        await one.close()
