"""Real worker processes on real sockets: audio from one leg into the other's recording, deaths, statistics."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from engine.errors import MediaError
from engine.media import protocol as p
from engine.media.link import WorkerLink
from engine.media.pool import MediaPool
from engine.media.session import MediaSession
from engine.media.worker import g711
from engine.sip.offer import Negotiated
from engine.sip.sdp import Codec, parse_sdp
from tests.media.test_sockets import free_range

HOST = "127.0.0.1"
SDP = parse_sdp(b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n")
DEADLINE = 20.0  # generous: these tests assert what happens, not how fast a busy machine is


class End:
    """One leg and everything that was said about it."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[p.Event] = asyncio.Queue()
        self.lost: asyncio.Queue[str] = asyncio.Queue()
        self.session: MediaSession

    async def open(self, pool: MediaPool) -> End:
        self.session = await pool.open(HOST, self.events.put_nowait, self.lost.put_nowait)
        return self

    def aim(self, port: int, timeout: float = 0.0, codec: str = "PCMU") -> None:
        kind = Codec(8 if codec == "PCMA" else 0, codec, 8000)
        keys = Codec(101, "telephone-event", 8000)
        self.session.aim(Negotiated(SDP, kind, keys, HOST, port, HOST, None, "sendrecv", 20, False), timeout)

    async def wait(self, kind: type[p.Event]) -> p.Event:
        async with asyncio.timeout(DEADLINE):
            while not isinstance(event := await self.events.get(), kind):
                pass
            return event


@pytest.fixture
async def links() -> AsyncIterator[list[WorkerLink]]:
    first, last = free_range(20)
    middle = (first + last) // 2 & ~1
    links = [WorkerLink("a", first, middle), WorkerLink("b", middle, last)]
    for link in links:
        await link.start()
    yield links
    for link in links:
        await link.stop()


@pytest.fixture
def pool(links: list[WorkerLink]) -> MediaPool:
    return MediaPool(links)


async def clips(path: Path, *lengths: int) -> AsyncIterator[p.Clip]:
    start = 0
    for length in lengths:
        yield p.Clip(str(path), start, length)
        start += length


@pytest.mark.parametrize(("codec", "law"), [("PCMU", g711.MU_LAW), ("PCMA", g711.A_LAW)])
async def test_what_one_leg_plays_the_other_records(
    pool: MediaPool, tmp_path: Path, codec: str, law: int
) -> None:
    pcm = np.random.default_rng(1).integers(1000, 30000, 5003).astype(np.int16)
    pcm.astype("<i2").tofile(tmp_path / "prompt.pcm")
    speaker, listener = await End().open(pool), await End().open(pool)
    speaker.aim(listener.session.port, codec=codec)
    listener.aim(speaker.session.port, codec=codec)
    locked = await listener.wait(p.SourceLocked)
    assert locked == p.SourceLocked(listener.session.leg, HOST, speaker.session.port)
    listener.session.record(str(tmp_path / "heard.wav"))
    async with asyncio.timeout(DEADLINE):
        done = await speaker.session.play(clips(tmp_path / "prompt.pcm", 700, 1, 1299, 3000, 3))
        assert (done.completed, done.samples) == (True, 5003)
        await speaker.session.send_digits("42#")
    assert [await listener.wait(p.Digit) for _ in "42#"] == [p.Digit(listener.session.leg, d) for d in "42#"]
    said, heard = await pool.close(speaker.session), await pool.close(listener.session)
    recorded, rate = soundfile.read(tmp_path / "heard.wav", dtype="int16")
    expected = g711.decode(g711.encode(pcm, law), law)
    assert rate == 8000
    windows = np.lib.stride_tricks.sliding_window_view(recorded, len(expected))
    where = np.flatnonzero(windows[:, 0] == expected[0])
    assert any(np.array_equal(windows[at], expected) for at in where), "the clip is not in the recording"
    assert heard.packets_lost == 0
    assert 40 < heard.packets_received <= said.packets_sent
    assert heard.source == f"{HOST}:{speaker.session.port}"
    assert pool.session_count == 0


