"""The load tool against a real engine on this machine, and its arithmetic alone."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from engine import cli
from engine.app import Engine
from engine.config import AppConfig, Config, HttpConfig, SipConfig
from engine.errors import ConfigError
from engine.load import LoadPlan, LoadReport, NoMedia, Outcome, Spread, Tally, ToolReport, run_load
from engine.media import protocol as media
from engine.softphone import CallReport

ANSWERING = "<Response><Gather timeout='30'/></Response>"
BUSY = "<Response><Reject reason='busy'/></Response>"
SOUND_TOOL = ToolReport(1000, 0, 0, 0.5, 1.0, 0)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    """An engine whose one document is app.xml; each test writes its own before it calls."""
    app = tmp_path / "app.xml"
    app.write_text(ANSWERING)
    config = Config(
        data=str(tmp_path / "data"),
        sip=SipConfig(("udp:127.0.0.1:0",)),
        http=HttpConfig("127.0.0.1:0"),
        app=AppConfig(voice_url=str(app)),
    )
    running = Engine(config)
    await running.start()
    yield running
    await running.stop()


def target(engine: Engine) -> str:
    host, port = engine.sip_addresses[0]
    return f"sip:1000@{host}:{port}"


async def test_every_call_is_answered_heard_and_counted(engine: Engine) -> None:
    seen: list[int] = []
    plan = LoadPlan(target(engine), calls=6, rate=20, hold=0.5)
    report = await run_load(plan, lambda tally: seen.append(tally.started))
    assert report.is_good
    assert (report.attempted, report.answered, report.completed) == (6, 6, 6)
    assert report.failed == {}
    assert report.without_audio == 0
    assert report.peak_calls == 6
    assert 0 < report.setup_ms.p50 <= report.setup_ms.p99 <= report.setup_ms.max < 5000
    assert report.first_rtp_ms.max > 0
    assert report.packets_received >= 6 * 10
    assert report.packets_received == pytest.approx(report.packets_expected, rel=0.3)
    assert report.call_seconds == pytest.approx(3, abs=1.5)
    assert report.cpu_seconds is not None, "the engine is in this process, so its port's holder is found"
    assert report.tool.ticks > 0
    assert seen[-1] == 6


async def test_the_tool_starts_calls_at_the_rate_and_not_all_at_once(engine: Engine) -> None:
    report = await run_load(LoadPlan(target(engine), calls=5, rate=10, hold=0.05))
    assert report.is_good
    # 5 calls in 0.4 s; all at once they would be answered in some hundredths of a second
    assert 5 <= report.setups_per_second <= 30


async def test_refusals_are_counted_by_status(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "app.xml").write_text(BUSY)
    report = await run_load(LoadPlan(target(engine), calls=3, rate=50, hold=1))
    assert not report.is_good
    assert report.answered == 0
    assert report.failed == {"486 Busy Here": 3}
    assert report.setup_ms == Spread()


async def test_without_media_calls_are_set_up_and_nothing_is_received(engine: Engine) -> None:
    report = await run_load(LoadPlan(target(engine), calls=4, rate=50, hold=0.2, media=False, digits="1"))
    assert report.is_good
    assert (report.packets_received, report.without_audio, report.tool.ticks) == (0, 0, 0)


async def test_a_call_that_the_far_end_ends_is_complete(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "app.xml").write_text("<Response><Gather timeout='1'/><Hangup/></Response>")
    report = await run_load(LoadPlan(target(engine), calls=2, rate=50, hold=20))
    assert report.is_good
    assert report.call_seconds < 20


@pytest.mark.parametrize(
    "wrong",
    [
        {"target": "sip:"},
        {"target": "sips:1000@127.0.0.1"},
        {"calls": 0},
        {"rate": 0.0},
        {"hold": -1.0},
        {"workers": 0},
        {"calls": 5000, "rate": 1000, "hold": 100},
    ],
)
async def test_a_plan_that_cannot_be_carried_out_is_refused(wrong: dict[str, object]) -> None:
    plan = LoadPlan("1000@127.0.0.1", calls=1, rate=1, hold=1)
    with pytest.raises(ConfigError):
        await run_load(replace(plan, **wrong))  # type: ignore[arg-type]


def test_more_workers_carry_more_calls() -> None:
    LoadPlan("1000@127.0.0.1", calls=5000, rate=1000, hold=100, workers=2).check()


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_percentiles_are_ordered_and_within_the_values(values: list[float]) -> None:
    spread = Spread.of(values)
    assert min(values) - 1e-3 <= spread.p50 <= spread.p95 <= spread.p99 <= spread.max
    assert spread.max == pytest.approx(max(values), abs=1e-3)


def test_percentiles_of_a_hundred_values() -> None:
    assert Spread.of([float(each) for each in range(101)]) == Spread(50, 95, 99, 100)


def test_opening_our_own_ports_is_not_the_far_ends_delay() -> None:
    report = CallReport("x", 200, answered_after=0.150, first_audio_after=0.180, duration=2.0, ended_by="us")
    outcome = Outcome(report, invited_at=1.0, invited_after=0.100)
    assert outcome.setup == pytest.approx(0.05)
    assert outcome.first_rtp == pytest.approx(0.03)
    assert outcome.heard_seconds == pytest.approx(1.97)
    assert outcome.completed


def test_audio_that_came_before_the_answer_was_handled_is_no_negative_delay() -> None:
    assert Outcome(CallReport("x", 200, answered_after=0.2, first_audio_after=0.1), 0, 0).first_rtp == 0


@pytest.mark.parametrize("by", ["network", "engine", ""])
def test_a_call_that_broke_is_not_complete(by: str) -> None:
    assert not Outcome(CallReport("x", 200, answered_after=0.2, ended_by=by), 0, 0).completed


@pytest.mark.parametrize(
    ("changes", "sound"),
    [
        ({}, True),
        ({"late_ticks": 10}, True),
        ({"late_ticks": 11}, False),
        ({"skipped_ticks": 11}, False),
        ({"worst_start_late_ms": 251.0}, False),
    ],
)
def test_a_tool_that_was_too_slow_says_so(changes: dict[str, float], sound: bool) -> None:
    assert replace(SOUND_TOOL, **changes).is_sound is sound  # type: ignore[arg-type]


async def test_a_leg_without_media_has_a_port_that_swallows_what_is_sent() -> None:
    link = NoMedia("127.0.0.1")
    events: list[media.Event] = []
    link.on_event = events.append
    await link.start()
    link.send(media.Open(1, "127.0.0.1"))
    opened = events[0]
    assert isinstance(opened, media.Opened)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(("127.0.0.1", opened.port))
        for _ in range(50):
            sender.send(bytes(172))  # an ICMP error of an earlier one would be raised here
    link.send(media.Close(1))
    assert events[1] == media.Closed(1, media.Quality())
    await link.stop()


# --- the command ---------------------------------------------------------------------------------------------


def report_of(**changes: object) -> LoadReport:
    spread = Spread(1, 2, 3, 4)
    report = LoadReport(
        3, 3, 3, 0, {}, spread, spread, 10.0, 3, 150, 150, 0.0, 0, spread, 3.0, 1.5, 0.5, SOUND_TOOL
    )
    return replace(report, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, 0),
        ({"completed": 2, "failed": {"503 Service Unavailable": 1}}, 1),
        ({"without_audio": 1}, cli.NO_AUDIO),
        ({"completed": 2, "without_audio": 1}, 1),
    ],
)
def test_the_exit_code_tells_a_script(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], code: int
) -> None:
    plans: list[LoadPlan] = []

    async def run(plan: LoadPlan, show: object) -> LoadReport:
        plans.append(plan)
        assert callable(show)
        show(Tally())
        return report_of(**changes)

    monkeypatch.setattr(cli, "run_load", run)
    arguments = [
        "load",
        "1000@127.0.0.1",
        "-n",
        "3",
        "-r",
        "7",
        "--hold",
        "2",
        "--engine-pid",
        str(os.getpid()),
    ]
    result = CliRunner().invoke(cli.app, [*arguments, "--json"])
    assert result.exit_code == code
    assert json.loads(result.stdout)["attempted"] == 3
    assert plans == [LoadPlan("1000@127.0.0.1", 3, 7.0, 2.0, engine_pid=os.getpid())]
    shown = CliRunner().invoke(cli.app, arguments)
    assert shown.exit_code == code
    for why in report_of(**changes).failed:
        assert why in shown.stdout
