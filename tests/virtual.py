"""A whole engine and its phones in virtual time: real call control, real SIP, real media ticks, no waiting.

An event loop whose clock jumps to the next thing that happens; a wire (tests/wire.py) for SIP and RTP with chosen
loss, delay and order; the media worker's own core stepped in this process. A minute of a call takes about a second.
"""

from __future__ import annotations

import asyncio
import hashlib
import selectors
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
from numpy.typing import NDArray
from starlette.types import ASGIApp

from engine.call import callback
from engine.call.instructions import Sources
from engine.call.manager import CallManager
from engine.call.routing import Numbers, Route
from engine.call.services import Services
from engine.call.timeline import Note
from engine.callbacks import Outbox
from engine.clock import Clock
from engine.ids import SeededIds
from engine.media import protocol as p
from engine.media.fetch import MediaFetcher
from engine.media.pool import MediaPool
from engine.media.worker import rtp
from engine.media.worker.core import SLOT_SECONDS, MediaCore
from engine.media.worker.sockets import BATCH, ROW_OCTETS, Batch
from engine.net.endpoint import UdpEndpoint
from engine.sip.layer import Flow, Outgoing
from engine.sip.stack import Listener, Stack
from engine.softphone import Softphone
from engine.store import CallRow, Store
from engine.verbs.interpreter import interpret
from engine.webhook import WebhookClient
from speech.base import SpeechWarning, Utterance
from speech.cache import PromptCache
from tests.wire import Address, Datagram, Wire

T = TypeVar("T")
START = 1000.0
EPOCH = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
ENGINE, PHONE = "10.0.0.1", "10.0.0.2"
PORT = 5060


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes only when nothing is left to do, and then at once."""

    def __init__(self) -> None:
        self._virtual = START
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self._virtual

    def advance(self, seconds: float) -> None:
        self._virtual += seconds

    def run_in_executor(self, executor: object, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """At once, in this thread: a thread would live in real time."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


class _JumpingSelector(selectors.DefaultSelector):  # type: ignore[misc,valid-type]
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing will ever happen again: everybody waits for somebody else")
        self._loop.advance(max(timeout, 0))
        return []


def run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine function to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work())


class VirtualClock:
    """The loop's clock, and a wall clock that goes with it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def monotonic(self) -> float:
        return self._loop.time()

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self._loop.time() - START)


class LoopWire(Wire):
    """The wire of tests/wire.py, its deliveries on the loop's clock."""

    def __init__(self, **conditions: Any) -> None:
        self._loop = asyncio.get_running_loop()
        super().__init__(**conditions)

    @property
    def now(self) -> float:
        return self._loop.time()

    @now.setter
    def now(self, value: float) -> None:
        """The loop's clock is not the wire's to set."""

    def at(self, time: float, action: Callable[[], None]) -> None:
        self._loop.call_at(time, action)


class WireEndpoint(UdpEndpoint):
    """The engine's own endpoint, its sockets replaced by the wire."""

    def __init__(self, clock: Clock, wire: Wire) -> None:
        super().__init__(clock)
        self._wire = wire

    async def open(self, host: str, port: int, advertised: str | None = None) -> Address:
        address = (host, port or PORT)
        self._wire.attach(
            address, lambda data, source, destination, now: self.received(data, Flow(address, source))
        )
        assert self._stack is not None
        self._stack.listen(Listener(address, host))
        return address

    def _transmit(self, outgoing: Outgoing, remote: Address) -> None:
        self._wire.send(outgoing.flow.local, remote, outgoing.message.to_bytes())


