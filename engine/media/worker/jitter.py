"""The jitter buffers of all legs: one matrix of frames, keyed by RTP timestamp.

A packet's samples are laid at their place in time, so reordering, duplicates and packets of any length need no
special case; whatever is missing when its time comes is concealed. A buffer holds back 40 to 200 ms, following
the leg's own jitter: it grows at once when a packet comes too late and shrinks slowly. When nothing newer is
here time stands still, so a late stream is heard whole; a sender that was silent meanwhile (its timestamps
went on) is taken up where it is, not heard behind by the length of its pause.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.media.protocol import FRAME_SAMPLES

SLOTS = 32  # 640 ms per leg: 200 ms of delay, and room for a burst after a stall
START_DELAY = 2  # frames of 20 ms; also the least
MAX_DELAY = 10
LATE_RUN = (
    5  # so many late packets in a row mean that the sender's clock moved, not that the network was slow
)
SLACK = 3  # frames above the wanted delay before one is dropped to catch up
SHRINK_AFTER = 250  # ticks without a late packet before the delay may shrink by a frame (5 s)
FADE = np.array([1.0, 0.7, 0.4, 0.15, 0.0], np.float32)  # concealment repeats the last frame, out after 80 ms
HISTORY = np.uint64((1 << SLOTS) - 1)


class JitterBuffers:
    """Columns over `capacity` legs; `put` and `pull` work on batches of legs."""

    def __init__(self, capacity: int) -> None:
        self._frames = np.zeros((capacity, SLOTS, FRAME_SAMPLES), np.int16)
        self._have = np.zeros((capacity, SLOTS), np.int32)  # samples laid into each frame
        self._last = np.zeros((capacity, FRAME_SAMPLES), np.int16)
        self._base = np.zeros(capacity, np.uint32)  # timestamp of the start of frame 0
        self._play = np.zeros(capacity, np.int64)  # number of the frame to play next
        self._top = np.zeros(capacity, np.int64)  # one past the newest frame laid in
        self._wait = np.zeros(capacity, np.int64)  # frames still to hold back before playout starts
        self._missing = np.zeros(capacity, np.int64)  # frames concealed in a row
        self._late_run = np.zeros(capacity, np.int64)
        self._calm = np.zeros(capacity, np.int64)  # ticks since the last late packet
        self._stood = np.zeros(capacity, np.int64)  # ticks that time has stood still
        self._heard = np.zeros(capacity, np.uint64)  # bit i: frame `play - 1 - i` was here when it was played
        self._running = np.zeros(capacity, np.bool_)
        self.delay = np.full(capacity, START_DELAY, np.int64)  # wanted delay in frames
        self.late = np.zeros(capacity, np.int64)

    def reset(self, leg: int) -> None:
        for column in vars(self).values():
            column[leg] = 0
        self.delay[leg] = START_DELAY

    def put(self, legs: NDArray[np.int64], timestamps: NDArray[np.uint32], pcm: NDArray[np.int16]) -> None:
        """Lay in one 20 ms frame for each of several different legs: (n,), (n,), (n, 160)."""
        fresh = ~self._running[legs]
        if fresh.any():
            self._start(legs[fresh], timestamps[fresh])
        offset = (timestamps - self._base[legs]).view(np.int32)
        if self._stood[legs].any():
            self._take_up(legs, (offset + self._turn(legs, offset)) // FRAME_SAMPLES)
        frame, within = np.divmod(offset.astype(np.int64) + self._turn(legs, offset), FRAME_SAMPLES)
        straight = (within == 0) & (frame >= self._play[legs]) & (frame < self._play[legs] + SLOTS)
        legs_, frame_ = legs[straight], frame[straight]
        self._frames[legs_, frame_ % SLOTS] = pcm[straight]
        self._have[legs_, frame_ % SLOTS] = FRAME_SAMPLES
        self._top[legs_] = np.maximum(self._top[legs_], frame_ + 1)
        self._late_run[legs_] = 0
        for row in np.flatnonzero(~straight):
            self.put_samples(int(legs[row]), int(timestamps[row]), pcm[row])

    def put_samples(self, leg: int, timestamp: int, pcm: NDArray[np.int16]) -> None:
        """Lay in any number of samples for one leg: other packet times, odd alignments, and what came late."""
        if not self._running[leg]:
            self._start(np.array([leg]), np.array([timestamp], np.uint32))
        position = self._position(leg, timestamp)
        self._take_up(np.array([leg]), np.array([position // FRAME_SAMPLES]))
        if position >= int(self._play[leg] + SLOTS) * FRAME_SAMPLES - len(pcm):
            position = self._restart(leg, timestamp)  # a jump ahead: the sender paused or moved its clock
        elif position + len(pcm) <= int(self._play[leg]) * FRAME_SAMPLES:
            behind = int(self._play[leg]) - 1 - position // FRAME_SAMPLES
            if (behind < SLOTS and int(self._heard[leg]) >> behind & 1) or not self._is_new_time(leg):
                return  # the network's duplicate of what was played, or it came too late
            position = self._restart(leg, timestamp)
        self._late_run[leg] = 0
        self._lay(leg, position, pcm)

    def restart(self, legs: NDArray[np.int64]) -> None:
        """Another source sends on these legs: its timestamps have nothing to do with the old ones."""
        self._running[legs] = False

    def pull(self, legs: NDArray[np.int64], jitter: NDArray[np.float64]) -> NDArray[np.int16]:
        """The next 20 ms of each leg, (n, 160). `jitter` is the leg's interarrival jitter in samples."""
        self._adapt(legs, jitter)
        waiting = ~self._running[legs] | (self._wait[legs] > 0)
        self._wait[legs] -= self._wait[legs] > 0
        slot = self._play[legs] % SLOTS
        ready = ~waiting & (self._have[legs, slot] > 0)
        out = self._frames[legs, slot]
        if ready.all():
            self._last[legs], self._missing[legs] = out, 0
            self._advance(legs)
            return out
        out[~ready] = self._conceal(legs[~ready])
        self._last[legs[ready]] = out[ready]
        self._missing[legs] = np.where(ready, 0, self._missing[legs] + 1)
        newer = self._top[legs] > self._play[legs]
        self._stood[legs] += ~waiting & ~newer
        self._advance(legs[~waiting & newer])
        return out

    # --- one leg's place in time ---------------------------------------------------------------------------

    def _turn(self, legs: NDArray[np.int64], offset: NDArray[np.int32]) -> NDArray[np.int64]:
        # A 32-bit offset names a place modulo 2**32 samples; the turn that lands nearest to playout is meant.
        place = self._play[legs] * FRAME_SAMPLES
        turns: NDArray[np.int64] = np.rint((place - offset) / 2.0**32).astype(np.int64) << 32
        return turns

    def _position(self, leg: int, timestamp: int) -> int:
        offset = (timestamp - int(self._base[leg])) & 0xFFFFFFFF
        place = int(self._play[leg]) * FRAME_SAMPLES
        return place + ((offset - place + 0x80000000) & 0xFFFFFFFF) - 0x80000000

    def _take_up(self, legs: NDArray[np.int64], frames: NDArray[np.int64]) -> None:
        # Standing still, these legs have nothing laid in ahead, so moving on skips only silence.
        ahead = frames >= self._play[legs]
        legs, gap = legs[ahead], (frames - self._play[legs])[ahead]
        self._play[legs] += np.minimum(gap, self._stood[legs])
        self._heard[legs] = np.where(self._stood[legs] > 0, 0, self._heard[legs])
        self._stood[legs] = 0

    def _start(self, legs: NDArray[np.int64], timestamps: NDArray[np.uint32]) -> None:
        self._base[legs] = timestamps
        self._play[legs] = self._top[legs] = 0
        self._have[legs] = 0
        self._frames[legs] = 0
        self._heard[legs] = 0
        self._stood[legs] = self._late_run[legs] = 0
        self._wait[legs] = self.delay[legs]
        self._running[legs] = True

    def _restart(self, leg: int, timestamp: int) -> int:
        self._start(np.array([leg]), np.array([timestamp], np.uint32))
        return 0

    def _is_new_time(self, leg: int) -> bool:
        self.late[leg] += 1
        self._calm[leg] = 0
        self._late_run[leg] += 1
        if self._late_run[leg] >= LATE_RUN:
            self.delay[leg] = START_DELAY  # what grew on the way here was no jitter
            return True
        self.delay[leg] = min(self.delay[leg] + 1, MAX_DELAY)
        if self._top[leg] - self._play[leg] + self._wait[leg] < MAX_DELAY:
            self._wait[leg] += 1  # hold playout back a frame: without it the next one is late as well
        return False

    def _lay(self, leg: int, position: int, pcm: NDArray[np.int16]) -> None:
        skipped = max(int(self._play[leg]) * FRAME_SAMPLES - position, 0)  # the part that is already history
        position, pcm = position + skipped, pcm[skipped:]
        while len(pcm):
            frame, within = divmod(position, FRAME_SAMPLES)
            part = pcm[: FRAME_SAMPLES - within]
            self._frames[leg, frame % SLOTS, within : within + len(part)] = part
            self._have[leg, frame % SLOTS] += len(part)
            self._top[leg] = max(self._top[leg], frame + 1)
            position, pcm = position + len(part), pcm[len(part) :]

    # --- playout -------------------------------------------------------------------------------------------

    def _advance(self, legs: NDArray[np.int64]) -> None:
        slot = self._play[legs] % SLOTS
        here = (self._have[legs, slot] > 0).astype(np.uint64)
        self._heard[legs] = (self._heard[legs] << np.uint64(1) | here) & HISTORY
        self._have[legs, slot] = 0
        self._frames[legs, slot] = 0
        self._play[legs] += 1

    def _conceal(self, legs: NDArray[np.int64]) -> NDArray[np.int16]:
        gain = FADE[np.minimum(self._missing[legs], len(FADE) - 1)]
        return (self._last[legs] * gain[:, None]).astype(np.int16)

    def _adapt(self, legs: NDArray[np.int64], jitter: NDArray[np.float64]) -> None:
        wanted = np.clip(np.ceil(3 * jitter / FRAME_SAMPLES).astype(np.int64) + 1, START_DELAY, MAX_DELAY)
        self._calm[legs] += 1
        shrink = (self._calm[legs] > SHRINK_AFTER) & (self.delay[legs] > wanted)
        self.delay[legs] = np.where(shrink, self.delay[legs] - 1, np.maximum(self.delay[legs], wanted))
        self._calm[legs[shrink]] = 0
        held = self._top[legs] - self._play[legs] - 1  # the newest one is what just arrived
        crowded = self._running[legs] & (self._wait[legs] == 0) & (held > self.delay[legs] + SLACK)
        if crowded.any():
            self._advance(legs[crowded])