async def test_a_key_interrupts_a_prompt_in_the_worker(pool: MediaPool, tmp_path: Path) -> None:
    np.ones(8000 * 60, "<i2").tofile(tmp_path / "long.pcm")
    caller, prompt = await End().open(pool), await End().open(pool)
    caller.aim(prompt.session.port)
    prompt.aim(caller.session.port)
    await prompt.wait(p.SourceLocked)
    playing = asyncio.create_task(
        prompt.session.play(clips(tmp_path / "long.pcm", 8000 * 60), interrupt_on="#")
    )
    async with asyncio.timeout(DEADLINE):
        await caller.session.send_digits("1#")
        done = await playing
    assert not done.completed
    assert 0 < done.samples < 8000 * 30


async def test_a_killed_worker_ends_its_own_legs_and_is_started_again(
    pool: MediaPool, links: list[WorkerLink], monkeypatch: pytest.MonkeyPatch
) -> None:
    spawn, spawned = links[0]._spawn, asyncio.Event()

    async def spawn_and_tell() -> None:
        await spawn()
        spawned.set()

    monkeypatch.setattr(links[0], "_spawn", spawn_and_tell)
    ends = [await End().open(pool) for _ in range(4)]
    waiting = asyncio.create_task(ends[0].session.send_digits("W" * 50))
    await asyncio.sleep(0)  # it runs up to its wait: the command is sent to a worker that lives
    pid = links[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(DEADLINE):
        for end in (ends[0], ends[2]):
            assert "killed by signal 9" in await end.lost.get()
        with pytest.raises(MediaError, match="killed by signal 9"):
            await waiting
    assert pool.session_count == 2
    assert ends[1].lost.empty()
    assert ends[3].lost.empty()
    async with asyncio.timeout(DEADLINE):
        await spawned.wait()
        assert links[0].restarts == 1
        assert links[0].pid not in (None, pid)
        again = await End().open(pool)  # on the emptier worker, which is the new one
        again.aim(ends[1].session.port)
        ends[1].aim(again.session.port)
        await ends[1].wait(p.SourceLocked)


async def test_media_timeout_and_the_worker_s_report(pool: MediaPool, links: list[WorkerLink]) -> None:
    reported, to_pool = asyncio.Event(), links[0].on_event

    def listen(event: p.Event) -> None:
        to_pool(event)
        if isinstance(event, p.WorkerReport) and event.ticks:
            reported.set()

    links[0].on_event = listen
    quiet = await End().open(pool)
    quiet.aim(quiet.session.port + 1, timeout=0.2)  # its own RTCP port: nobody who answers
    assert await quiet.wait(p.MediaTimeout) == p.MediaTimeout(quiet.session.leg, 0.2)
    async with asyncio.timeout(DEADLINE):
        await reported.wait()
    assert pool.reports[0].legs == 1
    quality = await pool.close(quiet.session)
    assert quality.packets_sent > 5
    assert (quality.packets_received, quality.source) == (0, None)


async def test_no_port_is_free(tmp_path: Path) -> None:
    first, last = free_range(1)
    link = WorkerLink("small", first, last)
    await link.start()
    try:
        pool = MediaPool([link])
        await End().open(pool)
        with pytest.raises(MediaError, match="no free RTP port"):
            await End().open(pool)
        with pytest.raises(MediaError, match="not an IP address"):
            await pool.open("nowhere", lambda event: None, lambda reason: None)
    finally:
        await link.stop()


async def test_stopping_flushes_recordings(tmp_path: Path) -> None:
    link = WorkerLink("one", *free_range(2))
    await link.start()
    pool = MediaPool([link])
    leg = await End().open(pool)
    leg.aim(leg.session.port)  # hears itself
    await leg.wait(p.SourceLocked)
    leg.session.record(str(tmp_path / "a.wav"))
    async with asyncio.timeout(DEADLINE):
        await leg.session.send_digits("1")
        await link.stop()
    assert soundfile.info(tmp_path / "a.wav").frames >= 160 * 5
    with pytest.raises(MediaError, match="not running"):
        link.send(p.Shutdown())


async def test_a_realtime_worker_runs_before_ordinary_programs() -> None:
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        pytest.skip("real-time scheduling is not permitted here")
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    link = WorkerLink("urgent", *free_range(20), realtime=True)
    await link.start()
    await End().open(MediaPool([link]))  # it answers, so it has come past its start
    assert link.pid is not None
    assert os.sched_getscheduler(link.pid) == os.SCHED_RR
    await link.stop()
