"""The prompt cache: one render for many, streaming, crashes, eviction, full disks."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from speech import cache as cache_module
from speech.base import Segment, SpeechError, Utterance
from speech.cache import Prompt, PromptCache
from speech.tts import EspeakSynthesizer
from tests.speech.conftest import Scripted, pcm_of


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine() -> Scripted:
    return Scripted()


@pytest.fixture
async def cache(tmp_path: Path, engine: Scripted, clock: Clock) -> AsyncIterator[PromptCache]:
    cache = PromptCache(tmp_path / "prompts", 1000, engine, clock=clock)
    yield cache
    await cache.close()


async def content(prompt: Prompt) -> bytes:
    return b"".join([pcm_of(segment) async for segment in prompt.segments()])


def files(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir())


async def test_many_callers_share_one_render(cache: PromptCache, engine: Scripted) -> None:
    prompts = [cache.prompt(Utterance("a")) for _ in range(20)]
    consumers = [asyncio.ensure_future(content(prompt)) for prompt in prompts]
    engine.put(b"1122", b"3", b"344", None)  # pieces of any size, whole samples or not
    assert await asyncio.gather(*consumers) == [b"11223344"] * 20
    assert len(engine.started) == 1
    assert prompts[0].samples == 4
    assert await content(cache.prompt(Utterance("a"))) == b"11223344"
    assert len(engine.started) == 1


async def test_segments_come_while_the_render_goes_on(cache: PromptCache, engine: Scripted) -> None:
    prompt = cache.prompt(Utterance("a"))
    early = prompt.segments()
    engine.put(b"11" * 100)
    first = await anext(early)
    assert (first.start, first.samples, prompt.samples) == (0, 100, None)
    late = prompt.segments()
    assert await anext(late) == first
    engine.put(b"22" * 50, None)
    assert pcm_of(await anext(early)) == b"22" * 50
    assert pcm_of(await anext(late)) == b"22" * 50
    assert [segment async for segment in early] == [segment async for segment in late] == []
    assert [segment async for segment in prompt.segments()] == [Segment(first.path, 0, 150)]
    assert pcm_of(first) == b"11" * 100  # the path of the first segment is still good


async def test_other_words_voice_or_language_are_other_prompts(cache: PromptCache, engine: Scripted) -> None:
    base = Utterance("a", None, "en-US", None)
    others = [
        Utterance("b", None, "en-US", None),
        Utterance("a", "a", "en-US", None),
        Utterance("a", None, "pl-PL", None),
        Utterance("a", None, "en-US", ""),
    ]
    paths = {cache.prompt(utterance).path for utterance in (base, *others)}
    assert len(paths) == 5
    assert base.key("espeak/1") != base.key("espeak/2")


async def test_failure_reaches_every_consumer_and_the_next_call_renders_anew(
    cache: PromptCache, engine: Scripted
) -> None:
    prompt = cache.prompt(Utterance("a"))
    consumers = [asyncio.ensure_future(content(prompt)) for _ in range(3)]
    engine.put(b"1122", SpeechError("The voice broke."))
    for consumer in consumers:
        with pytest.raises(SpeechError, match=r"^The voice broke\.$"):
            await consumer
    assert prompt.path.read_bytes() == b"1122"  # a worker may be reading what it was told of
    assert prompt.samples is None
    engine.put(b"5566", None)
    again = cache.prompt(Utterance("a"))
    assert again.path != prompt.path
    assert await content(again) == b"5566"


async def test_synthesizers_own_mistake_is_a_speech_error(cache: PromptCache, engine: Scripted) -> None:
    engine.put(ZeroDivisionError("oops"))
    with pytest.raises(SpeechError, match="ZeroDivisionError"):
        await content(cache.prompt(Utterance("a")))


async def test_warnings_are_on_the_prompt(tmp_path: Path) -> None:
    cache = PromptCache(tmp_path, 1000, Scripted(good=False))
    assert [warning.code for warning in cache.prompt(Utterance("a")).warnings] == [13511]
    await cache.close()


async def test_restart_keeps_complete_prompts_and_deletes_leftovers(
    tmp_path: Path, engine: Scripted, cache: PromptCache
) -> None:
    folder = tmp_path / "prompts"
    whole, partial = cache.prompt(Utterance("whole")), cache.prompt(Utterance("partial"))
    engine.put(b"1111", b"2222")
    async for _ in partial.segments():
        break
    async for _ in whole.segments():
        break
    engine.put(None, None)
    await content(whole)
    await content(partial)
    partial.path.with_suffix(".done").unlink()  # as after a crash before the mark was written
    (folder / "stray-77.pcm").write_bytes(b"xx")
    (folder / "cut-78.done").write_text("4")  # a mark that was cut short itself
    (folder / "cut-78.pcm").write_bytes(b"xxxx")
    (folder / "gone-79.done").write_text("4\n")

    second = Scripted()
    restarted = PromptCache(folder, 1000, second)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        path.name for path in (whole.path, whole.path.with_suffix(".done"))
    )
    assert await content(restarted.prompt(Utterance("whole"))) in (b"1111", b"2222")
    assert second.started == []
    second.put(b"3333", None)
    assert await content(restarted.prompt(Utterance("partial"))) == b"3333"
    await restarted.close()


async def test_truncated_audio_is_not_taken_as_complete(
    tmp_path: Path, engine: Scripted, cache: PromptCache
) -> None:
    engine.put(b"11223344", None)
    prompt = cache.prompt(Utterance("a"))
    await content(prompt)
    os.truncate(prompt.path, 6)
    second = Scripted()
    second.put(b"5566", None)
    restarted = PromptCache(tmp_path / "prompts", 1000, second)
    assert await content(restarted.prompt(Utterance("a"))) == b"5566"
    await restarted.close()


async def test_emptied_folder_is_rendered_again(cache: PromptCache, engine: Scripted) -> None:
    engine.put(b"11", None)
    prompt = cache.prompt(Utterance("a"))
    await content(prompt)
    prompt.path.unlink()
    engine.put(b"22", None)
    assert await content(cache.prompt(Utterance("a"))) == b"22"


async def test_eviction_takes_the_least_recently_used(
    cache: PromptCache, engine: Scripted, clock: Clock
) -> None:
    prompts = {}
    for name in "abc":
        engine.put(b"x" * 400, None)
        prompts[name] = cache.prompt(Utterance(name))
        await content(prompts[name])
        clock.seconds += 100
    assert not prompts["a"].path.exists()  # 1200 bytes are over 1000, and it was the oldest
    await content(cache.prompt(Utterance("b")))
    clock.seconds += 61
    engine.put(b"x" * 400, None)
    await content(cache.prompt(Utterance("d")))
    assert prompts["b"].path.exists()
    assert not prompts["c"].path.exists()
    assert cache.total_bytes == 800
    assert len(engine.started) == 4


async def test_recent_prompts_and_prompts_being_read_stay(
    cache: PromptCache, engine: Scripted, clock: Clock
) -> None:
    engine.put(b"x" * 900, None)
    read = cache.prompt(Utterance("read"))
    await content(read)
    reader = read.segments()
    await anext(reader)
    engine.put(b"x" * 900, None)
    recent = cache.prompt(Utterance("recent"))
    await content(recent)
    clock.seconds += 59
    recent.touch()
    clock.seconds += 59
    cache.store("trigger", b"")
    assert recent.path.exists()
    clock.seconds += 2
    cache.store("trigger", b"")
    assert not recent.path.exists()
    assert read.path.exists()  # 120 seconds old, but still open
    await reader.aclose()
    clock.seconds += 61
    await content(cache.store("trigger", b"x" * 200))
    assert not read.path.exists()


async def test_order_of_use_survives_a_restart(
    tmp_path: Path, engine: Scripted, cache: PromptCache, clock: Clock
) -> None:
    for name in "ab":
        engine.put(b"x" * 400, None)
        await content(cache.prompt(Utterance(name)))
        clock.seconds += 100
    old, new = cache.prompt(Utterance("b")), cache.prompt(Utterance("a"))
    for at, prompt in ((1, old), (2, new)):
        os.utime(prompt.path.with_suffix(".done"), (clock.seconds + at, clock.seconds + at))
    clock.seconds += 1000
    restarted = PromptCache(tmp_path / "prompts", 500, engine, clock=clock)
    assert new.path.exists()
    assert not old.path.exists()
    await restarted.close()


async def test_use_of_an_old_prompt_moves_its_mark(
    cache: PromptCache, engine: Scripted, clock: Clock
) -> None:
    engine.put(b"11", None)
    await content(cache.prompt(Utterance("a")))
    clock.seconds += 5000
    prompt = cache.prompt(Utterance("a"))
    assert prompt.path.with_suffix(".done").stat().st_mtime == clock.seconds


async def test_full_disk_is_a_sentence_and_nothing_is_complete(tmp_path: Path, engine: Scripted) -> None:
    room = 6

    def write(file: int, data: bytes) -> int:
        """A disk with six bytes left: a short write first, as POSIX does it."""
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = os.write(file, data[:room])
        room -= written
        return written

    cache = PromptCache(tmp_path / "p", 1000, engine, write=write)
    prompt = cache.prompt(Utterance("a"))
    engine.put(b"1122", b"3344", None)
    with pytest.raises(SpeechError, match=r"^The disk that holds the prompt folder .* is full\.$"):
        await content(prompt)
    assert prompt.samples is None
    assert files(tmp_path / "p") == [".pcm"]
    await cache.close()
    restarted = PromptCache(tmp_path / "p", 1000, engine)
    assert files(tmp_path / "p") == []
    await restarted.close()


async def test_disk_full_at_the_mark_leaves_no_complete_prompt(
    tmp_path: Path, engine: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(cache_module.os, "fsync", fail)
    cache = PromptCache(tmp_path / "p", 1000, engine)
    engine.put(b"1122", None)
    with pytest.raises(SpeechError, match=r"cannot be written: Input/output error\."):
        await content(cache.prompt(Utterance("a")))
    assert files(tmp_path / "p") == [".pcm"]
    await cache.close()


async def test_flood_of_recent_prompts_is_stopped(
    cache: PromptCache, engine: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "HEADROOM_BYTES", 500)
    engine.put(b"x" * 1400, None)
    assert len(await content(cache.prompt(Utterance("a")))) == 1400
    engine.put(b"x" * 200, None)
    with pytest.raises(SpeechError, match="full of prompts that are in use"):
        await content(cache.prompt(Utterance("b")))


async def test_stored_audio_is_found_by_its_key_until_replaced(cache: PromptCache, clock: Clock) -> None:
    first = cache.store("https://example.com/a.wav", b"1122")
    assert cache.get("https://example.com/a.wav") is first
    assert cache.get("https://example.com/b.wav") is None
    assert await content(first) == b"1122"
    second = cache.store("https://example.com/a.wav", b"3344")
    assert await content(second) == b"3344"
    assert await content(first) == b"1122"  # a call may be in the middle of it
    clock.seconds += 61
    cache.store("other", b"")
    assert not first.path.exists()
    assert second.path.exists()


async def test_replaced_while_being_written_leaves_one_mark(tmp_path: Path, cache: PromptCache) -> None:
    first, second = cache.store("k", b"1122"), cache.store("k", b"3344")
    assert await content(first) == b"1122"
    assert await content(second) == b"3344"
    assert [path.stem for path in (tmp_path / "prompts").glob("*.done")] == [second.path.stem]


async def test_folder_and_files_are_private(tmp_path: Path, cache: PromptCache) -> None:
    prompt = cache.store("k", b"1122")
    await content(prompt)
    assert stat.S_IMODE((tmp_path / "prompts").stat().st_mode) == 0o700
    assert stat.S_IMODE(prompt.path.stat().st_mode) == 0o600


async def test_close_ends_waiting_consumers_and_cancels_the_render(
    cache: PromptCache, engine: Scripted
) -> None:
    waiting = asyncio.ensure_future(content(cache.prompt(Utterance("a"))))
    await engine.asked.wait()
    await cache.close()
    with pytest.raises(SpeechError, match="stopping"):
        await waiting
    assert engine.cancelled == 1


async def test_cancelled_consumer_leaves_the_render_to_the_others(
    cache: PromptCache, engine: Scripted
) -> None:
    prompt = cache.prompt(Utterance("a"))
    first, second = (asyncio.ensure_future(content(prompt)) for _ in range(2))
    engine.put(b"11")
    async for _ in prompt.segments():
        break
    first.cancel()
    engine.put(b"22", None)
    assert await second == b"1122"
    assert first.cancelled()


async def test_real_engine_through_the_cache(tmp_path: Path, espeak: EspeakSynthesizer) -> None:
    cache = PromptCache(tmp_path, 1 << 24, espeak)
    prompt = cache.prompt(Utterance("A rather long sentence for the telephone. " * 20))
    segments = [segment async for segment in prompt.segments()]
    assert len(segments) > 1
    assert segments[0].samples < 8000
    assert prompt.samples == sum(segment.samples for segment in segments)
    assert [segment.start for segment in segments[1:]] == [one.start + one.samples for one in segments[:-1]]
    assert 20 < prompt.samples / 8000 < 90
    await cache.close()
