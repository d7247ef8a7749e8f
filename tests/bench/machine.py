"""Cores, priorities and processes of a measurement, so that what is measured has a core of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine import procfs

START_SECONDS = 30.0
STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Cores:
    """`measured` carries what is judged, `other` everything else. On a machine of one core they are the same."""

    measured: int
    other: int

    @classmethod
    def choose(cls) -> Cores:
        usable = sorted(os.sched_getaffinity(0))
        return cls(usable[0], usable[-1])


def hurry(pid: int) -> None:
    """Real-time priority for all threads of a process, where that is permitted: others share this machine."""
    with contextlib.suppress(PermissionError):
        for thread in _threads(pid):
            os.sched_setscheduler(thread, os.SCHED_RR, os.sched_param(1))


@contextlib.contextmanager
def process(command: Sequence[str], core: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program on a core, its output in `folder`/out; stopped at the end."""
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        child = subprocess.Popen(command, stdout=out, stderr=err, preexec_fn=lambda: pin(0, core))
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def pin(pid: int, core: int) -> None:
    """All threads of a process (0: this one) onto one core."""
    for thread in _threads(pid):
        os.sched_setaffinity(thread, {core})


def _threads(pid: int) -> list[int]:
    return [int(thread.name) for thread in Path(f"/proc/{pid or 'self'}/task").iterdir()]


def until(ready: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + START_SECONDS
    while not ready():
        if time.monotonic() > end:
            raise RuntimeError(f"{what} did not start in {START_SECONDS:g} s")
        time.sleep(0.05)


def cpu(pid: int) -> float:
    """CPU seconds of one process so far, without its children."""
    found = procfs.usage_alone(pid)
    return found.cpu_seconds if found is not None else 0.0
