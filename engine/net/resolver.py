"""Host names on the way out: looked up on threads of their own, each once, and remembered for a while.

A peer's Contact decides what is looked up, so every quantity here is bounded: a flood of names that nobody
answers for fails quickly by itself and keeps nobody else's thread.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeAlias

import structlog

from engine.clock import Clock
from engine.sip.layer import Outgoing

log = structlog.get_logger(__name__)

Name: TypeAlias = tuple[str, socket.AddressFamily]

THREADS = 2  # one slow name server must not stop a name that another one knows
KEEP_S = 30.0  # answers and failures alike: a call costs one look-up, and a host that moved is soon found
MAX_LOOKUPS = 64  # at 50 ms each done in under 2 s; more at once is a flood of made-up names
MAX_KNOWN = 1024  # remembered names; the oldest goes first


@dataclass(frozen=True, slots=True)
class _Known:
    address: str | None  # None: there is no such name
    until: float


@dataclass(slots=True)
class _Lookup:
    task: asyncio.Task[None]
    waiting: dict[int, Outgoing] = field(default_factory=dict)  # by message: a repeat waits once


class Resolver:
    """Takes messages whose flow's remote host is a name; each ends in `found` with an IP address or in `failed`.

    `found` may be called before `send` returns, `failed` never is: the stack is then still at work on the message.
    """

    def __init__(
        self, clock: Clock, found: Callable[[Outgoing, str], None], failed: Callable[[Outgoing], None]
    ) -> None:
        self._clock = clock
        self._found = found
        self._failed = failed
        self._known: dict[Name, _Known] = {}
        self._lookups: dict[Name, _Lookup] = {}
        self._threads = ThreadPoolExecutor(THREADS, "resolver")
        self._closed = False

    def send(self, outgoing: Outgoing) -> None:
        name = _name_of(outgoing)
        known = self._known.get(name)
        if known is not None and known.until > self._clock.monotonic():
            self._settle(outgoing, known.address)
        elif name in self._lookups:
            self._lookups[name].waiting[id(outgoing.message)] = outgoing
        elif self._closed or len(self._lookups) >= MAX_LOOKUPS:
            self._settle(outgoing, None)
        else:
            task = asyncio.get_running_loop().create_task(self._look_up(name))
            self._lookups[name] = _Lookup(task, {id(outgoing.message): outgoing})

    def close(self) -> None:
        """Forget what waits. A look-up under way ends in its thread, unheard."""
        self._closed = True
        for lookup in self._lookups.values():
            lookup.task.cancel()
        self._lookups.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _settle(self, outgoing: Outgoing, address: str | None) -> None:
        if address is not None:
            self._found(outgoing, address)
        else:
            asyncio.get_running_loop().call_soon(self._fail, outgoing)

    def _fail(self, outgoing: Outgoing) -> None:
        if not self._closed:
            self._failed(outgoing)

    async def _look_up(self, name: Name) -> None:
        address = await self._ask(name)
        self._known.pop(name, None)
        if len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[name] = _Known(address, self._clock.monotonic() + KEEP_S)
        for outgoing in self._lookups.pop(name).waiting.values():
            self._settle(outgoing, address)

    async def _ask(self, name: Name) -> str | None:
        host, family = name
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(
                self._threads, socket.getaddrinfo, host, None, family, socket.SOCK_DGRAM
            )
        except (OSError, ValueError) as error:  # ValueError: no name at all (IDNA, NUL)
            log.warning("cannot resolve", host=host[:100], reason=str(error))
            return None
        return str(found[0][4][0])


def _name_of(outgoing: Outgoing) -> Name:
    local, remote = outgoing.flow
    return remote[0].lower(), socket.AF_INET6 if ":" in local[0] else socket.AF_INET
