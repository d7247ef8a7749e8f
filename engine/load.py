"""Many calls at once from the softphone's own stack: how fast they are set up, how they sound, what they cost.

The tool reports on itself too (late media ticks, late starts), so that a run in which the tool was the bottleneck
is told apart from one in which the engine was.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from engine import procfs
from engine.config import split_ports
from engine.errors import ConfigError
from engine.media import protocol as media
from engine.media.link import Link
from engine.sip.layer import DEFAULT_PORT
from engine.softphone import CallPlan, CallReport, PhoneCall, Softphone, parse_target

RTP_PORTS = (30000, 39999)  # apart from the engine's default range, which is on the same machine in most runs
MAX_CALLS = 100_000  # a run keeps a report of each call, about 1 kB
MAX_LIVE = 4096  # legs of one media worker
PACKETS_PER_SECOND = 50
ENDED_WELL = ("us", "far end")
LOOK_SECONDS = 0.25  # how often progress is shown
TOOL_LATE_SHARE = 0.01  # of its own ticks late: past this the tool's figures say nothing about the engine
TOOL_LATE_START = 0.25  # seconds behind the wanted rate


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """`calls` calls to `target`, `rate` a second, each hung up `hold` seconds after its answer.

    `workers` is how many media workers the tool runs. Without `media` no RTP is sent (set-up only).
    `engine_pid` is whose CPU is counted; None looks for who holds the target's port on this machine.
    """

    target: str
    calls: int
    rate: float
    hold: float
    caller: str = "load"
    digits: str = ""
    host: str = "127.0.0.1"
    workers: int = 1
    media: bool = True
    engine_pid: int | None = None

    def check(self) -> None:
        """Raises `ConfigError` for a plan that this tool cannot carry out."""
        parse_target(self.target)
        if not 1 <= self.calls <= MAX_CALLS or self.rate <= 0 or self.hold < 0 or self.workers < 1:
            raise ConfigError(f"a load is 1 to {MAX_CALLS} calls at a rate above 0, held 0 seconds or more")
        live = min(self.calls, self.rate * self.hold)
        if live > MAX_LIVE * self.workers:
            raise ConfigError(
                f"{live:.0f} calls at once are more than {MAX_LIVE} a worker: give --workers or a lower rate"
            )


@dataclass(frozen=True, slots=True)
class Spread:
    """Percentiles of a quantity over calls; all 0 when there is none."""

    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    max: float = 0.0

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if not values:
            return cls()
        return cls(*(round(float(each), 3) for each in np.percentile(values, (50, 95, 99, 100))))


@dataclass(frozen=True, slots=True)
class ToolReport:
    """The tool's own health: media ticks of its workers, and how far it fell behind the wanted rate."""

    ticks: int
    late_ticks: int
    skipped_ticks: int
    worst_late_ms: float
    worst_start_late_ms: float
    packets_dropped: int

    @property
    def is_sound(self) -> bool:
        """Whether the run says something about the far end, and not about this tool."""
        late = (self.late_ticks + self.skipped_ticks) / self.ticks if self.ticks else 0.0
        return late <= TOOL_LATE_SHARE and self.worst_start_late_ms <= 1000 * TOOL_LATE_START


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a load run found. Times in milliseconds, shares in percent; None where nothing was measured."""

    attempted: int
    answered: int
    completed: int
    without_audio: int
    failed: dict[str, int]
    setup_ms: Spread
    first_rtp_ms: Spread
    setups_per_second: float
    peak_calls: int
    packets_received: int
    packets_expected: int
    loss_percent: float
    far_loss_packets: int
    jitter_ms: Spread
    call_seconds: float
    cpu_seconds: float | None
    cpu_per_call_second: float | None
    tool: ToolReport

    @property
    def is_good(self) -> bool:
        """Every call was answered and came to its planned end."""
        return self.completed == self.attempted

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"good": self.is_good, "tool_sound": self.tool.is_sound}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One call of a run; `invited_at` counts from the run's start, `invited_after` from the call's own, in seconds."""

    report: CallReport
    invited_at: float
    invited_after: float

    @property
    def setup(self) -> float | None:
        """Seconds from INVITE to 200."""
        after = self.report.answered_after
        return None if after is None else after - self.invited_after

    @property
    def first_rtp(self) -> float | None:
        """Seconds from 200 to the first RTP packet."""
        answered, heard = self.report.answered_after, self.report.first_audio_after
        return None if answered is None or heard is None else max(heard - answered, 0.0)

    @property
    def completed(self) -> bool:
        """Answered, and ended by a BYE of either side."""
        return self.report.answered and self.report.status == 200 and self.report.ended_by in ENDED_WELL

    @property
    def heard_seconds(self) -> float:
        """From the first RTP packet to the end."""
        return self.report.duration - (self.first_rtp or 0.0) if self.first_rtp is not None else 0.0


