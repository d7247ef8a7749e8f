"""Calls from sipp: an independent SIP stack judges ours, message by message."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import EngineFactory, Running
from tests.e2e.relay import UdpRelay
from tests.e2e.script import Script
from tests.e2e.sipp import PCAPS, needs_sipp, run_sipp

pytestmark = [pytest.mark.peer, needs_sipp]

COLLECT = '<Gather numDigits="3" timeout="8" action="/keys"/>'
PCMU: dict[str, Any] = {"codec": 0, "encoding": "PCMU"}
G729: dict[str, Any] = {"codec": 18, "encoding": "G729"}


def sockets(pid: int | None) -> set[str]:
    """The sockets that a process holds."""
    found = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            found.add(str(path.readlink()))
    return {name for name in found if name.startswith("socket:")}


async def gauges(running: Running) -> dict[str, float]:
    """The engine's own figures, as operators read them."""
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"{running.engine.http.url}/metrics")).text
    return {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if line[0] != "#"}


async def test_digits_as_telephone_events_reach_the_app(
    engine_factory: EngineFactory, tmp_path: Path
) -> None:
    script = Script(COLLECT, keys="<Hangup/>")
    running = await engine_factory(script)
    run = await run_sipp("digits_rfc4733", running.engine.sip_addresses[0], tmp_path, digits="12*")
    run.check()
    assert [ask.params["Digits"] for ask in script.of("/keys")] == ["12*"]
    assert [note.data["how"] for note in running.notes.of("digit")] == ["rfc4733"] * 3


@pytest.mark.skipif(not PCAPS.is_dir() or os.geteuid() != 0, reason="needs sipp's captures and raw sockets")
async def test_digits_that_another_telephone_sent_are_read(
    engine_factory: EngineFactory, tmp_path: Path
) -> None:
    script = Script('<Gather numDigits="2" timeout="8" action="/keys"/>', keys="<Hangup/>")
    running = await engine_factory(script)
    captures: dict[str, Any] = {"first": PCAPS / "dtmf_2833_7.pcap", "second": PCAPS / "dtmf_2833_star.pcap"}
    run = await run_sipp(
        "digits_pcap", running.engine.sip_addresses[0], tmp_path, milliseconds=500, **captures
    )
    run.check()
    assert [ask.params["Digits"] for ask in script.of("/keys")] == ["7*"]


async def test_digits_in_sip_info_of_both_kinds_reach_the_app(
    engine_factory: EngineFactory, tmp_path: Path
) -> None:
    script = Script(COLLECT, keys="<Hangup/>")
    running = await engine_factory(script)
    (await run_sipp("digits_info", running.engine.sip_addresses[0], tmp_path)).check()
    assert [ask.params["Digits"] for ask in script.of("/keys")] == ["42*"]
    assert [note.data["how"] for note in running.notes.of("digit")] == ["info"] * 3


async def test_a_caller_who_gives_up_gets_487_and_the_call_is_canceled(
    engine_factory: EngineFactory, tmp_path: Path
) -> None:
    running = await engine_factory(Script('<Pause length="5"/><Say>Too late.</Say>'))
    (await run_sipp("cancel", running.engine.sip_addresses[0], tmp_path)).check()
    row = await running.row()
    assert (row.status, row.ended_by, row.sip_status, row.answered_at) == ("canceled", "caller", 487, None)
    assert not running.notes.of("say")


async def test_late_offer_is_answered_in_the_ack(engine_factory: EngineFactory, tmp_path: Path) -> None:
    running = await engine_factory(Script("<Say>Good morning.</Say>"))
    (await run_sipp("late_offer", running.engine.sip_addresses[0], tmp_path)).check()
    row = await running.row()
    assert (row.status, row.end_reason) == ("completed", "the document came to its end")
    assert row.quality["packets_sent"] > 20


async def test_a_reinvite_without_sdp_is_offered_to(engine_factory: EngineFactory, tmp_path: Path) -> None:
    running = await engine_factory(Script('<Say loop="0">Good morning.</Say>'))
    (await run_sipp("late_reoffer", running.engine.sip_addresses[0], tmp_path)).check()
    row = await running.row()
    assert (row.status, row.ended_by) == ("completed", "caller")
    assert not running.notes.of("error")


async def test_hold_stops_our_audio_and_resume_brings_it_back(
    engine_factory: EngineFactory, tmp_path: Path
) -> None:
    running = await engine_factory(Script('<Say loop="0">Please hold the line.</Say>'))
    run = await run_sipp("hold", running.engine.sip_addresses[0], tmp_path, milliseconds=500)
    run.check()
    row = await running.row()
    texts = [note.data["text"] for note in running.notes.of("media")]
    assert texts.index("the caller put us on hold") < texts.index("the caller is back from hold")
    assert (row.status, row.ended_by) == ("completed", "caller")
    versions = [int(found) for found in re.findall(r"^o=\S+ \d+ (\d+)", ours(run.messages), re.MULTILINE)]
    assert versions == sorted(set(versions)), (
        "each description that differs has a higher version (RFC 3264 §8)"
    )
    assert len(versions) == 3
    talking = row.quality["packets_sent"] * 0.02
    whole = (row.ended_at - row.answered_at).total_seconds()  # type: ignore[operator]
    assert whole - talking == pytest.approx(0.5, abs=0.2), "nothing is sent while we are on hold"


