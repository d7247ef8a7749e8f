"""`make run` as a user sees it: a process, its output and its exit code."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from samples.voice_menu.demo import INTERRUPTED, KEYS, expected_words

ROOT = Path(__file__).parents[2]
SECONDS = 60.0  # for the whole demonstration, on a busy machine
FIRST_LINE_SECONDS = 1.0


Start: TypeAlias = Callable[..., Awaitable[Process]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """`await start(folder, "--once", …)` runs it; what still runs when the test ends is killed."""
    started: list[Process] = []

    async def run(folder: Path, *arguments: str) -> Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "samples.voice_menu.run", "--data", str(folder), *arguments),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # a group of its own, so that Ctrl-C can be sent as a terminal does it
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def finish(process: Process) -> tuple[int, str]:
    async with asyncio.timeout(SECONDS):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def read_to(process: Process, words: str) -> str:
    assert process.stdout is not None
    output = ""
    async with asyncio.timeout(SECONDS):
        while words not in output:
            line = (await process.stdout.readline()).decode()
            assert line, f"{words!r} never came:\n{output}"
            output += line
    return output


async def test_the_demonstration(start: Start, tmp_path: Path) -> None:
    """Once, with exit code 0. Beside it one that fails, and one that goes on serving until Ctrl-C, on another port."""
    began = time.monotonic()
    once = await start(tmp_path / "once", "--once")
    output = await read_to(once, "Switchhook")
    assert time.monotonic() - began < FIRST_LINE_SECONDS
    output += await read_to(once, "✓ engine")
    serving = await start(tmp_path / "serving")
    (status, rest), shown, _ = await asyncio.gather(
        finish(once), read_to(serving, "Ctrl-C ends"), check_broken(start, tmp_path / "broken")
    )
    assert status == 0, output + rest
    check_shown(output + rest)
    assert (tmp_path / "once" / "demonstration.wav").stat().st_size > 16_000 * 5
    assert "port 5060 is taken" in shown
    assert "each of its prompts was heard" in shown
    os.killpg(serving.pid, signal.SIGINT)
    assert await finish(serving) == (0, "\n\nstopped\n")


def check_shown(output: str) -> None:
    """The call's timeline stands there in order, and every word of it twice: when it was said and when it was heard."""
    in_order = ["→ INVITE", "← INVITE", "180 Ringing", "/voice → 200", "<Gather>", "200 OK", "digit    1"]
    in_order += [
        "/welcome → 200",
        "digit    2",
        "/sales → 200",
        "→ BYE",
        "what the phone heard",
        "each of its prompts",
    ]
    places = [output.find(words) for words in in_order]
    assert -1 not in places, output
    assert places == sorted(places), output
    flat = " ".join(output.split())
    assert [flat.count(f"“{words}”") for words in expected_words(KEYS)] == [2] * 5, output


async def check_broken(start: Start, folder: Path) -> None:
    """An app that cannot be reached: exit code 1, and the reason in words."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/voice"
    status, output = await finish(await start(folder, "--once", "--voice-url", url))
    assert status == 1
    assert "the call ended as completed by the engine: application error 11" in output
    assert re.search(
        r"the phone did not hear [45] of 5 prompts", output
    )  # the apology says “Goodbye” as well
    assert "Traceback" not in output


async def test_an_impossible_data_folder_is_one_sentence(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    status, output = await finish(await start(tmp_path / "file", "--once"))
    assert status == 1
    assert "data folder" in output
    assert "Traceback" not in output


async def test_ctrl_c_at_any_moment_leaves_quietly(start: Start, tmp_path: Path) -> None:
    moments = ("Switchhook", "✓ menu", "✓ engine", "The phone calls", "180 Ringing", "“For sales")
    await asyncio.gather(
        *(interrupt_at(start, moment, tmp_path / str(n)) for n, moment in enumerate(moments))
    )


async def interrupt_at(start: Start, moment: str, folder: Path) -> None:
    process = await start(folder)
    await read_to(process, moment)
    os.killpg(process.pid, signal.SIGINT)
    status, output = await finish(process)
    assert status == INTERRUPTED, (moment, output)
    assert not re.search("Traceback|Exception|never retrieved|Error|died", output), (moment, output)
    assert output.endswith("\nstopped\n")
