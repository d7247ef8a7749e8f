"""What is wrong on this machine, in words and with the next step: the checks behind `switchhook doctor`.

Each check looks at one thing and yields findings. None raises for what it finds, and none disturbs a running engine.
"""

from __future__ import annotations

import asyncio
import errno
import importlib.metadata
import os
import platform
import re
import resource
import shutil
import socket
import sqlite3
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal, TypeAlias

from engine import procfs
from engine.app import DATABASE, LOCK
from engine.clock import Clock, SystemClock
from engine.config import Config, parse_listen
from engine.errors import SwitchhookError
from engine.net.endpoint import RECEIVE_BUFFER
from engine.schema import MIGRATIONS, CallRow, StoreError
from engine.store import Store
from speech import tts

PACKAGE = "switchhook"
LEGS = 1000  # what a core carries; below it a limit is worth a warning
SOCKETS_PER_LEG = 2  # RTP and RTCP
SPARE_FILES = 64
PAIRS_SAMPLED = 50
LITTLE_DISK = 1 << 30  # octets: a day of recordings on a small system
NO_DISK = 100 << 20  # the database may still grow by a day of calls
RECENT_CALLS = 100
SILENT_SHOWN = 5
FUTURE = timedelta(minutes=1)
TICK_SECONDS = 0.002
TICKS_TRIED = 25
PEERS = ("sipp", "baresip")

Level: TypeAlias = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check saw; `advice` is what to do next, "" when nothing is to be done."""

    check: str
    level: Level
    text: str
    advice: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


Check: TypeAlias = Callable[[Config], Iterator[Finding]]


async def examine(config: Config, clock: Clock | None = None) -> AsyncIterator[Finding]:
    """Every finding, in the order of `CHECKS`, then speech and the recent calls."""
    for check in CHECKS:
        for finding in await asyncio.to_thread(_findings, check, config):
            yield finding
    async for finding in check_speech(config):
        yield finding
    async for finding in check_calls(config, clock or SystemClock()):
        yield finding


def _findings(check: Check, config: Config) -> list[Finding]:
    return list(check(config))


# --- the machine ---------------------------------------------------------------------------------------------


def check_python(config: Config) -> Iterator[Finding]:
    yield Finding(
        "python", "ok", f"Python {platform.python_version()} on {platform.system()} {platform.release()}"
    )


def check_packages(config: Config) -> Iterator[Finding]:
    """The distributions we need, by the names in our own metadata."""
    try:
        required = importlib.metadata.requires(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("packages", "warning", f"{PACKAGE} runs from a folder", "install it: pip install -e .")
        return
    names = [re.split(r"[^A-Za-z0-9._-]", each)[0] for each in required if "extra ==" not in each]
    versions = {name: _version(name) for name in names}
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        yield Finding("packages", "problem", f"not installed: {', '.join(missing)}", "run make install again")
    found = ", ".join(f"{name} {version}" for name, version in versions.items() if version is not None)
    yield Finding("packages", "ok", f"{PACKAGE} {_version(PACKAGE)}; {found}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_files(config: Config) -> Iterator[Finding]:
    """Open files: a media worker raises its own limit to the hard one, so that one counts."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    legs = max(hard - SPARE_FILES, 0) // SOCKETS_PER_LEG
    text = f"{hard} open files a process: {legs} legs for each of {config.worker_count} media workers"
    if legs < LEGS:
        yield Finding(
            "open files", "warning", text, "ulimit -Hn 20000, or LimitNOFILE=20000 in the service file"
        )
    else:
        yield Finding("open files", "ok", text)


def check_buffers(config: Config) -> Iterator[Finding]:
    """How large a burst of SIP messages may wait in the kernel while call control is busy."""
    largest = _read_number(Path("/proc/sys/net/core/rmem_max"))
    if largest is not None and largest < RECEIVE_BUFFER:
        yield Finding(
            "SIP buffer",
            "warning",
            f"the kernel allows {largest} octets of waiting messages, we ask for {RECEIVE_BUFFER}",
            f"for bursts of calls: sysctl -w net.core.rmem_max={RECEIVE_BUFFER}",
        )
    else:
        yield Finding("SIP buffer", "ok", f"{RECEIVE_BUFFER >> 20} MiB of messages may wait")


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def check_timer(config: Config) -> Iterator[Finding]:
    """How late a sleep of one media tick ends: a busy or badly virtualized machine shows here first."""
    late = statistics.median(_overslept() for _ in range(TICKS_TRIED))
    text = f"a sleep of {1000 * TICK_SECONDS:g} ms ends {1000 * late:.2f} ms late"
    if late > TICK_SECONDS:
        advice = "audio will stutter: stop other work on this machine, or give it cores of its own"
        yield Finding("timer", "warning", text, advice)
    else:
        yield Finding("timer", "ok", text)


