"""Each check against a fault that was made here, and against none."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engine import cli, doctor
from engine.app import DATABASE, lock_folder
from engine.clock import SystemClock
from engine.config import Config, HttpConfig, RtpConfig, SipConfig, SpeechConfig
from engine.doctor import Finding, examine
from engine.schema import MIGRATIONS, CallRow
from engine.store import Store
from speech import tts
from speech.tts import EngineReport

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SILENCE = "no audio from the caller: not one RTP packet came to port 20000; its SDP says 192.0.2.9:4000"


class FixedClock(SystemClock):
    def __init__(self, now: datetime = NOW) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(data=str(tmp_path), sip=SipConfig(("udp:127.0.0.1:0",)), http=HttpConfig("127.0.0.1:0"))


@pytest.fixture
def udp_port() -> Iterator[int]:
    """A port that this process holds."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def one(findings: Iterator[Finding]) -> Finding:
    found = list(findings)
    assert len(found) == 1, found
    return found[0]


def call(number: int, **changes: object) -> CallRow:
    values: dict[str, object] = {
        "sid": f"CA{number:032x}",
        "account_sid": "AC1",
        "from_": "sip:alice@192.0.2.9",
        "to": "sip:1000@192.0.2.1",
        "direction": "inbound",
        "status": "completed",
        "created_at": NOW,
        "answered_at": NOW,
        "quality": {"packets_received": 100},
    }
    return CallRow(**(values | changes))  # type: ignore[arg-type]


async def stored(config: Config, *rows: CallRow) -> None:
    store = await Store.open(config.folder / DATABASE, FixedClock())
    for row in rows:
        await store.insert_call(row)
        if row.quality.get("packets_received") == 0:
            store.note(row.sid, 1.0, "media", {"text": "received 0 packets"})
            store.note(row.sid, 1.0, "media", {"text": SILENCE})
    await store.close()


async def findings_of(config: Config, now: datetime = NOW) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    async for finding in doctor.check_calls(config, FixedClock(now)):
        found.setdefault(finding.check, []).append(finding)
    return found


# --- a healthy machine ---------------------------------------------------------------------------------------


async def test_a_fresh_machine_has_no_problem(config: Config) -> None:
    findings = [finding async for finding in examine(config)]
    assert [finding for finding in findings if finding.level == "problem"] == []
    checks = {finding.check for finding in findings}
    assert {"python", "packages", "open files", "SIP port", "HTTP port", "RTP ports", "database"} <= checks
    assert {"data folder", "speech: espeak", "speech: pyttsx3", "sipp", "clock"} <= checks
    assert list(config.folder.iterdir()) == [], "looking must leave nothing behind"


async def test_each_speech_engine_spoke_and_counts_its_languages(config: Config) -> None:
    findings = [finding async for finding in doctor.check_speech(config)]
    assert [finding.level for finding in findings] == ["ok", "ok"]
    assert all(finding.text.startswith("speaks") and "languages" in finding.text for finding in findings)


def test_the_packages_are_those_of_our_metadata(config: Config) -> None:
    finding = one(doctor.check_packages(config))
    for name in ("switchhook", "numpy", "starlette", "lxml"):
        assert f"{name} " in finding.text
    assert "pytest" not in finding.text, "only what the engine needs to run"


def test_a_missing_package_is_a_problem(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.requires", lambda name: ["no-such-thing>=1", "numpy>=2"])
    problem = next(doctor.check_packages(config))
    assert problem.level == "problem"
    assert "no-such-thing" in problem.text
    assert "make install" in problem.advice


# --- limits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hard", "level"), [(1024, "warning"), (2063, "warning"), (2064, "ok"), (20000, "ok")]
)
def test_open_files_are_judged_by_the_legs_they_carry(
    config: Config, monkeypatch: pytest.MonkeyPatch, hard: int, level: str
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, hard))
    finding = one(doctor.check_files(config))
    assert finding.level == level
    assert f"{(hard - 64) // 2} legs" in finding.text
    assert bool(finding.advice) == (level != "ok")


@pytest.mark.parametrize(("size", "level"), [(212992, "warning"), (4 << 20, "ok"), (None, "ok")])
def test_a_small_receive_buffer_is_told(
    config: Config, monkeypatch: pytest.MonkeyPatch, size: int | None, level: str
) -> None:
    monkeypatch.setattr(doctor, "_read_number", lambda path: size)
    assert one(doctor.check_buffers(config)).level == level