class WireIo:
    """`PacketIo` on the wire: RTP that can be lost, late and out of order."""

    def __init__(self, wire: Wire) -> None:
        self.dropped = 0
        self._wire = wire
        self._next = 20000
        self._address: dict[int, Address] = {}
        self._target: dict[int, Address | None] = {}
        self._rtcp_target: dict[int, Address | None] = {}
        self._source: dict[int, Address] = {}
        self._arrived: dict[int, deque[bytes]] = defaultdict(deque)
        self._rtcp: list[tuple[int, bytes]] = []
        self._locks: list[tuple[int, Address]] = []

    def open(self, leg: int, host: str) -> int:
        port, self._next = self._next, self._next + 2
        self._address[leg] = (host, port)
        self._wire.attach((host, port), lambda data, source, destination, now: self._take(leg, data, source))
        self._wire.attach(
            (host, port + 1), lambda data, source, destination, now: self._rtcp.append((leg, data))
        )
        return port

    def aim(self, leg: int, rtp: Address | None, rtcp: Address | None) -> None:
        if rtp != self._target.get(leg):
            self._source.pop(leg, None)
        self._target[leg], self._rtcp_target[leg] = rtp, rtcp

    def source(self, leg: int) -> Address | None:
        return self._source.get(leg)

    def receive(self, batch: Batch) -> None:
        batch.count = 0
        for leg, packets in self._arrived.items():
            if packets and batch.count < BATCH:
                packet = packets.popleft()
                batch.rows[batch.count, : len(packet)] = np.frombuffer(packet, np.uint8)
                batch.lengths[batch.count], batch.legs[batch.count] = len(packet), leg
                batch.count += 1

    def receive_rtcp(self) -> list[tuple[int, bytes]]:
        packets, self._rtcp = self._rtcp, []
        return packets

    def locked(self) -> list[tuple[int, Address]]:
        locks, self._locks = self._locks, []
        return locks

    def send(self, legs: NDArray[np.int64], packets: NDArray[np.void]) -> None:
        for leg, packet in zip(legs.tolist(), packets, strict=True):
            self.send_one(leg, packet.tobytes())

    def send_one(self, leg: int, packet: bytes) -> None:
        target = self._source.get(leg) or self._target.get(leg)
        if target is not None:
            self._wire.send(self._address[leg], target, packet)

    def send_rtcp(self, leg: int, packet: bytes) -> None:
        target = self._rtcp_target.get(leg)
        if target is not None:
            host, port = self._address[leg]
            self._wire.send((host, port + 1), target, packet)

    def close(self, leg: int) -> None:
        del self._address[leg]
        self._arrived.pop(leg, None)
        self._source.pop(leg, None)
        self._target.pop(leg, None)
        self._locks = [lock for lock in self._locks if lock[0] != leg]

    def _take(self, leg: int, data: bytes, source: Address) -> None:
        if leg not in self._address or not rtp.plausible(memoryview(data)) or len(data) >= ROW_OCTETS:
            return
        if leg not in self._source:
            self._source[leg] = source
            self._locks.append((leg, source))
        if self._source[leg] == source:
            self._arrived[leg].append(data)


class CoreLink:
    """A media worker's core in this process, stepped every 2 ms of virtual time while it carries legs."""

    def __init__(self, wire: Wire, seed: int) -> None:
        self.on_event: Callable[[p.Event], None] = lambda _: None
        self.on_lost: Callable[[str], None] = lambda _: None
        self._loop = asyncio.get_running_loop()
        self.core = MediaCore(WireIo(wire), SeededIds(seed), lambda: self._loop.time() + 1.7e9, 32)
        self.is_up = True
        self._stepping = False

    async def start(self) -> None:
        """It needs nothing."""

    async def stop(self) -> None:
        """Nor this."""

    def send(self, command: p.Command) -> None:
        self.core.handle(command, self._loop.time())
        self._loop.call_soon(self._tell)
        if not self._stepping and self.core.leg_count:
            self._stepping = True
            self._loop.call_later(SLOT_SECONDS, self._step)

    def _step(self) -> None:
        self.core.step(self._loop.time())
        self._tell()
        self._stepping = self.core.leg_count > 0
        if self._stepping:
            self._loop.call_later(SLOT_SECONDS, self._step)

    def _tell(self) -> None:
        events, self.core.events = self.core.events, []
        for event in events:
            self.on_event(event)