def _overslept() -> float:
    began = time.perf_counter()
    time.sleep(TICK_SECONDS)
    return time.perf_counter() - began - TICK_SECONDS


def check_peers(config: Config) -> Iterator[Finding]:
    """SIP clients that the test suite calls; the engine needs none of them."""
    for peer in PEERS:
        where = shutil.which(peer)
        yield Finding(peer, "ok", where or "not installed; only tests of real calls use it")


# --- ports ---------------------------------------------------------------------------------------------------


def check_sip(config: Config) -> Iterator[Finding]:
    for listen in config.sip.listen:
        yield _check_port(config, "udp", "SIP port", listen, "--sip udp:HOST:PORT")


def check_http(config: Config) -> Iterator[Finding]:
    yield _check_port(config, "tcp", "HTTP port", config.http.listen, "--http HOST:PORT")


def _check_port(config: Config, protocol: procfs.Protocol, check: str, listen: str, option: str) -> Finding:
    try:
        host, port = parse_listen(listen)
    except SwitchhookError as error:
        return Finding(check, "problem", str(error), f"correct the configuration, or use {option}")
    where = f"{protocol} {host}:{port}"
    if port == 0:
        return Finding(check, "ok", f"{where}: any free port is taken at the start")
    refusal = _try_bind(protocol, host, port)
    if refusal is None:
        return Finding(check, "ok", f"{where} is free")
    if refusal != errno.EADDRINUSE:
        return Finding(check, "problem", f"{where}: {os.strerror(refusal)}", f"choose another: {option}")
    holder = procfs.holder(protocol, host, port)
    if holder is not None and holder.pid is not None and holder.pid == engine_pid(config):
        return Finding(check, "ok", f"{where} is held by the running engine, process {holder.pid}")
    return Finding(
        check, "problem", f"{where} is held by {holder or 'another program'}", f"stop it, or {option}"
    )


def _try_bind(protocol: procfs.Protocol, host: str, port: int) -> int | None:
    """The error number of binding this address, None when it is free."""
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind) as sock:
        if protocol == "tcp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError as error:
            return error.errno or errno.EINVAL
    return None


