"""Prompts on disk: rendered once, shared by all calls, playable while still being rendered.

A prompt is one file of line PCM that only grows, under one name from its first byte to its last use: media workers
read it by path, from another process, seconds after they were told of a segment. What makes it complete is a second
file beside it, written after the audio is on the disk; audio without that file is a crash's leftover.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path

from speech.base import SAMPLE_BYTES, Segment, SpeechError, SpeechWarning, Synthesizer, Utterance

RECENT_SECONDS = (
    60.0  # a worker may still open a file this long after it was last used; then it may be evicted
)
# Recent prompts may exceed `max_bytes` by this much, so that a burst plays; past it a flood of different texts fails.
HEADROOM_BYTES = 512 << 20
AUDIO, MARK = ".pcm", ".done"


class Prompt:
    """One prompt, complete or growing. Made by PromptCache only."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self.warnings: tuple[SpeechWarning, ...] = ()
        self.path = path
        self.last_used = clock()
        self.retired = False
        self._clock = clock
        self._written = 0
        self._complete = False
        self._failure: str | None = None
        self._readers = 0
        self._changed = asyncio.Event()

    @property
    def samples(self) -> int | None:
        """The prompt's length at 8000 samples a second; None until it is complete."""
        return self._written if self._complete else None

    @property
    def failed(self) -> bool:
        return self._failure is not None

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        return self._written * SAMPLE_BYTES

    async def segments(self) -> AsyncGenerator[Segment, None]:
        """The prompt's stretches in order, each as soon as it can be read; a complete prompt is one segment.

        Any number of consumers, each from the start. Raises SpeechError where the render failed.
        """
        position = 0
        self._readers += 1
        try:
            while True:
                self.touch()
                if self._written > position:
                    start, position = position, self._written
                    yield Segment(str(self.path), start, position - start)
                elif self._failure is not None:
                    raise SpeechError(self._failure)
                elif self._complete:
                    return
                else:
                    await self._changed.wait()
        finally:
            self._readers -= 1
            self.touch()

    def touch(self) -> None:
        """Count as used now: a caller that plays the file again says so, and it is not evicted."""
        self.last_used = self._clock()

    def is_idle(self) -> bool:
        """Whether nobody reads it, and nobody was told of it lately."""
        settled = self._complete or self.failed
        return settled and not self._readers and self._clock() - self.last_used > RECENT_SECONDS

    def grow(self, samples: int) -> None:
        self._written += samples
        self._announce()

    def finish(self) -> None:
        self._complete = True
        self._announce()

    def fail(self, reason: str) -> None:
        self._failure = reason
        self._announce()

    def _announce(self) -> None:
        # A fresh event each time: every consumer that waits now wakes, and none that comes later does.
        self._changed.set()
        self._changed = asyncio.Event()


