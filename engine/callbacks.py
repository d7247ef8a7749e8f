"""The outbox's dispatcher: status callbacks leave in order per call, are tried until the app has them, and
survive a restart, because what is still due stands in the database and not in memory.

Delivery is at least once: a process that dies between the app's answer and the note of it asks again, with the
same idempotency token.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import structlog

from engine.clock import Clock
from engine.ids import Ids, RandomIds
from engine.store import OutboxItem, Store, StoreError
from engine.webhook import WebhookClient, WebhookError, WebhookSession

MAX_CONCURRENT = (
    64  # deliveries at once: enough for a busy hour, few enough that a dead app cannot take all sockets
)
FIRST_RETRY_S = 1.0
LAST_RETRY_S = 300.0  # five minutes: an app that comes back is up to date soon, one that is gone costs little
MAX_ATTEMPTS = 300  # about what 24 hours at five minutes allow
MAX_AGE = timedelta(hours=24)
# Due times are wall clock, and another program may write to the outbox: this is how late a callback can be then.
MAX_WAIT_S = 60.0
STORE_RETRY_S = 1.0
CALLBACK_REFUSED = 15003  # the app answered a status callback with 4xx or 5xx

# Failures of the setting and not of the moment: the same URL fails the same way for ever.
_PERMANENT_CODES = frozenset({11100, 11215, 11216, 11217, 11243})

log = structlog.get_logger(__name__)
Outcome = Literal["delivered", "retry", "refused", "given-up"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one attempt came to: `code` is the error dictionary's, None for a delivered callback.

    `outcome` is delivered, retry, refused (4xx or an unusable URL: final) or given-up (too old, too often).
    """

    item: OutboxItem
    outcome: Outcome
    status: int | None
    code: int | None


async def wait_for(event: asyncio.Event, seconds: float | None) -> None:
    """Until the event is set or the time is over, `MAX_WAIT_S` at most (None: just that)."""
    with suppress(TimeoutError):
        async with asyncio.timeout(MAX_WAIT_S if seconds is None else min(seconds, MAX_WAIT_S)):
            await event.wait()


def backoff(attempts: int, ids: Ids) -> float:
    """Seconds to wait after this many failed attempts: 1 s doubling to 5 min, up to a quarter more by chance.

    The chance spreads what failed together, so that an app that comes up is not hit by all of it at once.
    """
    base = min(FIRST_RETRY_S * 2.0 ** min(attempts - 1, 32), LAST_RETRY_S)
    return min(base * (1 + ids.number(16) / 2**18), LAST_RETRY_S)