class NoiseVoice:
    """A synthesizer whose every text has its own noise, 50 ms a character: what was heard tells what was said."""

    name = "noise"
    version = "1"

    def supports(self, utterance: Utterance) -> bool:
        return True

    def warnings(self, utterance: Utterance) -> tuple[SpeechWarning, ...]:
        return ()

    async def synthesize(self, utterance: Utterance) -> AsyncIterator[bytes]:
        yield spoken(utterance.text).tobytes()

    async def close(self) -> None:
        """Nothing runs."""


def spoken(text: str) -> NDArray[np.int16]:
    """What `NoiseVoice` says for a text: 400 samples a character."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).integers(-8000, 8000, 400 * len(text), dtype=np.int16)


class Office:
    """An engine at 10.0.0.1 and as many phones as a test wants, joined by one wire."""

    def __init__(self, folder: Path, **conditions: Any) -> None:
        self.wire = LoopWire(start=START, **conditions)
        self.clock = VirtualClock()
        self.notes: list[Note] = []
        self.rows: list[CallRow] = []  # the call records, once a test has read them
        self._folder = folder
        self._phones = 0

    async def open(self, route: Route, app: ASGIApp | None = None) -> None:
        """Start the engine; `app` is the webhook app behind every http URL, itself in virtual time."""
        ids = SeededIds(7)
        self.store = await Store.open(None, self.clock)
        account = await self.store.account(ids)
        transport = httpx.ASGITransport(app) if app is not None else None
        client = WebhookClient(account.token, ids, transport=transport, monotonic=self.clock.monotonic)
        self.outbox = Outbox(self.store, client, self.clock, ids=ids)
        self.outbox.start()
        self.prompts = PromptCache(self._folder / "prompts", 1 << 28, NoiseVoice())
        self.callbacks: dict[str, callback.Callback] = {}
        self.http = httpx.AsyncClient(transport=transport)
        services = Services(
            clock=self.clock,
            ids=ids,
            account=account,
            store=self.store,
            outbox=self.outbox,
            pool=MediaPool([CoreLink(self.wire, 11)]),
            sources=Sources(client, ThreadPoolExecutor(1), self.callbacks),
            prompts=self.prompts,
            sounds=MediaFetcher(self.prompts, self.http, clock=self.clock.monotonic),
            address_of=lambda host: host,
        )
        self.manager = CallManager(services, lambda: Numbers((), route), interpret, (self.notes.append,))
        self.endpoint = WireEndpoint(self.clock, self.wire)
        self.stack = Stack(ids, send=self.endpoint.send, emit=self.manager.handle, trace=self.manager.trace)
        self.endpoint.attach(self.stack)
        await self.endpoint.open(ENGINE, PORT)

    async def close(self) -> None:
        await self.manager.stop()
        await self.outbox.stop(5.0)
        self.endpoint.close()
        await self.prompts.close()
        await self.http.aclose()
        await self.store.close()

    def phone(self) -> Softphone:
        """Another phone on the wire, at an address of its own."""
        self._phones += 1
        host = f"10.0.0.{1 + self._phones}"
        return Softphone(
            host,
            PORT,
            ids=SeededIds(100 + self._phones),
            clock=self.clock,
            link=CoreLink(self.wire, 200 + self._phones),
            endpoint=WireEndpoint(self.clock, self.wire),
        )

    def kinds(self, *kinds: str) -> list[Note]:
        """The engine's notes of these kinds, in order."""
        return [note for note in self.notes if note.kind in kinds]

    def sip_lines(self) -> list[str]:
        return [f"{note.data['direction']} {note.data['line']}" for note in self.kinds("sip")]


def lost(share: float, *, of: Callable[[Datagram], bool] = lambda _: True) -> Callable[[Datagram], bool]:
    """A drop rule: every n-th datagram of a kind, the same every run."""
    every, seen = round(1 / share), [0]

    def drop(datagram: Datagram) -> bool:
        if not of(datagram):
            return False
        seen[0] += 1
        return seen[0] % every == 0

    return drop
