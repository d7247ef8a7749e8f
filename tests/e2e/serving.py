"""`switchhook serve` as operators run it: a process of its own, told by signals, found by its ready line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READY = re.compile(
    r"ready sip=udp:(?P<host>[\d.]+):(?P<port>\d+) http=(?P<http>http://\S+) account=(?P<account>AC[0-9a-f]{32})"
)
START_SECONDS = 20.0
STOP_SECONDS = 20.0


@dataclass
class Serving:
    """A running `switchhook serve`."""

    process: asyncio.subprocess.Process
    host: str
    port: int
    http: str
    account: str

    def target(self, number: str = "1000") -> str:
        return f"sip:{number}@{self.host}:{self.port}"

    def send(self, number: signal.Signals) -> None:
        """A signal to the engine; Ctrl-C goes to its workers as well, as a terminal sends it."""
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    def processes(self) -> list[int]:
        """The engine's processes that still run."""
        stats = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat") if path.exists()]
        fields = [(stat.split()[0], stat.rpartition(")")[2].split()) for stat in stats]
        return [
            int(pid)
            for pid, (state, _, group, *_) in fields
            if group == str(self.process.pid) and state != "Z"
        ]

    async def said(self, words: str) -> None:
        """Returns when standard error has had a line with these words."""
        assert self.process.stderr is not None
        async with asyncio.timeout(STOP_SECONDS):
            while words not in (line := (await self.process.stderr.readline()).decode()):
                assert line, f"the engine left without saying {words!r}"

    async def left(self) -> int:
        """The exit code."""
        async with asyncio.timeout(STOP_SECONDS):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def serving(folder: Path, *options: str) -> AsyncIterator[Serving]:
    """`switchhook serve` on ports of its own choice, with `folder` for its data; killed when the test ends."""
    ports = ("--sip", "udp:127.0.0.1:0", "--http", "127.0.0.1:0")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "engine", "serve", "--data", str(folder), *ports, *options),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "SWITCHHOOK_AUTH_TOKEN": "", "SWITCHHOOK_ACCOUNT_SID": ""},
        start_new_session=True,  # a process group of its own, for Ctrl-C and to see what outlives it
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_SECONDS):
            line = (await process.stdout.readline()).decode()
        found = READY.fullmatch(line.strip())
        assert found is not None, f"not a ready line: {line!r}"
        yield Serving(process, found["host"], int(found["port"]), found["http"], found["account"])
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


async def command(*arguments: str) -> Any:
    """The JSON that `switchhook …` prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "engine", *arguments, "--json"), stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(START_SECONDS):
        out, _ = await process.communicate()
    assert process.returncode == 0, out
    return json.loads(out)
