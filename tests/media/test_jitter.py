"""The jitter buffer: a stream through a bad network comes out whole, on time, and never more than 200 ms late."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.media.worker.jitter import LATE_RUN, MAX_DELAY, SHRINK_AFTER, SLACK, START_DELAY, JitterBuffers

PCM = np.random.default_rng(4).integers(-20000, 20000, 160 * 400).astype(np.int16)
LEG = 1
QUIET = np.zeros(1)


class Listener:
    """One leg's buffer, beside neighbours that must stay as they are."""

    def __init__(self, base: int = 0) -> None:
        self.buffers = JitterBuffers(3)
        self.base = base
        self.heard: list[NDArray[np.int16]] = []

    def put(self, start: int, pcm: NDArray[np.int16]) -> None:
        timestamp = (self.base + start) % 2**32
        if len(pcm) == 160:
            self.buffers.put(np.array([LEG]), np.array([timestamp], np.uint32), pcm[None])
        else:
            self.buffers.put_samples(LEG, timestamp, pcm)

    def frame(self, number: int, source: NDArray[np.int16] = PCM) -> None:
        self.put(160 * number, source[160 * number : 160 * (number + 1)])

    def pull(self, jitter: float = 0.0) -> NDArray[np.int16]:
        out: NDArray[np.int16] = self.buffers.pull(np.array([LEG]), np.array([jitter]))[0]
        self.heard.append(out)
        return out

    def play(self, arrivals: Iterable[list[int]]) -> None:
        """Each tick some frames arrive by number, then one is played."""
        for numbers in arrivals:
            for number in numbers:
                self.frame(number)
            self.pull()

    @property
    def audio(self) -> NDArray[np.int16]:
        return np.concatenate(self.heard)


def numbers_heard(listener: Listener) -> list[int | None]:
    """Which frame of PCM each tick played; None for anything else."""
    frames = {PCM[160 * n : 160 * (n + 1)].tobytes(): n for n in range(400)}
    return [frames.get(out.tobytes()) for out in listener.heard]


@pytest.mark.parametrize("base", [0, 1, 2**32 - 160 * 20, 2**32 - 7, 2**31])
def test_a_smooth_stream_is_sample_for_sample_after_the_delay(base: int) -> None:
    listener = Listener(base)
    listener.play([n] for n in range(100))
    delay = 160 * START_DELAY
    assert not listener.audio[:delay].any()
    assert np.array_equal(listener.audio[delay:], PCM[: 160 * 100 - delay])
    assert listener.buffers.late[LEG] == 0


def test_reordering_within_the_delay() -> None:
    listener = Listener()
    listener.play([[0], [1], [4], [2], [3], [5], [7], [6]] + [[n] for n in range(8, 30)])
    assert numbers_heard(listener)[START_DELAY:] == list(range(30 - START_DELAY))


def test_duplicates_change_nothing() -> None:
    listener = Listener()
    listener.play([n, max(n - 1, 0), max(n - 4, 0)] for n in range(50))  # the last is of what was played
    assert numbers_heard(listener)[START_DELAY:] == list(range(50 - START_DELAY))
    assert (listener.buffers.late[LEG], listener.buffers.delay[LEG]) == (0, START_DELAY)


def test_loss_is_concealed_by_what_was_before_and_fades() -> None:
    listener = Listener()
    lost = set(range(20, 27))
    listener.play([] if n in lost else [n] for n in range(50))
    heard = numbers_heard(listener)
    at = heard.index(19)
    gap = listener.heard[at + 1 : at + 1 + len(lost)]
    energy = [float(np.mean(frame.astype(float) ** 2)) for frame in gap]
    assert np.array_equal(gap[0], PCM[160 * 19 : 160 * 20])
    assert all(second <= first for first, second in itertools.pairwise(energy))
    assert energy[1] < energy[0]
    assert energy[4:] == [0, 0, 0]
    assert heard[at + 1 + len(lost)] == 27  # the stream goes on in its own time