def check_rtp(config: Config) -> Iterator[Finding]:
    """Pairs of ports, taken evenly from the range."""
    try:
        first, last = config.rtp_range
        host = parse_listen(config.sip.listen[0])[0]
    except SwitchhookError as error:
        yield Finding("RTP ports", "problem", str(error), "give --rtp FIRST-LAST")
        return
    pairs = range(first + first % 2, last, 2)
    sample = pairs[:: max(len(pairs) // PAIRS_SAMPLED, 1)]
    free = sum(all(_try_bind("udp", host, port + odd) is None for odd in (0, 1)) for port in sample)
    text = f"{first}-{last}: {len(pairs)} legs; {free} of {len(sample)} pairs tried are free"
    if free == 0:
        yield Finding("RTP ports", "problem", text, "choose another range: --rtp FIRST-LAST")
    elif 2 * free < len(sample):
        yield Finding("RTP ports", "warning", text, "choose a range that nobody else uses: --rtp FIRST-LAST")
    else:
        yield Finding("RTP ports", "ok", text)


# --- the data folder -----------------------------------------------------------------------------------------


def check_folder(config: Config) -> Iterator[Finding]:
    folder = config.folder
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        advice = f"give this user write permission on {nearest}, or choose another folder with --data"
        yield Finding("data folder", "problem", f"{folder} cannot be written", advice)
        return
    free = shutil.disk_usage(nearest).free
    text = f"{folder}, {free / (1 << 30):.1f} GiB free"
    if free < NO_DISK:
        yield Finding(
            "data folder", "problem", text, "free some space: calls will fail when the disk is full"
        )
    elif free < LITTLE_DISK:
        yield Finding("data folder", "warning", text, "free some space before recordings fill it")
    else:
        yield Finding("data folder", "ok", text)


def check_engine(config: Config) -> Iterator[Finding]:
    pid = engine_pid(config)
    running = "no engine is running on this folder" if pid is None else f"running, process {pid}"
    yield Finding("engine", "ok", running)


def engine_pid(config: Config) -> int | None:
    """The engine that runs on the data folder: who holds the lock file open."""
    return procfs.opener(config.folder / LOCK)


def check_database(config: Config) -> Iterator[Finding]:
    path = config.folder / DATABASE
    if not path.exists():
        yield Finding("database", "ok", f"{path} will be made at the first start")
        return
    try:
        version, fault = _look_into(path)
    except sqlite3.Error as error:
        yield Finding("database", "problem", f"{path}: {error}", "restore it from a backup, or move it away")
        return
    if fault != "ok":
        yield Finding("database", "problem", f"{path} is damaged: {fault}", "restore it from a backup")
    elif version > len(MIGRATIONS):
        text = f"{path} has schema {version}, this version knows {len(MIGRATIONS)}"
        yield Finding(
            "database", "problem", text, "run the version that wrote it, or use another --data folder"
        )
    else:
        yield Finding("database", "ok", f"{path}, schema {version}, {path.stat().st_size >> 10} KiB")


def _look_into(path: Path) -> tuple[int, str]:
    """Schema version and the first line of SQLite's own check, without writing anything."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        return int(version), str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    finally:
        connection.close()


# --- speech --------------------------------------------------------------------------------------------------


async def check_speech(config: Config) -> AsyncIterator[Finding]:
    """Each engine renders a word. One that no call uses is no problem."""
    reports = await tts.probe()
    spoke = {report.name for report in reports if report.ok}
    silent = not spoke & set(config.speech.engines)
    for report in reports:
        name = f"speech: {report.name}"
        if report.ok:
            yield Finding(name, "ok", f"speaks; {report.detail}; {len(report.languages)} languages")
        elif report.name not in config.speech.engines:
            yield Finding(name, "ok", f"not used, and does not speak: {report.detail}")
        else:
            level: Level = "problem" if silent else "warning"
            yield Finding(
                name, level, report.detail, "run make install again; other speech engines take over"
            )


# --- recent calls --------------------------------------------------------------------------------------------


async def check_calls(config: Config, clock: Clock) -> AsyncIterator[Finding]:
    """Calls in which nothing was heard, and why; and a clock that disagrees with them."""
    path = config.folder / DATABASE
    if not path.exists():
        yield check_clock([], clock)
        return
    try:
        store = await Store.open(path, clock)
    except StoreError as error:
        yield Finding("calls", "problem", str(error), "see the database above")
        return
    try:
        rows = await store.calls(RECENT_CALLS)
        yield check_clock(rows, clock)
        silent = [row for row in rows if _is_silent(row)]
        for row in silent[:SILENT_SHOWN]:
            yield Finding("silent call", "warning", await _explain(store, row), f"switchhook calls {row.sid}")
    finally:
        await store.close()
    text = f"{len(rows)} recent calls, {len(silent)} answered without audio from the far end"
    yield Finding("calls", "warning" if silent else "ok", text)


def check_clock(rows: list[CallRow], clock: Clock) -> Finding:
    """Webhook signatures of TLS and the order of calls need a clock that is not far off."""
    now = clock.now()
    if now.year < _BUILT:
        return Finding(
            "clock", "problem", f"it says {now:%Y-%m-%d %H:%M} UTC", "set it: timedatectl set-ntp true"
        )
    if rows and rows[0].created_at > now + FUTURE:
        text = (
            f"it says {now:%Y-%m-%d %H:%M} UTC, but the last call began {rows[0].created_at:%Y-%m-%d %H:%M}"
        )
        return Finding("clock", "warning", text, "it went back: timedatectl set-ntp true")
    return Finding("clock", "ok", f"{now:%Y-%m-%d %H:%M:%S} UTC")


_BUILT = 2025  # no machine that runs this has an earlier year


def _is_silent(row: CallRow) -> bool:
    return row.answered_at is not None and row.is_final and row.quality.get("packets_received") == 0


async def _explain(store: Store, row: CallRow) -> str:
    """The call, and its timeline's own word on why nothing was heard."""
    reasons = [
        str(note.data["text"])
        for note in await store.timeline(row.sid)
        if note.kind == "media" and str(note.data.get("text", "")).startswith("no ")
    ]
    reason = reasons[-1] if reasons else "no audio: the call was too short for a packet to arrive"
    return f"{row.created_at:%Y-%m-%d %H:%M:%S} {row.from_} → {row.to}: {reason}"


CHECKS: tuple[Check, ...] = (
    check_python,
    check_packages,
    check_files,
    check_buffers,
    check_timer,
    check_engine,
    check_sip,
    check_http,
    check_rtp,
    check_folder,
    check_database,
    check_peers,
)
