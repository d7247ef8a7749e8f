"""Calls placed by a real sipp, an independent SIP stack, with scenarios of our own (`scenarios/*.xml`).

A `${name}` in a scenario is filled in from keywords; sipp's own `[name]` and `[$1]` stay. The scenario itself
asserts what comes back: sipp leaves with 0 only when every call took exactly the way it describes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from string import Template

import pytest

SCENARIOS = Path(__file__).parent / "scenarios"
PCAPS = Path("/usr/share/sip-tester")  # Debian's package brings recorded telephone events
PEER_PORTS = (5500, 9999)  # halves of 11000 to 19998: below the engine's audio and the kernel's own choice
PATIENCE = 40  # seconds; reached only by a run that hangs

needs_sipp = pytest.mark.skipif(shutil.which("sipp") is None, reason="sipp is not installed")
_runs = itertools.count(1)


@dataclass(frozen=True, slots=True)
class SippRun:
    """How a run ended: sipp's exit code (0: every call succeeded), its messages as logged, and its complaints."""

    code: int
    messages: str
    errors: str

    def check(self) -> None:
        """Fail with what sipp said."""
        assert self.code == 0, f"sipp left with {self.code}\n{self.errors}\n{self.messages[-4000:]}"


async def run_sipp(
    scenario: str,
    remote: tuple[str, int],
    folder: Path,
    *,
    number: str = "1000",
    calls: int = 1,
    rate: int = 10,
    **values: object,
) -> SippRun:
    """Run a scenario against `remote` until all `calls` are over. `folder` takes the filled-in scenario and logs."""
    stem = folder / f"{scenario}-{next(_runs)}"
    text = Template((SCENARIOS / f"{scenario}.xml").read_text()).safe_substitute(values)
    await asyncio.to_thread(stem.with_suffix(".xml").write_text, text)
    process = await asyncio.create_subprocess_exec(
        *("sipp", f"{remote[0]}:{remote[1]}", "-sf", stem.with_suffix(".xml"), "-s", number),
        *("-i", "127.0.0.1", "-p", str(free_port()), "-mi", "127.0.0.1", "-mp", str(free_port()), "-nostdin"),
        *("-m", str(calls), "-r", str(rate), "-timeout", f"{PATIENCE}s", "-timeout_error"),
        *("-trace_msg", "-message_file", stem.with_suffix(".msg")),
        *("-trace_err", "-error_file", stem.with_suffix(".err")),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        cwd=folder,
    )
    try:
        _, complaints = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    read = [stem.with_suffix(suffix) for suffix in (".msg", ".err")]
    messages, errors = [path.read_text(errors="replace") if path.exists() else "" for path in read]
    assert process.returncode is not None
    return SippRun(process.returncode, messages, complaints.decode(errors="replace") + errors)


def free_port() -> int:
    """An even port that nobody uses over UDP and TCP, nor the one after it (RTCP, TLS).

    Not asked of the kernel: what it gives out, it may give to any other socket before the peer has bound it.
    """
    while True:
        port = 2 * random.randrange(*PEER_PORTS)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for number, kind in itertools.product((port, port + 1), (socket.SOCK_DGRAM, socket.SOCK_STREAM)):
                stack.enter_context(socket.socket(socket.AF_INET, kind)).bind(("127.0.0.1", number))
            return port
