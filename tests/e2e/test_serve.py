"""`switchhook serve` as a process: it drains, it stops, and what it had promised survives its death."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import httpx
import pytest
from starlette.responses import Response

from engine.softphone import CallPlan, CallReport, PhoneCall, Softphone
from tests.e2e.conftest import VOICE, AppServer
from tests.e2e.script import Ask, Script
from tests.e2e.serving import Serving, command, serving

SPOKEN = '<Gather numDigits="1" timeout="60" action="/key"/>'  # live until somebody presses a key
OK = Response("", 204)


async def live_call(phone: Softphone, engine: Serving) -> tuple[PhoneCall, asyncio.Task[CallReport]]:
    """A call that the engine has answered."""
    started: asyncio.Future[PhoneCall] = asyncio.get_running_loop().create_future()
    report = asyncio.create_task(phone.call(CallPlan(engine.target()), started.set_result))
    call = await started
    async with asyncio.timeout(10):
        await call._answered.wait()
    return call, report


async def unrepeated(script: Script, count: int) -> list[Ask]:
    """The first `count` different callbacks. An engine killed between an answer and the note of it asks again."""
    while True:
        asks = {ask.headers["I-Twilio-Idempotency-Token"]: ask for ask in reversed(script.of("/status"))}
        if len(asks) >= count:
            return sorted(asks.values(), key=lambda ask: ask.at)
        await script.asked("/status", len(script.of("/status")) + 1)


async def test_drain_refuses_new_calls_and_lets_live_ones_finish(
    app_server: AppServer, softphone: Softphone, tmp_path: Path
) -> None:
    script = Script(SPOKEN, key="<Say>Thank you.</Say>", status=OK)
    served = await app_server(script)
    options = ("--app", served.url + VOICE, "--status-callback", served.url + "/status")
    async with serving(tmp_path / "data", *options) as engine, httpx.AsyncClient() as client:
        assert (await client.get(engine.http + "/health")).json() == {"status": "ok", "calls": 0}
        call, report = await live_call(softphone, engine)
        engine.send(signal.SIGTERM)
        await engine.said("draining: 1 live call")
        health = await client.get(engine.http + "/health")
        assert (health.status_code, health.json()) == (503, {"status": "draining", "calls": 1})
        refused = await softphone.call(CallPlan(engine.target()))
        assert refused.status == 503
        assert len(script.of(VOICE)) == 1, "no app is asked about a refused call"
        assert not report.done()
        await call.leg_alive.media.send_digits("4")
        finished = await report
        assert await engine.left() == 0
    assert (finished.status, finished.ended_by) == (200, "far end")
    assert [ask.params["Digits"] for ask in script.of("/key")] == ["4"]
    assert [ask.params["CallStatus"] for ask in script.of("/status")][-1] == "completed"
    assert len(script.of("/status")) == 4


async def test_the_503_says_when_to_come_back(
    app_server: AppServer, softphone: Softphone, tmp_path: Path
) -> None:
    headers: list[str | None] = []
    served = await app_server(Script(SPOKEN))
    async with serving(tmp_path / "data", "--app", served.url + VOICE) as engine:
        await live_call(softphone, engine)
        engine.send(signal.SIGTERM)
        await engine.said("draining")

        def see(direction: str, message: object, *rest: object) -> None:
            if getattr(message, "status", None) == 503:
                headers.append(message.headers.get("Retry-After"))  # type: ignore[attr-defined]

        softphone.stack._trace = see
        await softphone.call(CallPlan(engine.target()))
    assert headers == ["30"]


@pytest.mark.parametrize(
    "signals", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT)], ids=["SIGTERM", "Ctrl-C"]
)
async def test_a_second_signal_stops_at_once_and_leaves_a_consistent_store(
    app_server: AppServer, softphone: Softphone, tmp_path: Path, signals: tuple[signal.Signals, ...]
) -> None:
    script = Script(SPOKEN, key=SPOKEN)
    served = await app_server(script)
    data = tmp_path / "data"
    async with serving(data, "--app", served.url + VOICE) as engine:
        call, report = await live_call(softphone, engine)
        engine.send(signals[0])
        await engine.said("draining")
        await call.leg_alive.media.send_digits("4")
        await script.asked("/key")  # the first signal, which every process got, disturbed nobody
        engine.send(signals[1])
        finished = await report
        assert await engine.left() == 0
        assert engine.processes() == []
    assert finished.ended_by == "far end"
    (row,) = await command("calls", "--data", str(data))
    assert (row["status"], row["ended_by"], row["end_reason"]) == (
        "completed",
        "engine",
        "the engine was stopped",
    )
    assert row["duration"] is not None


async def test_calls_that_a_killed_engine_left_are_closed_and_told_by_the_next(
    app_server: AppServer, softphone: Softphone, tmp_path: Path
) -> None:
    script = Script(SPOKEN, status=OK)
    served = await app_server(script)
    data = tmp_path / "data"
    options = ("--app", served.url + VOICE, "--status-callback", served.url + "/status")
    async with serving(data, *options) as engine:
        call, report = await live_call(softphone, engine)
        await script.asked("/status", 3)
        engine.send(signal.SIGKILL)
        assert await engine.left() == -signal.SIGKILL
        async with asyncio.timeout(10):
            while await asyncio.to_thread(engine.processes):  # noqa: ASYNC110 - they see that it is gone, and leave
                await asyncio.sleep(0.05)
    call.hang_up()
    await report
    async with serving(data, *options) as again:
        assert again.account == engine.account
        asks = await unrepeated(script, 4)
        (row,) = await command("calls", "--data", str(data))
        shown = await command("calls", row["sid"], "--data", str(data))
    assert (row["status"], row["ended_by"], row["end_reason"]) == ("failed", "engine", "engine restarted")
    assert [ask.params["CallStatus"] for ask in asks] == ["initiated", "ringing", "in-progress", "failed"]
    assert [ask.params["SequenceNumber"] for ask in asks] == ["0", "1", "2", "3"]
    assert (asks[-1].params["CallSid"], asks[-1].params["CallDuration"]) == (row["sid"], "0")
    kinds = [(note["kind"], note.get("name")) for note in shown["timeline"]]
    assert ("verb", "Gather") in kinds
    assert shown["timeline"][1]["line"].startswith("INVITE sip:1000@")


async def test_a_second_engine_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path / "data"):
        with pytest.raises(AssertionError, match="not a ready line"):
            async with serving(tmp_path / "data"):
                pass
