"""The composition root: every part of the engine made once, joined, started and stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import IO

import httpx
import structlog

from engine.api.server import HttpServer, build_app
from engine.call import callback
from engine.call.instructions import Sources, fallback_url, source_url
from engine.call.manager import CallManager
from engine.call.params import status_callback
from engine.call.routing import Numbers, Route, check_row, merged
from engine.call.services import Services
from engine.call.timeline import Watcher
from engine.callbacks import Outbox
from engine.clock import Clock, SystemClock
from engine.config import Config, parse_listen, split_ports
from engine.errors import ConfigError
from engine.ids import Ids, RandomIds
from engine.media.fetch import MediaFetcher
from engine.media.link import WorkerLink
from engine.media.pool import MediaPool
from engine.metrics import EngineCollector, render
from engine.net.endpoint import UdpEndpoint, reachable_host
from engine.schema import Account, CallRow, NumberRow, PendingCallback, StoreError
from engine.sip import events as sip
from engine.sip.layer import Address, Flow
from engine.sip.message import Request, Response
from engine.sip.stack import Stack
from engine.store import Store
from engine.verbs.interpreter import interpret
from engine.webhook import WebhookClient
from speech.base import Synthesizer
from speech.cache import PromptCache
from speech.tts import EspeakSynthesizer, Pyttsx3Synthesizer, Synthesizers

log = structlog.get_logger(__name__)

DATABASE = "switchhook.db"
PROMPTS = "prompts"
LOCK = "engine.lock"
NUMBERS_SECONDS = 2.0  # a number added to the database is answered this soon
PRUNE_SECONDS = 86_400.0
OUTBOX_DRAIN_SECONDS = 3.0
SETTLE_SECONDS = 2.0  # for the answers to our last BYEs: two of a BYE's repetitions


class Engine:
    """One running engine. `await start()`, then `await stop()`; `watchers` hear every call's timeline."""

    def __init__(
        self,
        config: Config,
        *,
        watchers: tuple[Watcher, ...] = (),
        clock: Clock | None = None,
        ids: Ids | None = None,
    ) -> None:
        self.config = config
        self.account = Account("", "")
        self.sip_addresses: list[Address] = []
        self._watchers = watchers
        self._clock = clock or SystemClock()
        self._ids = ids or RandomIds()
        self._callbacks: dict[str, callback.Callback] = {}
        self._numbers = Numbers(())
        self._number_rows: list[NumberRow] | None = None
        self._default: Route | None = None
        self._exits = contextlib.AsyncExitStack()  # what was started, to be stopped in reverse
        self._manager: CallManager | None = None
        self._endpoint: UdpEndpoint | None = None
        self._services: Services | None = None
        self.links: list[WorkerLink] = []

    @property
    def manager(self) -> CallManager:
        assert self._manager is not None, "the engine has not been started"
        return self._manager

    @property
    def services(self) -> Services:
        """What calls are made of: store, prompts, media pool. Once the engine has started."""
        assert self._services is not None, "the engine has not been started"
        return self._services

    @property
    def answers_somebody(self) -> bool:
        """Whether any number has an app."""
        return self._default is not None or bool(self._number_rows)

    async def start(self) -> None:
        """Returns when calls are accepted. Raises `ConfigError`, `StoreError`; nothing stays open then."""
        try:
            await self._start()
        except BaseException:
            await self._exits.aclose()
            raise

    async def stop(self, drain_seconds: float = 0.0) -> int:
        """Refuse new calls, let live ones finish for so long, end the rest, close everything.

        Returns how many calls had to be ended.
        """
        ended = await self.manager.drain(drain_seconds) if self._manager is not None else 0
        if self._endpoint is not None:
            await self._endpoint.settle(SETTLE_SECONDS)
        await self._exits.aclose()
        return ended

    # --- starting, in order ----------------------------------------------------------------------------------

    async def _start(self) -> None:
        folder = self.config.folder
        await asyncio.to_thread(make_folder, folder)
        self._exits.callback(lock_folder(folder).close)
        store = await Store.open(folder / DATABASE, self._clock)
        self._exits.push_async_callback(store.close)
        self.account = await load_account(store, self._ids)
        services = self._services = await self._make_services(store, folder)
        await store.recover(self._callbacks_of_recovered)
        self._default = await asyncio.to_thread(self._default_route)
        await self._load_numbers(store)
        self._manager = CallManager(services, lambda: self._numbers, interpret, self._watchers)
        services.outbox.start()
        self._exits.push_async_callback(services.outbox.stop, OUTBOX_DRAIN_SECONDS)
        sip_stack = await self._open_sip()
        await self._open_http(EngineCollector(sip_stack, services.pool, lambda: self.manager.call_count))
        self._spawn(self._follow_numbers(store))
        if self.config.calls.keep_days:
            self._spawn(self._forget_old_calls(store))

    async def _make_services(self, store: Store, folder: Path) -> Services:
        client = WebhookClient(self.account.token, self._ids)
        self._exits.push_async_callback(client.aclose)
        threads = ThreadPoolExecutor(callback.THREADS, "callback")
        self._exits.callback(threads.shutdown, wait=False, cancel_futures=True)
        prompts = await self._open_prompts(folder / PROMPTS)
        # No proxies from the environment, and no cookies: one app's must never reach another's server.
        no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
        http = httpx.AsyncClient(trust_env=False, cookies=no_cookies)
        self._exits.push_async_callback(http.aclose)
        sounds = MediaFetcher(prompts, http, allow_files=True)  # `Instructions.sound` says which document may
        self._exits.push_async_callback(sounds.close)
        pool = await self._open_media()
        return Services(
            clock=self._clock,
            ids=self._ids,
            account=self.account,
            store=store,
            outbox=Outbox(store, client, self._clock, ids=self._ids),
            pool=pool,
            sources=Sources(client, threads, self._callbacks),
            prompts=prompts,
            sounds=sounds,
            address_of=lambda host: self.config.sip.external_host or reachable_host(host),
            media_timeout=self.config.rtp.timeout,
            max_call_seconds=self.config.calls.max_seconds,
        )

    async def _open_prompts(self, folder: Path) -> PromptCache:
        synthesizer = Synthesizers([self._synthesizer(name) for name in self.config.speech.engines])
        self._exits.push_async_callback(synthesizer.close)
        size = self.config.speech.cache_megabytes << 20
        prompts = await asyncio.to_thread(PromptCache, folder, size, synthesizer)
        self._exits.push_async_callback(prompts.close)
        return prompts

    def _synthesizer(self, name: str) -> Synthesizer:
        return EspeakSynthesizer(self.config.speech.processes) if name == "espeak" else Pyttsx3Synthesizer()

    async def _open_media(self) -> MediaPool:
        ranges = split_ports(*self.config.rtp_range, self.config.worker_count)
        self.links = [
            WorkerLink(str(number), *ports, realtime=self.config.rtp.realtime)
            for number, ports in enumerate(ranges)
        ]
        pool = MediaPool(self.links)
        for link in self.links:
            await link.start()
            self._exits.push_async_callback(link.stop)
        return pool

    async def _open_sip(self) -> Stack:
        endpoint = self._endpoint = UdpEndpoint(self._clock)
        stack = Stack(self._ids, send=endpoint.send, emit=self._on_sip, trace=self._trace)
        endpoint.attach(stack)
        self._exits.callback(endpoint.close)
        for listen in self.config.sip.listen:
            host, port = parse_listen(listen)
            self.sip_addresses.append(await endpoint.open(host, port, self.config.sip.external_host))
        return stack

    async def _open_http(self, collector: EngineCollector) -> None:
        app = build_app(self._health, lambda: render(collector))
        self.http = HttpServer(app, *parse_listen(self.config.http.listen))
        await self.http.start()
        self._exits.push_async_callback(self.http.stop)

    async def _forget_old_calls(self, store: Store) -> None:
        while True:
            try:
                await store.prune(self._clock.now() - timedelta(days=self.config.calls.keep_days))
            except StoreError as error:
                log.warning("old calls could not be deleted", reason=str(error))
            await asyncio.sleep(PRUNE_SECONDS)

    # --- numbers ---------------------------------------------------------------------------------------------

    async def _load_numbers(self, store: Store) -> None:
        """The table from file and database; built again only when it changed, in a thread: a callback's module may
        take its time to import. A bad row costs that row."""
        rows = merged([each.row() for each in self.config.numbers], await store.numbers())
        if rows != self._number_rows:
            self._numbers = await asyncio.to_thread(self._build_numbers, rows)
            self._number_rows = rows

    def _build_numbers(self, rows: list[NumberRow]) -> Numbers:
        located = []
        for row in rows:
            try:
                located.append(self._located(row))
            except ConfigError as error:
                log.warning("a number is left out", number=row.pattern, reason=str(error))
        return Numbers(located, self._default)

    def _located(self, row: NumberRow) -> NumberRow:
        check_row(row)
        return replace(
            row,
            voice_url=self._locate(row.app or row.voice_url),
            fallback_url=fallback_url(row.fallback_url, callback.load, self._callbacks),
            app="",
        )

    async def _follow_numbers(self, store: Store) -> None:
        while True:
            await asyncio.sleep(NUMBERS_SECONDS)
            try:
                await self._load_numbers(store)
            except Exception as error:  # the database may be locked for a while; the table as it was stays
                log.warning("the numbers table could not be read", reason=str(error))

    def _default_route(self) -> Route | None:
        app = self.config.app
        if not app.voice_url:
            return None
        return Route(
            self._locate(app.voice_url),
            app.voice_method,
            fallback_url(app.fallback_url, callback.load, self._callbacks),
            app.fallback_method,
            app.status_callback,
            app.status_callback_method,
            app.status_callback_event,
        )

    def _locate(self, app: str) -> str:
        return source_url(app, callback.load, self._callbacks)

    # --- events ----------------------------------------------------------------------------------------------

    def _on_sip(self, event: sip.Event) -> None:
        self.manager.handle(event)

    def _trace(self, direction: str, message: Request | Response, flow: Flow, now: float) -> None:
        self.manager.trace(direction, message, flow, now)

    def _health(self) -> dict[str, object]:
        draining = self.manager.draining
        return {"status": "draining" if draining else "ok", "calls": self.manager.call_count}

    def _callbacks_of_recovered(self, row: CallRow) -> list[PendingCallback]:
        found = status_callback(row, "completed", self._clock.now(), row.next_sequence)
        return [found] if found is not None else []

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)

        async def cancel() -> None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        self._exits.push_async_callback(cancel)


def make_folder(folder: Path) -> None:
    """The data folder, readable by nobody else: it holds the account's token. Raises `ConfigError`."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the data folder {folder}: {error.strerror}") from error


def lock_folder(folder: Path) -> IO[str]:
    """One engine per data folder: a second would close the first one's live calls as failed."""
    try:
        handle = (folder / LOCK).open("w")
    except OSError as error:
        raise ConfigError(f"cannot write into the data folder {folder}: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        raise ConfigError(
            f"another engine is running on {folder}: stop it, or choose another folder with --data"
        ) from None
    return handle


async def load_account(store: Store, ids: Ids) -> Account:
    """The stored account; the environment's SID and token go before it."""
    stored = await store.account(ids)
    return Account(
        os.environ.get("SWITCHHOOK_ACCOUNT_SID") or stored.sid,
        os.environ.get("SWITCHHOOK_AUTH_TOKEN") or stored.token,
    )