@pytest.mark.parametrize("length", [80, 240, 480])
@pytest.mark.parametrize("offset", [0, 37])
def test_other_packet_times(length: int, offset: int) -> None:
    listener = Listener(offset)
    sent = 0
    for tick in range(100):
        while sent + length <= 160 * (tick + 1):
            listener.put(sent, PCM[sent : sent + length])
            sent += length
        listener.pull()
    audio = listener.audio
    start = next(n for n in range(len(audio)) if audio[n])
    assert start <= 160 * (START_DELAY + 2)
    assert np.array_equal(audio[start:], PCM[: len(audio) - start])


def test_odd_alignment_after_a_step_of_the_sender() -> None:
    listener = Listener()
    listener.play([n] for n in range(10))
    shifted = 160 * 10 + 50  # 50 samples that were never sent
    for n in range(30):
        listener.put(shifted + 160 * n, PCM[1600 + 160 * n :][:160])
        listener.pull()
    expected = np.concatenate([PCM[:1600], np.zeros(50, np.int16), PCM[1600:]])
    audio = listener.audio[160 * START_DELAY :]
    assert np.array_equal(audio, expected[: len(audio)])


@pytest.mark.parametrize("pause", [3, 20, 100, 1000])
def test_a_sender_that_paused_is_heard_as_soon_as_before(pause: int) -> None:
    listener = Listener()
    listener.play([n] for n in range(20))
    for _ in range(pause):
        listener.pull()
    for n in range(20, 60):
        listener.put(160 * (n + pause), PCM[160 * n : 160 * (n + 1)])
        listener.pull()
    heard = numbers_heard(listener)
    assert [n for n in heard[START_DELAY + 20 :] if n is not None][-40 + START_DELAY :] == list(range(20, 58))
    assert heard.index(20) == 20 + pause + START_DELAY
    assert len(heard) == 20 + pause + 40


def test_a_late_stream_is_heard_whole() -> None:
    listener = Listener()
    listener.play([n] for n in range(20))
    listener.play([[], [], [], [], [], [20, 21, 22, 23, 24, 25]])  # a stall of the network
    listener.play([n] for n in range(26, 60))
    heard = [n for n in numbers_heard(listener) if n is not None]
    once = [n for n, before in zip(heard, [-1, *heard], strict=False) if n != before]
    assert once == list(range(heard[-1] + 1))
    assert heard[-1] >= 59 - START_DELAY - SLACK


@pytest.mark.parametrize("jump", [160 * 500, 2**31 - 1, -160 * 500, -(2**31) + 160 * 30, 12345])
def test_a_jump_of_the_senders_clock(jump: int) -> None:
    listener = Listener()
    listener.play([n] for n in range(20))
    for n in range(20, 60):
        listener.put(160 * n + jump, PCM[160 * n : 160 * (n + 1)])
        listener.pull()
    tail = listener.audio[-160 * 15 :]
    where = np.flatnonzero(np.all(np.lib.stride_tricks.sliding_window_view(PCM, len(tail)) == tail, axis=1))
    assert len(where) == 1
    behind = 160 * 60 - (int(where[0]) + len(tail))
    assert behind <= 160 * (START_DELAY + LATE_RUN + SLACK)


def test_another_source_is_taken_up_at_once() -> None:
    listener = Listener()
    listener.play([n] for n in range(20))
    listener.buffers.restart(np.array([LEG]))
    listener.base = -(10**6)  # behind: without the restart these packets were too late
    listener.play([n] for n in range(20, 40))
    assert numbers_heard(listener)[20 + START_DELAY :] == list(range(20, 40 - START_DELAY))
    assert (listener.buffers.late[LEG], listener.buffers.delay[LEG]) == (0, START_DELAY)


def test_late_packets_grow_the_delay_and_calm_shrinks_it() -> None:
    listener = Listener()
    arrivals: list[list[int]] = [[n] for n in range(400)]
    for n in range(20, 60, 10):  # each tenth packet is 4 frames late
        arrivals[n], arrivals[n + 4] = [], [n + 4, n]
    listener.play(arrivals[:80])
    assert 0 < listener.buffers.late[LEG] <= 3
    assert listener.buffers.delay[LEG] > START_DELAY
    heard = numbers_heard(listener)
    assert 50 in heard  # the last of the late ones was not too late any more
    grown = int(listener.buffers.delay[LEG])
    listener.play(arrivals[80:])
    for n in range(SHRINK_AFTER * 3):
        listener.put(160 * (400 + n), PCM[:160])
        listener.pull()
    assert START_DELAY <= listener.buffers.delay[LEG] < grown