@pytest.mark.parametrize(("late", "level"), [(0.0001, "ok"), (0.003, "warning")])
def test_a_machine_that_oversleeps_is_told(
    config: Config, monkeypatch: pytest.MonkeyPatch, late: float, level: str
) -> None:
    monkeypatch.setattr(doctor, "_overslept", lambda: late)
    assert one(doctor.check_timer(config)).level == level


# --- ports ---------------------------------------------------------------------------------------------------


def test_a_port_that_somebody_holds_is_a_problem_that_names_them(config: Config, udp_port: int) -> None:
    taken = Config(data=config.data, sip=SipConfig((f"udp:127.0.0.1:{udp_port}",)))
    finding = one(doctor.check_sip(taken))
    assert finding.level == "problem"
    assert f"process {os.getpid()}" in finding.text
    assert "--sip" in finding.advice


def test_a_port_of_the_running_engine_is_no_problem(config: Config, udp_port: int) -> None:
    taken = Config(data=config.data, sip=SipConfig((f"udp:127.0.0.1:{udp_port}",)))
    with closing(lock_folder(config.folder)):
        finding = one(doctor.check_sip(taken))
        assert finding.level == "ok"
        assert f"running engine, process {os.getpid()}" in finding.text
        assert f"process {os.getpid()}" in one(doctor.check_engine(taken)).text
    assert "no engine" in one(doctor.check_engine(taken)).text


def test_a_listening_http_port_is_a_problem(config: Config) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        finding = one(doctor.check_http(Config(data=config.data, http=HttpConfig(f"127.0.0.1:{port}"))))
    assert finding.level == "problem"
    assert f"process {os.getpid()}" in finding.text


def test_a_free_port_is_fine(config: Config) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    finding = one(doctor.check_sip(Config(data=config.data, sip=SipConfig((f"udp:127.0.0.1:{port}",)))))
    assert (finding.level, finding.advice) == ("ok", "")


def test_an_address_that_is_not_ours_is_a_problem(config: Config) -> None:
    finding = one(doctor.check_sip(Config(data=config.data, sip=SipConfig(("udp:192.0.2.1:5060",)))))
    assert finding.level == "problem"
    assert os.strerror(errno.EADDRNOTAVAIL) in finding.text


def test_a_setting_that_is_no_address_is_a_problem_and_no_traceback(config: Config) -> None:
    wrong = Config(data=config.data, sip=SipConfig(("tcp:here",)), rtp=RtpConfig("9-1"))
    assert one(doctor.check_sip(wrong)).level == "problem"
    assert one(doctor.check_rtp(wrong)).level == "problem"


@pytest.mark.parametrize(("taken", "level"), [(0, "ok"), (4, "ok"), (6, "warning"), (8, "problem")])
def test_the_rtp_range_is_tried_in_pairs(config: Config, taken: int, level: str) -> None:
    with ExitStack() as stack:
        first = _free_range(16)
        for pair in range(taken):  # of eight; the odd port of a pair is enough to lose it
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.bind(("127.0.0.1", first + 2 * pair + 1))
        finding = one(doctor.check_rtp(Config(data=config.data, rtp=RtpConfig(f"{first}-{first + 15}"))))
    assert finding.level == level
    assert f"{8 - taken} of 8 pairs" in finding.text


def _free_range(size: int) -> int:
    """An even port after which all are free just now; the range is above what the kernel hands out."""
    for first in range(61000, 65000, size):
        if all(doctor._try_bind("udp", "127.0.0.1", first + each) is None for each in range(size)):
            return first
    raise AssertionError("no free range on this machine")


# --- the data folder -----------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_made_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    finding = one(doctor.check_folder(Config(data=str(tmp_path / "file" / "data"))))
    assert finding.level == "problem"
    assert str(tmp_path / "file") in finding.advice


@pytest.mark.parametrize(("free", "level"), [(1 << 20, "problem"), (500 << 20, "warning"), (2 << 30, "ok")])
def test_free_disk(config: Config, monkeypatch: pytest.MonkeyPatch, free: int, level: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1 << 40, 0, free))
    assert one(doctor.check_folder(config)).level == level


def test_a_database_that_is_none(config: Config) -> None:
    (config.folder / DATABASE).write_bytes(b"not a database" * 1000)
    finding = one(doctor.check_database(config))
    assert finding.level == "problem"
    assert finding.advice


async def test_a_damaged_database(config: Config) -> None:
    await stored(config, *(call(number) for number in range(200)))
    path = config.folder / DATABASE
    octets = bytearray(path.read_bytes())
    octets[8192:12288] = b"\xff" * 4096
    path.write_bytes(octets)
    assert one(doctor.check_database(config)).level == "problem"


