"""What each leg is playing: clips in order, loops, and the cursor columns that the tick slices by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.media.protocol import FRAME_SAMPLES, Clip, Event, Play, PlayDone, Trouble
from engine.media.worker.arena import Arena, ArenaFullError, Placed


@dataclass(slots=True)
class Playout:
    """One `Play` in progress. `last` is false while more clips may come."""

    play: int
    clips: list[Clip]
    last: bool
    loops_left: int  # 0 is forever
    interrupt_on: str
    next_clip: int = 0
    placed: Placed | None = None
    samples_before: int = 0  # of the clips that were played to their end

    def rewind(self) -> bool:
        """Begin the next round; False after the last one, or when a round has nothing to play."""
        if self.loops_left == 1 or not any(clip.samples for clip in self.clips):
            return False
        self.loops_left = max(self.loops_left - 1, 0)
        self.next_clip = 0
        return True


class Players:
    """The playouts of all legs. A leg with `frames_left` > 0 plays from `position` in the arena."""

    def __init__(self, capacity: int, arena: Arena) -> None:
        self.position = np.zeros(capacity, np.int64)
        self.frames_left = np.zeros(capacity, np.int64)
        self._arena = arena
        self._playouts: dict[int, Playout] = {}

    def start(self, leg: int, play: Play) -> list[Event]:
        """Play from now on, instead of what played before."""
        events = self.stop(leg)
        self._playouts[leg] = Playout(play.play, list(play.clips), play.last, play.loops, play.interrupt_on)
        return events + self._next_clip(leg)

    def extend(self, leg: int, play: int, clips: tuple[Clip, ...], last: bool) -> list[Event]:
        playout = self._playouts.get(leg)
        if playout is None or playout.play != play:
            return []  # it was stopped while this message was under way
        playout.clips += clips
        playout.last = last
        return self._next_clip(leg) if playout.placed is None else []

    def stop(self, leg: int, play: int | None = None) -> list[Event]:
        """Silence from the next frame on; with `play`, only when it is that one that plays."""
        playout = self._playouts.get(leg)
        if playout is None or play not in (None, playout.play):
            return []
        return [self._end(leg, completed=False)]

    def interrupted(self, leg: int, digit: str) -> list[Event]:
        """A key was pressed: barge-in happens here, in the tick that saw it."""
        playout = self._playouts.get(leg)
        return self.stop(leg) if playout is not None and digit in playout.interrupt_on else []

    def frames(self, legs: NDArray[np.int64], laws: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The current frame of each of these playing legs: (n, 160) octets."""
        return self._arena.frames(laws, self.position[legs])

    def advance(self, legs: NDArray[np.int64]) -> list[Event]:
        """The current frame of these legs went out."""
        self.position[legs] += FRAME_SAMPLES
        self.frames_left[legs] -= 1
        ended = legs[self.frames_left[legs] == 0]
        return [event for leg in ended.tolist() for event in self._next_clip(leg)] if len(ended) else []

    def _next_clip(self, leg: int) -> list[Event]:
        playout = self._playouts[leg]
        self._leave(playout)
        while not self.frames_left[leg]:
            if playout.next_clip == len(playout.clips):
                if not playout.last:
                    return []  # the rest is still being rendered
                if not playout.rewind():
                    return [self._end(leg, completed=True)]
            clip = playout.clips[playout.next_clip]
            playout.next_clip += 1
            try:
                self._enter(leg, playout, clip)
            except (OSError, ArenaFullError) as error:
                return [Trouble(leg, f"cannot play {clip.path}: {error}"), self._end(leg, completed=False)]
        return []

    def _enter(self, leg: int, playout: Playout, clip: Clip) -> None:
        if clip.samples:
            playout.placed = self._arena.acquire(clip)
            self.position[leg] = playout.placed.start
            self.frames_left[leg] = playout.placed.frames

    def _leave(self, playout: Playout) -> None:
        if playout.placed is not None:
            playout.samples_before += playout.placed.samples
            self._arena.release(playout.placed)
            playout.placed = None

    def _end(self, leg: int, *, completed: bool) -> PlayDone:
        playout = self._playouts.pop(leg)
        samples = playout.samples_before
        if playout.placed is not None:
            samples += min(int(self.position[leg]) - playout.placed.start, playout.placed.samples)
            self._arena.release(playout.placed)
        self.frames_left[leg] = 0
        return PlayDone(leg, playout.play, completed, samples)
