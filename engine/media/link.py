"""Call control's end of the media workers: processes started, commands sent, events received, deaths noticed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable
from typing import Protocol

import structlog

from engine.errors import MediaError
from engine.media import protocol as p

log = structlog.get_logger(__name__)

COMMAND_BUFFER = 4 << 20  # a burst of set-ups fits; past it the worker is stuck and the command fails
RESTART_DELAY = 0.5  # seconds between a worker's death and its successor, so that a broken host does not spin
STOP_SECONDS = 2.0


class Link(Protocol):
    """A way to one media worker. `on_event` is set by whoever reads; `on_lost` is called when it dies."""

    on_event: Callable[[p.Event], None]
    on_lost: Callable[[str], None]

    @property
    def is_up(self) -> bool:
        """Whether the worker is there to take a leg."""
        ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def send(self, command: p.Command) -> None:
        """Raises `MediaError` when the worker cannot take it."""
        ...


def _ignore_event(event: p.Event) -> None:
    """Until a pool listens."""


def _ignore_loss(reason: str) -> None:
    """Until a pool listens."""


class WorkerLink:
    """One worker process on a socket pair; started again when it dies."""

    def __init__(self, name: str, first_port: int, last_port: int, *, realtime: bool = False) -> None:
        self.name = name
        self.on_event: Callable[[p.Event], None] = _ignore_event
        self.on_lost: Callable[[str], None] = _ignore_loss
        self.restarts = 0
        self._arguments = [str(first_port), str(last_port), *(["realtime"] if realtime else [])]
        self._socket: socket.socket | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def is_up(self) -> bool:
        return self._socket is not None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        await self._spawn()
        self._watch = asyncio.create_task(self._keep_alive(), name=f"media worker {self.name}")

    async def stop(self) -> None:
        """Let the worker close its legs and leave; kill it when it does not."""
        self._stopping = True
        if self._socket is not None:
            with contextlib.suppress(MediaError):
                self.send(p.Shutdown())
        if self._watch is not None:
            try:
                await asyncio.wait_for(asyncio.shield(self._watch), STOP_SECONDS)
            except TimeoutError:
                if self._process is not None and self._process.returncode is None:
                    self._process.kill()
                await self._watch

    def send(self, command: p.Command) -> None:
        if self._socket is None:
            raise MediaError(f"media worker {self.name} is not running")
        try:
            self._socket.send(p.encode(command))
        except OSError as error:
            raise MediaError(f"media worker {self.name} does not take commands: {error}") from error

    async def _spawn(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, COMMAND_BUFFER)
        arguments = [str(theirs.fileno()), *self._arguments]
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "engine.media.worker.main", *arguments),
                pass_fds=(theirs.fileno(),),
                process_group=0,  # Ctrl-C is for the engine; it ends its workers in order
                # numpy's thread pools only add jitter to a tick of small matrices
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._socket = ours
        asyncio.get_running_loop().add_reader(ours.fileno(), self._read)

    async def _keep_alive(self) -> None:
        while True:
            assert self._process is not None  # set by _spawn
            status = await self._process.wait()
            self._hang_up()
            if self._stopping:
                return
            reason = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
            log.error("media worker died, starting another", worker=self.name, reason=reason)
            self.on_lost(f"media worker {self.name} died ({reason})")
            if not await self._start_again():
                return

    async def _start_again(self) -> bool:
        """Try until there is a new process; False when we are to stop instead."""
        while True:
            await asyncio.sleep(RESTART_DELAY)
            if self._stopping:
                return False
            self.restarts += 1
            try:
                await self._spawn()
                return True
            except OSError as error:  # no memory now: without a next try there would be no media ever
                log.error("media worker does not start", worker=self.name, reason=str(error))

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._read()  # what it said before it died still counts
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _read(self) -> None:
        while self._socket is not None:
            try:
                data = self._socket.recv(p.MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                asyncio.get_running_loop().remove_reader(self._socket.fileno())
                return
            self.on_event(p.decode_event(data))