async def test_a_database_of_a_newer_version(config: Config) -> None:
    await stored(config)
    with closing(sqlite3.connect(config.folder / DATABASE)) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    finding = one(doctor.check_database(config))
    assert finding.level == "problem"
    assert "another --data folder" in finding.advice
    assert (await findings_of(config))["calls"][0].level == "problem"


async def test_a_good_database(config: Config) -> None:
    await stored(config, call(1))
    finding = one(doctor.check_database(config))
    assert finding.level == "ok"
    assert f"schema {len(MIGRATIONS)}" in finding.text


# --- calls ---------------------------------------------------------------------------------------------------


async def test_a_silent_call_is_explained_in_its_own_words(config: Config) -> None:
    await stored(config, call(1), call(2, quality={"packets_received": 0}))
    found = await findings_of(config)
    silent = found["silent call"]
    assert len(silent) == 1
    assert silent[0].level == "warning"
    assert SILENCE in silent[0].text
    assert "sip:alice@192.0.2.9 → sip:1000@192.0.2.1" in silent[0].text
    assert silent[0].advice == f"switchhook calls {call(2).sid}"
    assert found["calls"][0].text.startswith("2 recent calls, 1 ")


async def test_calls_that_cannot_have_audio_are_not_blamed(config: Config) -> None:
    refused = call(1, status="busy", answered_at=None, quality={"packets_received": 0})
    live = call(2, status="in-progress", quality={})
    await stored(config, refused, live)
    found = await findings_of(config)
    assert "silent call" not in found
    assert found["calls"][0].level == "ok"


async def test_only_a_few_silent_calls_are_told_but_all_are_counted(config: Config) -> None:
    await stored(config, *(call(number, quality={"packets_received": 0}) for number in range(9)))
    found = await findings_of(config)
    assert len(found["silent call"]) == doctor.SILENT_SHOWN
    assert "9 answered without audio" in found["calls"][0].text


async def test_a_clock_that_went_back(config: Config) -> None:
    await stored(config, call(1))
    assert (await findings_of(config, NOW - timedelta(hours=1)))["clock"][0].level == "warning"
    assert (await findings_of(config, NOW + timedelta(hours=1)))["clock"][0].level == "ok"
    assert (await findings_of(config, datetime(1970, 1, 1, tzinfo=UTC)))["clock"][0].level == "problem"


# --- speech --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "engines", "levels"),
    [
        (("espeak",), ("espeak", "pyttsx3"), {"espeak": "warning", "pyttsx3": "ok"}),
        (("espeak",), ("espeak",), {"espeak": "problem", "pyttsx3": "ok"}),
        (("pyttsx3",), ("espeak",), {"espeak": "ok", "pyttsx3": "ok"}),
        (("espeak", "pyttsx3"), ("espeak", "pyttsx3"), {"espeak": "problem", "pyttsx3": "problem"}),
    ],
)
async def test_a_dumb_engine_is_a_problem_when_no_other_speaks(
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
    broken: tuple[str, ...],
    engines: tuple[str, ...],
    levels: dict[str, str],
) -> None:
    async def probe() -> list[EngineReport]:
        return [EngineReport(name, name not in broken, "detail", ("pl",)) for name in ("espeak", "pyttsx3")]

    monkeypatch.setattr(tts, "probe", probe)
    chosen = Config(data=config.data, speech=SpeechConfig(engines=engines))  # type: ignore[arg-type]
    findings = [finding async for finding in doctor.check_speech(chosen)]
    assert {finding.check.removeprefix("speech: "): finding.level for finding in findings} == levels


# --- the command ---------------------------------------------------------------------------------------------


def test_the_command_exits_by_what_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def probe() -> list[EngineReport]:
        return [EngineReport("espeak", True, "version 1", ("pl", "en"))]

    monkeypatch.setattr(tts, "probe", probe)
    settings = tmp_path / "switchhook.toml"
    text = '[sip]\nlisten = ["udp:{}"]\n[http]\nlisten = "127.0.0.1:0"\n'
    for address, code in (("127.0.0.1:0", 0), ("192.0.2.1:5060", 1)):
        settings.write_text(text.format(address))
        arguments = ["doctor", "--config", str(settings), "--data", str(tmp_path / "data")]
        result = CliRunner().invoke(cli.app, [*arguments, "--json"])
        assert result.exit_code == code, result.output
        levels = {finding["check"]: finding["level"] for finding in json.loads(result.stdout)}
        assert levels["SIP port"] == ("problem" if code else "ok")
        shown = CliRunner().invoke(cli.app, arguments)
        assert shown.exit_code == code
        assert "SIP port" in shown.stdout
