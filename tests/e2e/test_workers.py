"""A media worker killed in the middle of calls takes its own calls with it, and no other."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from engine.config import Config, RtpConfig
from engine.media.link import WorkerLink
from engine.softphone import CallPlan, CallReport, PhoneCall, Softphone
from markup import Say
from tests.e2e.audio import assert_played, prompt_pcm, read_wav
from tests.e2e.conftest import EngineFactory, Running
from tests.e2e.script import Script

LONG = Say("This sentence must be heard to its very end, whatever becomes of others.")
PORTS = "61000-64999"  # halved between two workers; above what other engines here may be using
SECOND_HALF = 63000


class Caller:
    """A call under way, and which of the engine's ports its audio comes from."""

    def __init__(self, phone: Softphone, plan: CallPlan) -> None:
        self.call: asyncio.Future[PhoneCall] = asyncio.get_running_loop().create_future()
        self.report = asyncio.create_task(phone.call(plan, self.call.set_result))

    async def worker(self) -> int:
        settled = (await self.call).leg_alive.settled
        assert settled is not None
        return 0 if settled.remote_port < SECOND_HALF else 1


async def place(running: Running, phone: Softphone, path: Path) -> Caller:
    caller = Caller(phone, CallPlan(running.target(), record=path))
    count = len(running.notes.of("say")) + 1
    await running.notes.wait("say", count=count)
    await running.notes.wait("media", count=count)
    return caller


async def test_only_the_calls_of_the_dead_worker_end(
    engine_factory: EngineFactory, softphone: Softphone, tmp_path: Path
) -> None:
    config = Config(rtp=RtpConfig(PORTS, 2))
    running = await engine_factory(Script(f"<Say>{LONG.text}</Say>"), config=config)
    wanted = await prompt_pcm(running.engine, LONG)
    callers = [await place(running, softphone, tmp_path / f"{number}.wav") for number in range(2)]
    workers = [await caller.worker() for caller in callers]
    assert sorted(workers) == [0, 1], "two calls, one on each worker"

    victim = running.engine.links[workers[0]]
    dead = victim.pid
    assert dead is not None
    os.kill(dead, signal.SIGKILL)
    lost: CallReport = await callers[0].report
    assert lost.ended_by == "far end", "the telephone is told at once, by BYE"
    assert not callers[1].report.done()
    survivor = await callers[1].report
    assert (survivor.ended_by, survivor.quality.packets_lost) == ("far end", 0)
    assert_played(read_wav(tmp_path / "1.wav"), wanted)

    await running.ended()
    ended = {row.created_at: (row.status, row.ended_by) for row in await running.rows()}
    assert [ended[at] for at in sorted(ended)] == [("failed", "engine"), ("completed", "app")]
    errors = [str(note.data["text"]) for note in running.notes.of("error")]
    assert len(errors) == 1
    assert "killed by signal 9" in errors[0]
    assert victim.restarts == 1
    assert victim.pid not in (None, dead)


async def test_a_new_call_goes_to_a_worker_that_lives(
    engine_factory: EngineFactory, softphone: Softphone
) -> None:
    running = await engine_factory(Script("<Say>Welcome.</Say>"), config=Config(rtp=RtpConfig(PORTS, 2)))
    await kill(running.engine.links[0])
    report = await softphone.call(CallPlan(running.target()))
    assert (report.status, report.ended_by) == (200, "far end")
    assert report.quality.packets_received > 5


async def test_a_worker_that_came_back_carries_calls(
    engine_factory: EngineFactory, softphone: Softphone, tmp_path: Path
) -> None:
    running = await engine_factory(Script("<Say>Back again.</Say>"))  # one worker: nobody else could carry it
    wanted = await prompt_pcm(running.engine, Say("Back again."))
    (link,) = running.engine.links
    await kill(link)
    async with asyncio.timeout(10):
        while not link.is_up:  # noqa: ASYNC110 - a link tells nobody when its worker comes and goes
            await asyncio.sleep(0.02)
    await softphone.call(CallPlan(running.target(), record=tmp_path / "heard.wav"))
    assert link.restarts == 1
    assert_played(read_wav(tmp_path / "heard.wav"), wanted)


async def kill(link: WorkerLink) -> None:
    """Kill a worker; returns when its engine knows."""
    assert link.pid is not None
    os.kill(link.pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        while link.is_up:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
