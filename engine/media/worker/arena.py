"""Prompts, kept encoded: one long row of octets per law, so that playing is slicing.

Every clip that any leg plays is read once, encoded in both laws and laid into the arena, padded with silence
to whole frames. A tick then fetches the frames of all playing legs with one index operation, whichever
clips they are in. Clips nobody plays stay until their room is wanted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from engine.media.protocol import FRAME_SAMPLES, Clip
from engine.media.worker import g711, tones

ARENA_SAMPLES = 32 << 20  # 70 minutes of distinct prompts; the pages are only touched as clips are laid in


def read_clip(clip: Clip) -> NDArray[np.int16]:
    """A clip's samples: from its file, or made here when its path names a tone. Raises OSError."""
    if clip.path.startswith(tones.SCHEME):
        return tones.samples(clip.path)
    pcm = np.fromfile(clip.path, "<i2", count=clip.samples, offset=2 * clip.start)
    if len(pcm) < clip.samples:
        raise OSError(f"{clip.path} holds {len(pcm)} of {clip.samples} samples from {clip.start}")
    return pcm


class ArenaFullError(Exception):
    """Every clip in the arena is being played and there is no room for one more."""


@dataclass(slots=True)
class Placed:
    """Where a clip lies (`start`, octets), how many frames it has and how many legs play it."""

    start: int
    frames: int
    samples: int
    users: int = 0
    touched: int = 0


class Arena:
    """Clips by content position; first-fit placement, eviction of the least recently used that nobody plays."""

    def __init__(self, capacity: int = ARENA_SAMPLES) -> None:
        self._octets = np.empty((2, capacity), np.uint8)
        self._windows = sliding_window_view(self._octets, FRAME_SAMPLES, axis=1)
        self._capacity = capacity
        self._clips: dict[Clip, Placed] = {}
        self._uses = 0

    def frames(self, laws: NDArray[np.uint8], positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """One 20 ms frame per row: (n,) laws and octet positions in, (n, 160) octets out."""
        out: NDArray[np.uint8] = self._windows[laws, positions]
        return out

    def acquire(self, clip: Clip) -> Placed:
        """The clip's place, read and encoded on first use. Raises OSError (unreadable) or `ArenaFullError`."""
        placed = self._clips.get(clip)
        if placed is None:
            placed = self._clips[clip] = self._lay(read_clip(clip))
        self._uses += 1
        placed.touched = self._uses
        placed.users += 1
        return placed

    def release(self, placed: Placed) -> None:
        placed.users -= 1

    def _lay(self, pcm: NDArray[np.int16]) -> Placed:
        frames = -(-len(pcm) // FRAME_SAMPLES)
        start = self._room(frames * FRAME_SAMPLES)
        end = start + len(pcm)
        for law in (g711.MU_LAW, g711.A_LAW):
            self._octets[law, start:end] = g711.encode(pcm, law)
            self._octets[law, end : start + frames * FRAME_SAMPLES] = g711.SILENCE[law]
        return Placed(start, frames, len(pcm))

    def _room(self, octets: int) -> int:
        while (start := self._gap(octets)) is None:
            idle = [clip for clip, placed in self._clips.items() if placed.users == 0]
            if not idle:
                raise ArenaFullError(f"no room for {octets} octets of audio")
            del self._clips[min(idle, key=lambda clip: self._clips[clip].touched)]
        return start

    def _gap(self, octets: int) -> int | None:
        position = 0
        for placed in sorted(self._clips.values(), key=lambda placed: placed.start):
            if placed.start - position >= octets:
                return position
            position = placed.start + placed.frames * FRAME_SAMPLES
        return position if self._capacity - position >= octets else None
