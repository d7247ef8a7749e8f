"""Whole calls: a real engine, a served app, a real telephone, all in this process on ports nobody chose.

running = await engine_factory(app)                      # a URL, a file, or an app that is served here
report = await softphone.call(CallPlan(running.target(), digits="1"))
await running.notes.wait("state", status="completed")
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

import msgspec
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.api.server import HttpServer
from engine.app import Engine
from engine.call.callback import Callback, CallRequest
from engine.call.timeline import Note, Watcher
from engine.config import Config, HttpConfig, RtpConfig, SipConfig
from engine.schema import CallRow
from engine.softphone import Softphone

NOTE_SECONDS = 20.0  # longer than any call here; reached only by a test that fails
VOICE = "/voice"  # where an app is asked for its first document


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request that an app was asked: `params` from the query and the form, `headers` in lower case."""

    method: str
    path: str
    params: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(slots=True)
class Served:
    """An app that is being served, and everything it was asked so far."""

    url: str
    requests: list[Recorded] = field(default_factory=list)

    def paths(self) -> list[str]:
        return [request.path for request in self.requests]


class Notes:
    """A watcher that keeps every note and lets a test wait for one."""

    def __init__(self) -> None:
        self.all: list[Note] = []
        self._changed = asyncio.Event()

    def __call__(self, note: Note) -> None:
        self.all.append(note)
        self._changed.set()
        self._changed = asyncio.Event()

    def of(self, kind: str, /, **data: object) -> list[Note]:
        """The notes of this kind whose data holds all of `data`, oldest first."""
        return [note for note in self.all if note.kind == kind and data.items() <= dict(note.data).items()]

    async def wait(self, kind: str, /, *, count: int = 1, **data: object) -> Note:
        """The `count`-th such note, as soon as it is there."""
        try:
            async with asyncio.timeout(NOTE_SECONDS):
                while len(found := self.of(kind, **data)) < count:
                    await self._changed.wait()
        except TimeoutError:
            told = "\n".join(f"{note.offset:8.3f} {note.kind} {dict(note.data)}" for note in self.all)
            raise AssertionError(f"no {kind} note with {data}; there were\n{told}") from None
        return found[count - 1]


@dataclass(slots=True)
class Running:
    """A started engine, its timeline, and the app it asks when that is served here."""

    engine: Engine
    notes: Notes
    served: Served | None = None

    def target(self, number: str = "1000") -> str:
        host, port = self.engine.sip_addresses[0]
        return f"sip:{number}@{host}:{port}"

    async def rows(self) -> list[CallRow]:
        """All calls in the store, the latest first."""
        return await self.engine.services.store.calls(100)

    async def row(self) -> CallRow:
        """The only call's row, once the call is over."""
        await self.ended()
        rows = await self.rows()
        assert len(rows) == 1, f"{len(rows)} calls"
        return rows[0]

    async def ended(self) -> None:
        """Returns when no call is live: each one's row has then been written."""
        async with asyncio.timeout(NOTE_SECONDS):
            while self.engine.manager.call_count:
                await asyncio.wait(set(self.engine.manager._tasks))


AppServer: TypeAlias = Callable[[ASGIApp], Awaitable[Served]]
EngineFactory: TypeAlias = Callable[..., Awaitable[Running]]


@pytest.fixture
async def app_server() -> AsyncIterator[AppServer]:
    """`await app_server(app)` serves an ASGI app on a free port until the test ends."""
    async with contextlib.AsyncExitStack() as stack:

        async def serve(app: ASGIApp) -> Served:
            served = Served("")
            server = HttpServer(_recording(app, served.requests), "127.0.0.1", 0)
            await server.start()
            stack.push_async_callback(server.stop)
            served.url = server.url
            return served

        yield serve


@pytest.fixture
async def engine_factory(tmp_path: Path, app_server: AppServer) -> AsyncIterator[EngineFactory]:
    """`await engine_factory(voice, config=…, watchers=…, path=…)` starts an engine, stopped when the test ends.

    `voice` is a URL, a file, `module:callable`, an ASGI app (served here and asked at `path`) or, as
    `callback=function`, a Python function. In `config` the data folder, addresses and voice URL are filled in.
    """
    async with contextlib.AsyncExitStack() as stack:
        count = 0

        async def start(
            voice: str | Path | ASGIApp = "",
            *,
            callback: Callable[[CallRequest], Any] | None = None,
            config: Config | None = None,
            watchers: tuple[Watcher, ...] = (),
            path: str = VOICE,
        ) -> Running:
            nonlocal count
            count += 1
            served = None
            if callback is not None:
                voice = "test:callback"
            elif callable(voice):
                served = await app_server(voice)
                voice = served.url + path
            notes = Notes()
            settings = _config(config or Config(), tmp_path / f"engine{count}", str(voice))
            engine = Engine(settings, watchers=(notes, *watchers))
            if callback is not None:
                engine._callbacks["test:callback"] = Callback(callback)
            await engine.start()
            stack.push_async_callback(engine.stop)
            return Running(engine, notes, served)

        yield start


@pytest.fixture
async def softphone() -> AsyncIterator[Softphone]:
    """A telephone on its own address and media worker."""
    async with Softphone() as phone:
        yield phone


def _config(config: Config, folder: Path, voice_url: str) -> Config:
    replace = msgspec.structs.replace
    rtp = config.rtp if config.rtp.workers else RtpConfig(config.rtp.ports, 1, config.rtp.timeout)
    return replace(
        config,
        data=config.data or str(folder),
        sip=config.sip if config.sip != SipConfig() else SipConfig(("udp:127.0.0.1:0",)),
        http=HttpConfig("127.0.0.1:0"),
        rtp=rtp,
        app=replace(config.app, voice_url=voice_url or config.app.voice_url),
    )


def _recording(app: ASGIApp, requests: list[Recorded]) -> ASGIApp:
    """The same app; what it is asked is kept before it is asked."""

    async def asked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        body = await _body(receive)
        requests.append(_recorded(scope, body))
        waiting: list[Message] = [{"type": "http.request", "body": body}]

        async def replay() -> Message:
            return waiting.pop() if waiting else await receive()

        await app(scope, replay, send)

    return asked


async def _body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body


def _recorded(scope: Scope, body: bytes) -> Recorded:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    params = dict(parse_qsl(scope["query_string"].decode(), keep_blank_values=True))
    if headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        params |= parse_qsl(body.decode(), keep_blank_values=True)
    return Recorded(scope["method"], scope["path"], params, headers, body)
