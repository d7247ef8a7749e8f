"""A media worker's process: `python -m engine.media.worker.main FD FIRST_PORT LAST_PORT [realtime]`.

Keeps the 2 ms beat by the monotonic clock on an absolute schedule, so that one late step delays no later one.
Lateness is counted; a step that is late is made up, and only a stall longer than `MAX_CATCH_UP` is skipped.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import select
import signal
import socket
import sys
import time

from engine.ids import RandomIds
from engine.media import protocol as p
from engine.media.worker.core import SLOT_SECONDS, MediaCore
from engine.media.worker.sockets import SocketIo

MAX_CATCH_UP = 0.2  # seconds: more than a jitter buffer holds, so sending it late would be noise
LATE = SLOT_SECONDS  # a step that starts a whole slot after its time is late
REPORT_SECONDS = 1.0
IDLE_SECONDS = 1.0
COMMANDS_PER_STEP = 64  # so that a burst of set-ups cannot hold up the beat of the calls that are running


class Worker:
    """The loop around `MediaCore`: commands in, steps on time, events out."""

    def __init__(self, control: socket.socket, io: SocketIo) -> None:
        self._control = control
        self._io = io
        self._core = MediaCore(io, RandomIds(), time.time)
        self._wakeup = select.epoll()
        self._wakeup.register(control.fileno(), select.EPOLLIN)
        self._running = True
        self._ticks = self._late = self._skipped = 0
        self._worst = 0.0
        self._report_at = 0.0

    def run(self) -> None:
        next_step = time.monotonic()
        while self._running:
            if self._core.leg_count == 0:
                self._wakeup.poll(IDLE_SECONDS)
                next_step = time.monotonic()
            self._take_commands()
            next_step = self._step_when_due(next_step)
            self._tell()
        self._core.handle(
            p.Shutdown(), next_step
        )  # whatever ended the loop: recordings get their last second

    def _step_when_due(self, next_step: float) -> float:
        wait = next_step - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        now = time.monotonic()
        if now - next_step > MAX_CATCH_UP:
            steps = int((now - next_step) / SLOT_SECONDS)
            self._core.skip(steps)
            self._skipped += steps
            next_step += steps * SLOT_SECONDS
        self._count(now - next_step)
        self._core.step(now)
        return next_step + SLOT_SECONDS

    def _count(self, lateness: float) -> None:
        if self._core.due_count():
            self._ticks += 1
            self._late += lateness > LATE
            self._worst = max(self._worst, lateness)

    def _take_commands(self) -> None:
        for _ in range(COMMANDS_PER_STEP):
            try:
                data = self._control.recv(p.MAX_MESSAGE)
            except BlockingIOError:
                return
            if not data:  # call control is gone, and a worker without it is no use to anybody
                self._running = False
                return
            command = p.decode_command(data)
            self._core.handle(command, time.monotonic())
            if isinstance(command, p.Shutdown):
                self._running = False

    def _tell(self) -> None:
        now = time.monotonic()
        if self._core.leg_count and now >= self._report_at:
            self._report_at = now + REPORT_SECONDS
            self._core.events.append(self._report())
        if self._core.events:
            events, self._core.events = self._core.events, []
            for event in events:
                self._send(p.encode(event))

    def _send(self, data: bytes) -> None:
        # An event is never dropped: a lost `PlayDone` would hang its call. Control reads much faster than we write.
        while True:
            try:
                self._control.send(data)
                return
            except BlockingIOError:
                select.select([], [self._control], [], MAX_CATCH_UP)
            except OSError:
                self._running = False
                return

    def _report(self) -> p.WorkerReport:
        worst, self._worst = self._worst, 0.0
        return p.WorkerReport(
            legs=self._core.leg_count,
            ticks=self._ticks,
            late_ticks=self._late,
            skipped_ticks=self._skipped,
            worst_late_ms=round(worst * 1000, 2),
            cpu_seconds=time.process_time(),
            packets_received=self._core.packets_received,
            packets_sent=self._core.packets_sent,
            packets_dropped=self._io.dropped,
        )


def _hurry(realtime: bool) -> None:
    """Run before other programs, as far as we may: a worker sleeps most of the time and is late when it is not let."""
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -10)
        if realtime:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def main() -> None:
    descriptor, first_port, last_port = (int(argument) for argument in sys.argv[1:4])
    realtime = sys.argv[4:] == ["realtime"]
    control = socket.socket(fileno=descriptor)
    control.setblocking(False)
    # Ctrl-C reaches the whole process group; the engine decides when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    _hurry(realtime)
    worker = Worker(control, SocketIo(first_port, last_port))
    gc.collect()
    gc.freeze()
    gc.disable()  # a collection in a tick is a late tick; the tick itself makes no cycles
    worker.run()


if __name__ == "__main__":
    main()