def test_jitter_asks_for_more_delay_but_not_for_more_than_200_ms() -> None:
    listener = Listener()
    for n in range(10):
        listener.frame(n)
        listener.pull(jitter=160.0)
    assert listener.buffers.delay[LEG] == 4
    for n in range(10, 20):
        listener.frame(n)
        listener.pull(jitter=1e9)
    assert listener.buffers.delay[LEG] == MAX_DELAY


def test_a_burst_is_worked_off() -> None:
    listener = Listener()
    listener.play([n] for n in range(20))
    listener.play([list(range(20, 36))])  # a sender that runs ahead
    listener.play([n] for n in range(36, 80))
    assert numbers_heard(listener)[-1] >= 79 - START_DELAY - SLACK - 1  # type: ignore[operator]


def test_many_legs_are_independent() -> None:
    count = 40
    buffers, alone = JitterBuffers(count), [Listener(n * 10**8) for n in range(count)]
    rng = np.random.default_rng(6)
    for tick in range(60):
        legs = np.flatnonzero(rng.random(count) > 0.2)
        frames = np.maximum(tick - rng.integers(0, 3, len(legs)), 0)
        stamps = ((legs * 10**8 + 160 * frames) % 2**32).astype(np.uint32)
        pcm = np.stack([PCM[160 * (n + f) :][:160] for n, f in zip(legs, frames, strict=True)])
        buffers.put(legs, stamps, pcm)
        for leg, frame, samples in zip(legs, frames, pcm, strict=True):
            alone[leg].put(160 * int(frame), samples)
        heard = buffers.pull(np.arange(count), np.zeros(count))
        for out, listener in zip(heard, alone, strict=True):
            assert np.array_equal(out, listener.pull())


def test_neighbours_are_untouched() -> None:
    listener = Listener()
    listener.play([n] for n in range(20))
    assert not listener.buffers.pull(np.array([0, 2]), np.zeros(2)).any()
    listener.buffers.reset(LEG)
    assert not listener.pull().any()


STEP = st.tuples(
    st.sampled_from(
        ["next", "next", "next", "next", "lost", "twice", "late", "jump", "odd", "short", "long"]
    ),
    st.integers(0, 2**32 - 1),
    st.integers(0, 3),
)


@settings(max_examples=150)
@given(st.integers(0, 2**32 - 1), st.lists(STEP, max_size=120))
def test_never_raises_and_never_lags(base: int, steps: list[tuple[str, int, int]]) -> None:
    listener, at = Listener(base), 0
    for kind, number, pulls in steps:
        if kind == "jump":
            at = number
        elif kind == "late":
            listener.put(at - 160 * (number % 40), PCM[:160])
        elif kind == "odd":
            at += number % 160
        elif kind in ("short", "long"):
            length = 1 + number % (79 if kind == "short" else 600)
            listener.put(at, PCM[:length])
            at += length
        if kind in ("next", "twice"):
            for _ in range(1 + (kind == "twice")):
                listener.put(at, PCM[:160])
        at += 160 * (kind in ("next", "lost", "twice"))
        for _ in range(pulls):
            listener.pull(jitter=float(number % 1000))
        assert 0 <= listener.buffers.delay[LEG] <= MAX_DELAY
        assert 0 <= listener.buffers._wait[LEG] <= MAX_DELAY
        assert listener.buffers._top[LEG] - listener.buffers._play[LEG] <= 32
    # Whatever happened: a smooth stream is soon heard again, and not late.
    for _ in range(150):
        listener.put(at, PCM[:160])
        at += 160
        listener.pull()
    marked = np.full(160, 12345, np.int16)
    listener.put(at, marked)
    for _ in range(MAX_DELAY + SLACK + 3):
        if 12345 in listener.pull():
            break
        at += 160
        listener.put(at, PCM[:160])
    else:
        pytest.fail("not heard after 260 ms")
