"""The commands that need no call: what they print, for people and for programs, and how they leave."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engine.app import DATABASE
from engine.cli import BUSY, NO_ANSWER, NO_AUDIO, REFUSED, exit_code
from engine.clock import SystemClock
from engine.media.protocol import Quality
from engine.softphone import CallReport
from engine.store import CallRow, Store


def switchhook(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:

    return subprocess.run(
        [sys.executable, "-m", "engine", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "COLUMNS": "160", **environment},
    )


def test_the_account_is_made_once_and_the_environment_goes_before_it(tmp_path: Path) -> None:
    first = json.loads(switchhook("account", "--data", str(tmp_path), "--json").stdout)
    assert first["sid"].startswith("AC")
    assert len(first["sid"]) == 34
    assert len(first["auth_token"]) == 32
    assert first["auth_token"] in switchhook("account", "--data", str(tmp_path)).stdout
    overridden = switchhook(
        "account",
        "--data",
        str(tmp_path),
        "--json",
        SWITCHHOOK_ACCOUNT_SID="ACmine",
        SWITCHHOOK_AUTH_TOKEN="secret",
    )
    assert json.loads(overridden.stdout) == {"sid": "ACmine", "auth_token": "secret"}
    assert (tmp_path / DATABASE).stat().st_mode & 0o777 == 0o600


def test_numbers_are_added_listed_and_removed(tmp_path: Path) -> None:
    data = ("--data", str(tmp_path))
    assert switchhook("numbers", "add", "10", "http://app/voice", "--kind", "prefix", *data).returncode == 0
    (row,) = json.loads(switchhook("numbers", "list", "--json", *data).stdout)
    assert (row["pattern"], row["kind"], row["voice_url"]) == ("10", "prefix", "http://app/voice")
    assert "http://app/voice" in switchhook("numbers", "list", *data).stdout
    assert switchhook("numbers", "remove", "10", *data).returncode == 0
    assert json.loads(switchhook("numbers", "list", "--json", *data).stdout) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("numbers", "add", "1", "http://a", "--kind", "fuzzy"), "kind"),
        (("numbers", "remove", "404"), "there is no number '404'"),
        (("calls", "CAnobody"), "there is no call CAnobody"),
        (("call", "sip:a b@c"), "is not a SIP address"),
        (("call", "1000@127.0.0.1", "--dtmf", "1x"), "'x'"),
        (("serve", "--sip", "tcp:1.2.3.4:5"), "udp:HOST:PORT"),
        (("serve", "--rtp", "1-2"), "RTP ports"),
        (
            ("serve", "--app", "nosuchmodule:answer", "--sip", "127.0.0.1:0", "--http", "127.0.0.1:0"),
            "nosuchmodule",
        ),
        (("serve", "--config", "/nonexistent.toml"), "cannot read /nonexistent.toml"),
        (("serve", "--http", "foo"), "HOST:PORT for HTTP"),
        (("call", "1000@127.0.0.1", "--record", "/nonexistent/x.wav"), "cannot record to /nonexistent/x.wav"),
        (("call", "1000@127.0.0.1", "--play", __file__), "cannot be decoded"),
    ],
)
def test_a_mistake_is_one_sentence_and_no_traceback(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    takes_data = arguments[0] != "call"
    done = switchhook(*arguments, *(("--data", str(tmp_path)) if takes_data else ()))
    assert done.returncode == 1, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_usage_is_exit_2_and_help_says_the_exit_codes() -> None:
    assert switchhook("serve", "--nonsense").returncode == 2
    top = switchhook("--help")
    assert top.returncode == 0
    assert "Exit codes" in top.stdout
    assert switchhook("--version").stdout.startswith("switchhook ")


def test_calls_are_listed_and_one_is_told_in_full(tmp_path: Path) -> None:
    async def fill() -> None:
        store = await Store.open(tmp_path / DATABASE, SystemClock())
        began = datetime(2026, 1, 5, 9, tzinfo=UTC)
        row = CallRow(
            "CA" + "7" * 32, "AC1", "sip:a@b", "sip:1000@c", "inbound", "completed", began, duration=61
        )
        await store.insert_call(row)
        store.note(row.sid, 0.5, "verb", {"name": "Say", "line": 3})
        store.note(row.sid, 1.5, "verb-end", {"name": "Say", "line": 3, "total_ms": 1000.0})
        store.note(row.sid, 2.0, "of tomorrow", {"what": "ever"})
        await store.close()

    asyncio.run(fill())
    data = ("--data", str(tmp_path))
    listed = switchhook("calls", *data).stdout
    assert "CA" + "7" * 32 in listed
    assert "61" in listed
    told = switchhook("calls", "CA" + "7" * 32, *data).stdout
    assert "<Say> line 3" in told
    assert "1000 ms" in told
    assert "ever" in told, "a note of a newer version is shown as it is"
    whole = json.loads(switchhook("calls", "CA" + "7" * 32, "--json", *data).stdout)
    assert [note["kind"] for note in whole["timeline"]] == ["verb", "verb-end", "of tomorrow"]


@pytest.mark.parametrize(
    ("status", "packets", "code"),
    [(200, 5, 0), (200, 0, NO_AUDIO), (486, 0, BUSY), (600, 0, BUSY), (480, 0, NO_ANSWER), (404, 0, REFUSED)],
)
def test_the_exit_code_says_how_a_call_went(status: int, packets: int, code: int) -> None:
    report = CallReport("sip:x@y", status=status, quality=Quality(packets_received=packets))
    report.answered_after = 0.1 if status == 200 else None
    assert exit_code(report) == code
