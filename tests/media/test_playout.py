"""Playouts by themselves: order, loops, ends, and clips that cannot be played."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.media.protocol import Clip, Event, Play, PlayDone, Trouble
from engine.media.worker import g711
from engine.media.worker.arena import Arena
from engine.media.worker.playout import Players

LEGS = np.array([3])
MU = np.array([g711.MU_LAW], np.uint8)
EMPTY = Clip("dtmf:1", 0, 0)


def tone(digit: str) -> Clip:
    return Clip(f"dtmf:{digit}", 0, 1600)


@pytest.fixture
def players() -> Players:
    return Players(8, Arena(32000))


def run(players: Players, ticks: int = 1000) -> tuple[list[bytes], list[Event]]:
    """Frames until the leg falls silent, and what was said."""
    frames: list[bytes] = []
    events: list[Event] = []
    for _ in range(ticks):
        if not players.frames_left[3]:
            break
        frames.append(players.frames(LEGS, MU).tobytes())
        events += players.advance(LEGS)
    return frames, events


def test_clips_in_order(players: Players) -> None:
    assert players.start(3, Play(1, 9, (tone("1"), EMPTY, tone("2")))) == []
    frames, events = run(players)
    assert len(frames) == 20
    assert frames[0] != frames[10]
    assert events == [PlayDone(3, 9, True, 3200)]


@pytest.mark.parametrize("loops", [1, 2, 5])
def test_loops(players: Players, loops: int) -> None:
    players.start(3, Play(1, 9, (tone("1"), tone("2")), loops=loops))
    frames, events = run(players)
    assert frames == frames[:20] * loops
    assert events == [PlayDone(3, 9, True, 3200 * loops)]


def test_loops_without_end(players: Players) -> None:
    players.start(3, Play(1, 9, (tone("1"),), loops=0))
    frames, events = run(players, 1005)
    assert (len(frames), events) == (1005, [])
    assert players.stop(3) == [PlayDone(3, 9, False, 160 * 1005)]


@pytest.mark.parametrize("clips", [(), (EMPTY,), (EMPTY,) * 5000])
@pytest.mark.parametrize("loops", [0, 1, 3])
def test_nothing_to_play_is_done_at_once(players: Players, clips: tuple[Clip, ...], loops: int) -> None:
    assert players.start(3, Play(1, 9, clips, loops=loops)) == [PlayDone(3, 9, True, 0)]


def test_extend_goes_on_without_a_gap_and_last_ends(players: Players) -> None:
    players.start(3, Play(1, 9, (tone("1"),), last=False))
    assert players.extend(3, 9, (tone("2"),), False) == []
    frames, events = run(players)
    assert (len(frames), events) == (20, [])
    assert players.extend(3, 9, (tone("3"),), False) == []
    assert len(run(players)[0]) == 10
    assert players.extend(3, 9, (), True) == [PlayDone(3, 9, True, 4800)]


def test_extended_loops_repeat_the_whole(players: Players) -> None:
    players.start(3, Play(1, 9, (), last=False, loops=2))
    players.extend(3, 9, (tone("1"),), False)
    players.extend(3, 9, (tone("2"),), True)
    frames, events = run(players)
    assert frames[:20] == frames[20:]
    assert events == [PlayDone(3, 9, True, 6400)]


def test_extend_of_an_earlier_play_is_late(players: Players) -> None:
    players.start(3, Play(1, 9, (tone("1"),)))
    assert players.extend(3, 8, (tone("2"),), True) == []
    assert players.extend(2, 9, (tone("2"),), True) == []
    assert len(run(players)[0]) == 10


def test_a_new_play_ends_the_old_one(players: Players) -> None:
    players.start(3, Play(1, 9, (tone("1"),)))
    players.advance(LEGS)
    assert players.start(3, Play(1, 10, (tone("2"),))) == [PlayDone(3, 9, False, 160)]


def test_stop_names_its_play(players: Players) -> None:
    players.start(3, Play(1, 9, (tone("1"),)))
    assert players.stop(3, 8) == []
    assert players.stop(3, 9) == [PlayDone(3, 9, False, 0)]
    assert players.stop(3) == []


def test_only_the_chosen_keys_interrupt(players: Players) -> None:
    players.start(3, Play(1, 9, (tone("1"),), interrupt_on="#5"))
    assert players.interrupted(3, "4") == []
    assert players.interrupted(3, "5") == [PlayDone(3, 9, False, 0)]
    assert players.interrupted(3, "5") == []


def test_stopped_within_the_padding_of_a_clip_counts_its_samples(players: Players, tmp_path: Path) -> None:
    np.ones(100, "<i2").tofile(tmp_path / "a.pcm")
    players.start(3, Play(1, 9, (Clip(str(tmp_path / "a.pcm"), 0, 100),), last=False))
    run(players)
    assert players.stop(3) == [PlayDone(3, 9, False, 100)]


def test_an_unreadable_clip_is_told_and_ends_the_playout(players: Players, tmp_path: Path) -> None:
    missing = str(tmp_path / "no.pcm")
    players.start(3, Play(1, 9, (tone("1"), Clip(missing, 0, 160), tone("2"))))
    frames, events = run(players)
    assert len(frames) == 10
    assert isinstance(events[0], Trouble)
    assert missing in events[0].text
    assert events[1:] == [PlayDone(3, 9, False, 1600)]
    assert players.start(3, Play(1, 10, (tone("1"),))) == []  # the leg itself is well


def test_a_full_arena_is_told() -> None:
    players = Players(8, Arena(1600))
    players.start(3, Play(1, 9, (tone("1"),)))
    events = players.start(4, Play(2, 9, (tone("2"),)))
    assert [type(event) for event in events] == [Trouble, PlayDone]
    players.stop(3)
    assert players.start(4, Play(2, 10, (tone("2"),))) == []