class PromptCache:
    """Prompts by content hash in `folder` (created 0700), at most about `max_bytes` of them.

    `synthesizer` renders what is missing. `clock` gives Unix seconds. `write` is os.write, replaceable in tests.
    """

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        synthesizer: Synthesizer,
        *,
        clock: Callable[[], float] = time.time,
        write: Callable[[int, bytes], int] = os.write,
    ) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._synthesizer = synthesizer
        self._clock = clock
        self._write = write
        self._prompts: dict[str, Prompt] = {}
        self._retired: list[
            Prompt
        ] = []  # failed or replaced: deleted when nobody can be reading them any more
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_number = 0
        self._open_folder()

    @property
    def total_bytes(self) -> int:
        """What all prompts hold on the disk now."""
        return sum(prompt.size for prompt in (*self._prompts.values(), *self._retired))

    def prompt(self, utterance: Utterance) -> Prompt:
        """The utterance as a prompt, at once: known, being rendered, or starting to be. Needs a running loop."""
        engine = self._synthesizer
        key = utterance.key(f"{engine.name}/{engine.version}")
        prompt = self._find(key)
        if prompt is None:
            prompt = self._begin(key, engine.synthesize(utterance))
            prompt.warnings = engine.warnings(utterance)
        return prompt

    def store(self, key: str, pcm: bytes) -> Prompt:
        """Keep decoded line PCM under a key of the caller's; what was there before stays readable for a while."""
        return self._begin(_stored(key), _pieces(pcm))

    def get(self, key: str) -> Prompt | None:
        """What was stored under this key, unless it was evicted or could not be written."""
        return self._find(_stored(key))

    async def close(self) -> None:
        """Stop rendering: prompts not complete fail for their consumers."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._sweep()

    def _find(self, key: str) -> Prompt | None:
        prompt = self._prompts.get(key)
        if prompt is None or (not prompt.failed and _is_whole(prompt)):
            if prompt is not None:
                self._mark_used(prompt)
            return prompt
        self._retire(key)
        return None

    def _mark_used(self, prompt: Prompt) -> None:
        # The mark's time carries the order of use over a restart; once a minute is exact enough.
        if prompt.samples is not None and self._clock() - prompt.last_used > RECENT_SECONDS:
            with contextlib.suppress(OSError):
                os.utime(prompt.path.with_suffix(MARK), (self._clock(), self._clock()))
        prompt.touch()

    def _begin(self, key: str, source: AsyncIterator[bytes]) -> Prompt:
        self._retire(key)
        self._sweep()
        self._last_number += 1
        prompt = Prompt(self._folder / f"{key}-{self._last_number}{AUDIO}", self._clock)
        self._prompts[key] = prompt
        task = asyncio.get_running_loop().create_task(self._fill(prompt, source))
        self._tasks.add(task)  # the loop itself keeps only weak references
        task.add_done_callback(self._tasks.discard)
        return prompt

    async def _fill(self, prompt: Prompt, source: AsyncIterator[bytes]) -> None:
        """Run a render to its end; whatever happens, its consumers are told."""
        try:
            await self._copy(prompt, source)
            prompt.finish()
            self._sweep()
        except SpeechError as error:
            prompt.fail(str(error))
        except OSError as error:
            prompt.fail(_disk_sentence(self._folder, error))
        except asyncio.CancelledError:
            prompt.fail("The engine is stopping.")
            raise
        except Exception as error:  # a synthesizer's own mistake must not leave a call waiting for ever
            prompt.fail(f"The speech engine failed: {error!r}.")

    async def _copy(self, prompt: Prompt, source: AsyncIterator[bytes]) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        file = os.open(prompt.path, flags, 0o600)
        try:
            rest = b""
            async for piece in source:
                data = rest + piece
                whole = len(data) - len(data) % SAMPLE_BYTES
                data, rest = data[:whole], data[whole:]
                self._check_room(len(data))
                await asyncio.to_thread(self._append, file, data)
                prompt.grow(len(data) // SAMPLE_BYTES)
            await asyncio.to_thread(self._seal, file, prompt)
        finally:
            os.close(file)
            if isinstance(source, AsyncGenerator):
                await source.aclose()

    def _append(self, file: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._write(file, bytes(view)) :]

    def _seal(self, file: int, prompt: Prompt) -> None:
        os.fsync(file)  # or a power cut leaves a mark beside audio that never reached the disk
        if not prompt.retired:
            prompt.path.with_suffix(MARK).write_text(f"{prompt.size}\n", "ascii")

    def _check_room(self, size: int) -> None:
        if self.total_bytes + size > self._max_bytes + HEADROOM_BYTES:
            raise SpeechError("The prompt cache is full of prompts that are in use.")

    def _retire(self, key: str) -> None:
        if (prompt := self._prompts.pop(key, None)) is not None:
            prompt.retired = True
            prompt.path.with_suffix(MARK).unlink(missing_ok=True)
            self._retired.append(prompt)

    def _sweep(self) -> None:
        """Delete what is retired and idle, then the least recently used until the rest fits."""
        for key in [key for key, prompt in self._prompts.items() if prompt.failed]:
            self._retire(key)
        for prompt in [prompt for prompt in self._retired if prompt.is_idle()]:
            self._retired.remove(prompt)
            _delete(prompt)
        excess = self.total_bytes - self._max_bytes
        for key, prompt in sorted(self._prompts.items(), key=lambda item: item[1].last_used):
            if excess <= 0:
                return
            if prompt.is_idle():
                excess -= prompt.size
                _delete(self._prompts.pop(key))

    def _open_folder(self) -> None:
        """Take over the complete prompts of an earlier run and delete the rest."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for mark in self._folder.glob(f"*-*{MARK}"):
            self._take_over(mark)
        known = {prompt.path for prompt in self._prompts.values()}
        for audio in self._folder.glob(f"*-*{AUDIO}"):
            if audio not in known:
                audio.unlink(missing_ok=True)
        self._sweep()

    def _take_over(self, mark: Path) -> None:
        key, _, number = mark.stem.rpartition("-")
        prompt = Prompt(mark.with_suffix(AUDIO), self._clock)
        try:
            self._last_number = max(self._last_number, int(number))
            prompt.last_used = mark.stat().st_mtime
            prompt.grow(_marked_size(mark) // SAMPLE_BYTES)
        except (ValueError, OSError):
            mark.unlink(missing_ok=True)
            return
        prompt.finish()
        if key in self._prompts or not _is_whole(prompt):
            mark.unlink(missing_ok=True)
            return
        self._prompts[key] = prompt


def _delete(prompt: Prompt) -> None:
    # The mark first: audio without a mark is a leftover, a mark without audio would be a lie.
    prompt.path.with_suffix(MARK).unlink(missing_ok=True)
    prompt.path.unlink(missing_ok=True)


def _stored(key: str) -> str:
    return hashlib.sha256(b"stored\0" + key.encode("utf-8", "surrogatepass")).hexdigest()


def _marked_size(mark: Path) -> int:
    """The size a mark vouches for. Raises ValueError for one that was cut short itself."""
    text = mark.read_text("ascii")
    if not text.endswith("\n"):
        raise ValueError(f"{mark.name} is cut short")
    return int(text)


def _is_whole(prompt: Prompt) -> bool:
    """Whether the file is as long as it should be: somebody may have emptied the folder behind our back."""
    if prompt.samples is None:
        return True
    try:
        return prompt.path.stat().st_size == prompt.size
    except OSError:
        return False


def _disk_sentence(folder: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk that holds the prompt folder {folder} is full."
    return f"The prompt folder {folder} cannot be written: {error.strerror or error}."


async def _pieces(pcm: bytes) -> AsyncGenerator[bytes, None]:
    """Decoded audio as a source; in pieces, so that a long file starts to play before it is written."""
    size = 1 << 20
    for start in range(0, len(pcm), size):
        yield pcm[start : start + size]
