"""The prompt arena: what is laid in comes out, room is reused, and what is playing is never evicted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.media.protocol import Clip
from engine.media.worker import g711
from engine.media.worker.arena import Arena, ArenaFullError, Placed, read_clip


def write(path: Path, pcm: NDArray[np.int16]) -> str:
    pcm.astype("<i2").tofile(path)
    return str(path)


@pytest.fixture
def speech(tmp_path: Path) -> tuple[str, NDArray[np.int16]]:
    pcm = np.random.default_rng(1).integers(-30000, 30000, 8000).astype(np.int16)
    return write(tmp_path / "speech.pcm", pcm), pcm


def all_frames(arena: Arena, placed: Placed, law: int) -> NDArray[np.uint8]:
    positions = placed.start + 160 * np.arange(placed.frames)
    return arena.frames(np.full(placed.frames, law, np.uint8), positions).ravel()


@pytest.mark.parametrize("law", [g711.MU_LAW, g711.A_LAW])
@pytest.mark.parametrize(("start", "samples"), [(0, 8000), (13, 1000), (7999, 1), (160, 320)])
def test_a_clip_is_encoded_and_padded_with_silence(
    speech: tuple[str, NDArray[np.int16]], law: int, start: int, samples: int
) -> None:
    path, pcm = speech
    arena = Arena(16000)
    placed = arena.acquire(Clip(path, start, samples))
    octets = all_frames(arena, placed, law)
    assert placed.frames == -(-samples // 160)
    assert np.array_equal(octets[:samples], g711.encode(pcm[start : start + samples], law))
    assert np.all(octets[samples:] == g711.SILENCE[law])


def test_a_clip_is_laid_in_once(speech: tuple[str, NDArray[np.int16]]) -> None:
    path, _ = speech
    arena = Arena(8000)
    first = arena.acquire(Clip(path, 0, 8000))
    assert arena.acquire(Clip(path, 0, 8000)) is first
    assert first.users == 2


def test_eviction_takes_the_least_recently_used_idle_clip(speech: tuple[str, NDArray[np.int16]]) -> None:
    path, _ = speech
    arena = Arena(3 * 1600)
    clips = [Clip(path, 1600 * n, 1600) for n in range(4)]
    oldest, playing, recent = (arena.acquire(clip) for clip in clips[:3])
    arena.release(recent)
    arena.release(oldest)
    arena.release(arena.acquire(clips[2]))  # used again, later than the oldest
    assert arena.acquire(clips[3]).start == oldest.start
    assert arena.acquire(clips[1]) is playing
    assert arena.acquire(clips[2]) is recent


def test_full_of_what_is_playing(speech: tuple[str, NDArray[np.int16]]) -> None:
    path, _ = speech
    arena = Arena(1600)
    playing = arena.acquire(Clip(path, 0, 1600))
    with pytest.raises(ArenaFullError):
        arena.acquire(Clip(path, 0, 160))
    arena.release(playing)
    assert arena.acquire(Clip(path, 0, 160)).frames == 1
    with pytest.raises(ArenaFullError):
        arena.acquire(Clip(path, 0, 3200))  # longer than the whole arena


def test_a_short_or_missing_file_is_an_os_error(speech: tuple[str, NDArray[np.int16]]) -> None:
    path, _ = speech
    with pytest.raises(OSError, match="holds 100 of 200 samples from 7900"):
        read_clip(Clip(path, 7900, 200))
    with pytest.raises(FileNotFoundError):
        Arena(1600).acquire(Clip(path + ".no", 0, 160))


@given(st.data())
def test_clips_in_use_never_overlap(data: st.DataObject) -> None:
    arena = Arena(40 * 160)
    held: list[tuple[str, Placed]] = []
    for _ in range(40):
        release: bool = data.draw(st.booleans())
        if held and release:
            arena.release(held.pop(data.draw(st.integers(0, len(held) - 1)))[1])
            continue
        digit = data.draw(st.sampled_from("0123456789*#"))
        try:
            held.append((digit, arena.acquire(Clip(f"dtmf:{digit}", 0, 1600))))
        except ArenaFullError:
            assert len({digit for digit, _ in held}) >= 2  # fragments may keep a third of the room unused
    for digit, placed in held:
        expected = g711.encode(read_clip(Clip(f"dtmf:{digit}", 0, 1600)), g711.MU_LAW)
        assert np.array_equal(all_frames(arena, placed, g711.MU_LAW), expected)