@dataclass(slots=True)
class Tally:
    """The run so far; what a progress display reads."""

    started: int = 0
    live: int = 0
    peak: int = 0
    start_late: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)


class NoMedia:
    """A link without a worker: each leg has a port on which nothing is ever sent or read."""

    def __init__(self, host: str) -> None:
        self.on_event: Callable[[media.Event], None] = lambda event: None
        self.on_lost: Callable[[str], None] = lambda reason: None
        self._host = host
        self._socket: socket.socket | None = None

    @property
    def is_up(self) -> bool:
        return True

    async def start(self) -> None:
        # One socket for all: what the far end plays dies in its buffer instead of coming back as ICMP errors.
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        self._socket.bind((self._host, 0))

    async def stop(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def send(self, command: media.Command) -> None:
        assert self._socket is not None
        match command:
            case media.Open(leg=leg):
                self.on_event(media.Opened(leg, self._socket.getsockname()[1]))
            case media.SendDigits(leg=leg, play=play):
                self.on_event(media.PlayDone(leg, play, True, 0))
            case media.Close(leg=leg):
                self.on_event(media.Closed(leg, media.Quality()))


async def run_load(plan: LoadPlan, show: Callable[[Tally], None] = lambda tally: None) -> LoadReport:
    """Carry out a plan; `show` is called a few times a second. Cancelling hangs up every call."""
    plan.check()
    pid = plan.engine_pid or _engine_pid(plan.target)
    tally = Tally()
    async with _phones(plan) as phones, _watching(tally, phones, show) as health:
        before = procfs.usage(pid) if pid is not None else None
        await _place_calls(plan, phones, tally)
        after = procfs.usage(pid) if pid is not None else None
        health.look(phones)
    cpu = after.cpu_seconds - before.cpu_seconds if before is not None and after is not None else None
    return _report(plan, tally, cpu, health)


@contextlib.asynccontextmanager
async def _phones(plan: LoadPlan) -> AsyncIterator[list[Softphone]]:
    """One softphone for each media worker."""
    async with contextlib.AsyncExitStack() as stack:
        phones = []
        for ports in split_ports(*RTP_PORTS, plan.workers):
            link: Link | None = None if plan.media else NoMedia(plan.host)
            phones.append(await stack.enter_async_context(Softphone(plan.host, rtp_ports=ports, link=link)))
        # A full collection takes as long as several set-ups; what was loaded to start with need not be searched.
        gc.collect()
        gc.freeze()
        stack.callback(gc.unfreeze)
        yield phones


@dataclass(slots=True)
class _Health:
    """The latest word of each media worker of ours, and the worst lateness of all."""

    reports: dict[int, media.WorkerReport] = field(default_factory=dict)
    worst_late_ms: float = 0.0

    def look(self, phones: Sequence[Softphone]) -> None:
        for number, phone in enumerate(phones):
            for report in phone.pool.reports.values():
                self.reports[number] = report
                self.worst_late_ms = max(self.worst_late_ms, report.worst_late_ms)

    def report(self, start_late: float) -> ToolReport:
        workers = self.reports.values()
        return ToolReport(
            ticks=sum(each.ticks for each in workers),
            late_ticks=sum(each.late_ticks for each in workers),
            skipped_ticks=sum(each.skipped_ticks for each in workers),
            worst_late_ms=self.worst_late_ms,
            worst_start_late_ms=round(1000 * start_late, 1),
            packets_dropped=sum(each.packets_dropped for each in workers),
        )


@contextlib.asynccontextmanager
async def _watching(
    tally: Tally, phones: Sequence[Softphone], show: Callable[[Tally], None]
) -> AsyncIterator[_Health]:
    health = _Health()

    async def watch() -> None:
        while True:
            show(tally)
            health.look(phones)
            await asyncio.sleep(LOOK_SECONDS)

    task = asyncio.create_task(watch(), name="load progress")
    try:
        yield health
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        show(tally)


async def _place_calls(plan: LoadPlan, phones: Sequence[Softphone], tally: Tally) -> None:
    began = time.monotonic()
    async with asyncio.TaskGroup() as calls:
        for number, phone in zip(range(plan.calls), itertools.cycle(phones), strict=False):
            # On an absolute schedule: a late start delays no later one.
            due = began + number / plan.rate
            await asyncio.sleep(max(due - time.monotonic(), 0))
            tally.start_late = max(tally.start_late, time.monotonic() - due)
            calls.create_task(_call(plan, phone, tally, began))


async def _call(plan: LoadPlan, phone: Softphone, tally: Tally, began: float) -> None:
    invited_at = invited_after = 0.0

    def on_start(call: PhoneCall) -> None:
        # Before this the leg's ports were opened, which is our time and not the far end's.
        nonlocal invited_at, invited_after
        invited_at, invited_after = time.monotonic() - began, call.timeline.elapsed

    tally.started += 1
    tally.live += 1
    tally.peak = max(tally.peak, tally.live)
    try:
        call = CallPlan(plan.target, plan.caller, digits=plan.digits, duration=plan.hold)
        report = await phone.call(call, on_start)
    finally:
        tally.live -= 1
    tally.outcomes.append(Outcome(report, invited_at, invited_after))


def _report(plan: LoadPlan, tally: Tally, cpu: float | None, health: _Health) -> LoadReport:
    outcomes = tally.outcomes
    answered = [each for each in outcomes if each.report.answered]
    rtp = [each.report.quality for each in answered]
    received, lost = sum(each.packets_received for each in rtp), sum(each.packets_lost for each in rtp)
    call_seconds = sum(each.report.duration for each in answered)
    return LoadReport(
        attempted=tally.started,
        answered=len(answered),
        completed=sum(each.completed for each in outcomes),
        without_audio=sum(not each.packets_received for each in rtp) if plan.media else 0,
        failed=dict(Counter(_failure(each.report) for each in outcomes if not each.completed)),
        setup_ms=Spread.of([1000 * each.setup for each in answered if each.setup is not None]),
        first_rtp_ms=Spread.of([1000 * each.first_rtp for each in answered if each.first_rtp is not None]),
        setups_per_second=_setups_per_second(answered),
        peak_calls=tally.peak,
        packets_received=received,
        packets_expected=round(PACKETS_PER_SECOND * sum(each.heard_seconds for each in answered)),
        loss_percent=round(100 * lost / (received + lost), 4) if received else 0.0,
        far_loss_packets=sum(each.remote_packets_lost or 0 for each in rtp),
        jitter_ms=Spread.of([each.jitter_ms for each in rtp if each.packets_received]),
        call_seconds=round(call_seconds, 1),
        cpu_seconds=None if cpu is None else round(cpu, 2),
        cpu_per_call_second=round(cpu / call_seconds, 6) if cpu is not None and call_seconds else None,
        tool=health.report(tally.start_late),
    )


def _failure(report: CallReport) -> str:
    """What a call that did not complete is counted under."""
    if not report.answered:
        return f"{report.status} {report.reason}".strip()
    return f"answered, then ended by the {report.ended_by}: {report.reason}"


def _setups_per_second(answered: Sequence[Outcome]) -> float:
    """Answers a second, from the first INVITE to the last 200."""
    ends = [each.invited_at + (each.setup or 0.0) for each in answered]
    seconds = max(ends) - min(each.invited_at for each in answered) if ends else 0.0
    return round(len(answered) / seconds, 1) if seconds else 0.0


def _engine_pid(target: str) -> int | None:
    """The process behind a target on this machine, where we may see it."""
    uri = parse_target(target)
    try:
        found = procfs.holder("udp", uri.host.strip("[]"), uri.port or DEFAULT_PORT)
    except ValueError:  # a name: it may be any machine
        return None
    return found.pid if found is not None else None
