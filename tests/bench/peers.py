"""Who is measured: the engine as its users start it, and, where the load tools are, the cheapest possible peer."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import soundfile

from engine.media.worker import g711
from tests.bench.machine import Cores, hurry, pin, process, until

TOOLS = Path(__file__).parents[2] / ".." / "shared" / "tools" / "load"
RTP = "40000-59999"  # above the callers' own range
PROMPT_SECONDS = 60
RATE = 8000


@dataclass(frozen=True, slots=True)
class Prompt:
    """A minute of noise, as an app plays it and as bare mu-law."""

    wav: Path
    ulaw: Path


@dataclass(frozen=True, slots=True)
class Peer:
    """Somebody who answers at `port`: `pid` with its children costs the CPU, `media_pid` is who moves the packets."""

    name: str
    port: int
    pid: int
    media_pid: int
    http: str = ""

    def ticks(self) -> tuple[int, int]:
        """Media ticks so far, and how many of them were late or skipped; 0 where the peer does not tell."""
        if not self.http:
            return 0, 0
        text = httpx.get(f"{self.http}/metrics").text
        total, late, skipped = (_metric(text, name) for name in ("ticks", "late_ticks", "skipped_ticks"))
        return total, late + skipped


def _metric(text: str, name: str) -> int:
    return sum(
        int(float(value)) for value in re.findall(rf"^switchhook_media_{name}_total\S* (\S+)$", text, re.M)
    )


def make_prompt(folder: Path) -> Prompt:
    noise = (
        np.random.default_rng(1).normal(0, 3000, PROMPT_SECONDS * RATE).clip(-32768, 32767).astype(np.int16)
    )
    prompt = Prompt(folder / "prompt.wav", folder / "prompt.ul")
    soundfile.write(prompt.wav, noise, RATE)
    prompt.ulaw.write_bytes(g711.encode(noise, g711.MU_LAW).tobytes())
    return prompt


@contextlib.contextmanager
def engine(folder: Path, app: str, cores: Cores) -> Iterator[Peer]:
    """`switchhook serve` with one media worker alone on the measured core, call control on the other."""
    home = folder / "engine"
    home.mkdir(exist_ok=True)
    options = {
        "--sip": "udp:127.0.0.1:0",
        "--http": "127.0.0.1:0",
        "--rtp": RTP,
        "--app": app,
        "--data": str(home),
    }
    (home / "settings.toml").write_text("[rtp]\nworkers = 1\n")
    command = [sys.executable, "-m", "engine", "serve", "--config", str(home / "settings.toml")]
    for option in options.items():
        command += option
    with process(command, cores.other, home) as child:
        until(lambda: b"ready" in (home / "out").read_bytes(), "the engine")
        line = (home / "out").read_text()
        worker = _worker(child.pid)
        pin(worker, cores.measured)
        hurry(worker)
        port = int(re.search(r"sip=udp:127\.0\.0\.1:(\d+)", line)[1])  # type: ignore[index]
        http = re.search(r"http=(\S+)", line)[1]  # type: ignore[index]
        yield Peer("switchhook", port, child.pid, worker, http)


def _worker(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for child in children:
        if b"engine.media.worker.main" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    raise RuntimeError("the engine has no media worker")


@contextlib.contextmanager
def nullpeer(folder: Path, program: Path, prompt: Prompt, cores: Cores) -> Iterator[Peer]:
    """The C peer that answers, plays and counts, and does nothing else."""
    home = folder / "nullpeer.d"
    home.mkdir(exist_ok=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with process([str(program), str(port), str(prompt.ulaw)], cores.measured, home) as child:
        until(lambda: _is_bound(port), "nullpeer")
        hurry(child.pid)
        yield Peer("nullpeer", port, child.pid, child.pid)


def _is_bound(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def compile_tools(folder: Path) -> dict[str, Path]:
    """The load tools, built into `folder`; empty where they or a compiler are not."""
    compiler = shutil.which("cc")
    if compiler is None or not TOOLS.is_dir():
        return {}
    built = {}
    for name in ("rtpload", "nullpeer"):
        command = [compiler, "-std=c11", "-O2", "-o", str(folder / name), str(TOOLS / f"{name}.c")]
        if subprocess.run(command, check=False, env={**os.environ, "LC_ALL": "C"}).returncode:
            return {}
        built[name] = folder / name
    return built