def idempotency_token(item: OutboxItem) -> str:
    """The same for every attempt at one callback, also by a later process."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{item.call_sid}/{item.id}"))


class Outbox:
    """Delivers the store's pending callbacks. A failing one holds back only the later ones of its own call.

    `on_delivered` is called after each attempt once its result is stored. `wait` and `sleep` stand for time
    in tests.
    """

    def __init__(
        self,
        store: Store,
        client: WebhookClient,
        clock: Clock,
        *,
        ids: Ids | None = None,
        on_delivered: Callable[[Delivery], None] | None = None,
        wait: Callable[[asyncio.Event, float | None], Awaitable[None]] = wait_for,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._client = client
        self._clock = clock
        self._ids = ids or RandomIds()
        self._on_delivered = on_delivered
        self._wait = wait
        self._sleep = sleep
        self._wake = asyncio.Event()
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._dispatcher: asyncio.Task[None] | None = None

    @property
    def in_flight(self) -> int:
        """Deliveries under way."""
        return len(self._busy)

    def start(self) -> None:
        """Begin delivering, first what an earlier process left behind; from now on the store tells what is new."""
        self._store.on_enqueued = self.notify
        self._dispatcher = asyncio.create_task(self._run(), name="outbox")

    def notify(self) -> None:
        """Look at once. The store does this after every commit that enqueued callbacks."""
        self._wake.set()

    async def stop(self, drain_seconds: float) -> None:
        """Deliver what is due for up to `drain_seconds`, then end; the rest waits in the store. Idempotent."""
        if self._dispatcher is None:
            return
        dispatcher, self._dispatcher = self._dispatcher, None
        await _cancel([dispatcher])
        with suppress(TimeoutError, StoreError):
            async with asyncio.timeout(drain_seconds):
                await self._drain()
        await _cancel(list(self._busy.values()))
        self._busy.clear()  # a task cancelled before its first step has not taken itself out

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                delay = await self._dispatch()
            except StoreError as error:
                log.error("callbacks are waiting for the database", error=str(error))
                await self._sleep(STORE_RETRY_S)
                continue
            await self._wait(self._wake, delay)

    async def _drain(self) -> None:
        self._wake.set()
        while (
            self._busy or self._wake.is_set()
        ):  # each delivery that ends sets it: its call may have a next one
            self._wake.clear()
            await self._dispatch()
            if self._busy:
                await asyncio.wait(self._busy.values(), return_when=asyncio.FIRST_COMPLETED)

    async def _dispatch(self) -> float | None:
        """Start what is due and has room; return how long until the next is due, None if nothing is timed."""
        # a call under way still shows its head, so as many more are read as there are calls under way
        under_way = set(
            self._busy
        )  # ends that come while we read leave their head in it: it was sent already
        heads = await self._store.callback_heads(MAX_CONCURRENT + len(under_way) + 1)
        now = self._clock.now()
        for item in heads:
            if item.call_sid in under_way:
                continue
            if item.due_at > now:
                return (item.due_at - now).total_seconds()
            if len(self._busy) >= MAX_CONCURRENT:
                return None  # the next to finish wakes us
            self._busy[item.call_sid] = asyncio.create_task(self._deliver(item), name=f"callback {item.id}")
        return None

    async def _deliver(self, item: OutboxItem) -> None:
        try:
            delivery = await self._attempt(item)
            await self._record(delivery)
            self._tell(delivery)
        except Exception:
            log.exception("callback failed inside the engine", call_sid=item.call_sid, callback=item.id)
            await self._sleep(LAST_RETRY_S)  # a fault of ours must not become a loop that floods the app
        finally:
            self._busy.pop(item.call_sid, None)
            self._wake.set()

    def _tell(self, delivery: Delivery) -> None:
        if self._on_delivered is None:
            return
        try:
            self._on_delivered(delivery)
        except Exception:
            log.exception("the listener for deliveries failed", call_sid=delivery.item.call_sid)

    async def _attempt(self, item: OutboxItem) -> Delivery:
        token = idempotency_token(item)
        try:
            reply = await self._client.fetch(
                WebhookSession(), item.url, item.method, item.params, idempotency_token=token
            )
        except WebhookError as error:
            return self._failed(item, error)
        return Delivery(item, "delivered", reply.status, None)

    def _failed(self, item: OutboxItem, error: WebhookError) -> Delivery:
        status = error.status
        if status is not None and 200 <= status < 300:
            return Delivery(
                item, "delivered", status, None
            )  # the app has it; what it wrote back matters to nobody
        code = CALLBACK_REFUSED if status is not None and status >= 400 else error.code
        refused = error.code in _PERMANENT_CODES or (status is not None and 400 <= status < 500)
        outcome: Outcome = "refused" if refused else "given-up" if self._is_spent(item) else "retry"
        log.warning(
            "callback not delivered", call_sid=item.call_sid, sequence=item.sequence, outcome=outcome,
            code=code, reason=error.message, attempt=item.attempts + 1,
        )  # fmt: skip
        return Delivery(item, outcome, status, code)

    def _is_spent(self, item: OutboxItem) -> bool:
        return item.attempts + 1 >= MAX_ATTEMPTS or self._clock.now() - item.created_at >= MAX_AGE

    async def _record(self, delivery: Delivery) -> None:
        """Store the result. Until that works the call is held, or the app would be sent the same again."""
        while True:
            try:
                return await self._record_once(delivery)
            except StoreError as error:
                log.error("the result of a callback is not stored yet", error=str(error))
                await self._sleep(STORE_RETRY_S)

    async def _record_once(self, delivery: Delivery) -> None:
        item = delivery.item
        error = f"{delivery.code} (HTTP {delivery.status})" if delivery.status else f"{delivery.code}"
        if delivery.outcome == "delivered":
            await self._store.callback_delivered(item.id)
        elif delivery.outcome == "retry":
            delay = timedelta(seconds=backoff(item.attempts + 1, self._ids))
            await self._store.callback_retry(item.id, self._clock.now() + delay, error)
        else:
            await self._store.callback_failed(item.id, error)


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