def ours(messages: str) -> str:
    """The messages that the engine sent, from sipp's log."""
    blocks = re.split(r"^-{10,}.*$", messages, flags=re.MULTILINE)
    return "".join(block for block in blocks if "message received" in block)


async def test_an_offer_without_a_common_codec_is_488(engine_factory: EngineFactory, tmp_path: Path) -> None:
    script = Script("<Say>Hello.</Say>")
    running = await engine_factory(script)
    (await run_sipp("refused", running.engine.sip_addresses[0], tmp_path, status=488, **G729)).check()
    row = await running.row()
    assert (row.status, row.sip_status) == ("failed", 488)
    assert not script.asks, "nobody is asked about a call that cannot be heard"


@pytest.mark.parametrize(
    ("verb", "status", "word"),
    [('<Reject reason="busy"/>', 486, "busy"), ("<Reject/>", 404, "no-answer")],
)
async def test_reject_refuses_the_call(
    engine_factory: EngineFactory, tmp_path: Path, verb: str, status: int, word: str
) -> None:
    running = await engine_factory(Script(verb))
    (await run_sipp("refused", running.engine.sip_addresses[0], tmp_path, status=status, **PCMU)).check()
    row = await running.row()
    assert (row.status, row.ended_by, row.sip_status, row.answered_at) == (word, "app", status, None)


async def test_requests_that_no_call_is_behind_are_answered(
    engine_factory: EngineFactory, tmp_path: Path
) -> None:
    running = await engine_factory(Script("<Hangup/>"))
    remote = running.engine.sip_addresses[0]
    register, bye = await asyncio.gather(
        run_sipp("register", remote, tmp_path), run_sipp("stray_bye", remote, tmp_path)
    )
    register.check()
    bye.check()
    assert await running.rows() == []


async def test_the_engine_hangs_up(engine_factory: EngineFactory, tmp_path: Path) -> None:
    running = await engine_factory(Script("<Hangup/>"))
    (await run_sipp("callee_hangs_up", running.engine.sip_addresses[0], tmp_path)).check()
    row = await running.row()
    assert (row.status, row.ended_by, row.end_reason) == ("completed", "app", "the app hung up")


async def test_the_caller_hangs_up_in_the_middle_of_a_prompt(
    engine_factory: EngineFactory, tmp_path: Path
) -> None:
    script = Script('<Say loop="0">This never ends.</Say><Redirect>/next</Redirect>', next="<Hangup/>")
    running = await engine_factory(script)
    (await run_sipp("caller_hangs_up", running.engine.sip_addresses[0], tmp_path, milliseconds=600)).check()
    row = await running.row()
    assert (row.status, row.ended_by, row.duration) == ("completed", "caller", 1)
    assert not script.of("/next"), "a call that is over asks for nothing"


async def test_a_network_that_doubles_every_message_makes_one_call(
    engine_factory: EngineFactory, tmp_path: Path
) -> None:
    script = Script('<Say loop="0">Only one of me.</Say>')
    running = await engine_factory(script)
    async with UdpRelay(running.engine.sip_addresses[0], lambda payload: [payload, payload]) as relay:
        (await run_sipp("caller_hangs_up", relay.address, tmp_path, milliseconds=300)).check()
    row = await running.row()
    assert (row.status, row.ended_by) == ("completed", "caller")
    assert len(script.asks) == 1


async def test_a_call_survives_the_loss_of_the_first_copy_of_every_message(
    engine_factory: EngineFactory, tmp_path: Path
) -> None:
    running = await engine_factory(Script('<Say loop="0">Still here.</Say>'))
    seen: set[bytes] = set()

    def lose_first(payload: bytes) -> list[bytes]:
        if payload in seen:
            return [payload]
        seen.add(payload)
        return []

    async with UdpRelay(running.engine.sip_addresses[0], lose_first) as relay:
        (await run_sipp("caller_hangs_up", relay.address, tmp_path, milliseconds=300)).check()
    row = await running.row()
    assert (row.status, row.ended_by) == ("completed", "caller")
    assert len(await running.rows()) == 1


async def test_fifty_calls_at_25_a_second_leave_nothing_behind(
    engine_factory: EngineFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 64*T1 is 32 s on a real network; what is left after it is asserted here, not how long it is
    monkeypatch.setattr("engine.sip.transaction.TRANSACTION_TIMEOUT", 4.0)
    monkeypatch.setattr("engine.sip.transaction.T4", 1.0)
    running = await engine_factory(Script('<Say loop="0">One of many.</Say>'))
    (worker,) = running.engine.links
    before = sockets(worker.pid)
    run = await run_sipp(
        "caller_hangs_up", running.engine.sip_addresses[0], tmp_path, calls=50, rate=25, milliseconds=800
    )
    run.check()
    await running.ended()
    rows = await running.rows()
    assert [(row.status, row.ended_by) for row in rows] == [("completed", "caller")] * 50
    assert all(row.quality["packets_sent"] > 20 for row in rows)
    assert running.engine.services.pool.session_count == 0
    assert sockets(worker.pid) == before, "the worker has closed every leg's ports"
    figures = await gauges(running)
    assert (figures["switchhook_calls"], figures["switchhook_sip_sessions"]) == (0, 0)
    async with asyncio.timeout(8):
        while figures["switchhook_sip_transactions"]:
            await asyncio.sleep(0.05)  # a gauge is read, not waited for
            figures = await gauges(running)
