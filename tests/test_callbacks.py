"""The outbox: order per call, backoff, giving up, restart; in a time that the tests own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from urllib.parse import parse_qs

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.callbacks import MAX_ATTEMPTS, MAX_CONCURRENT, Delivery, Outbox, backoff, wait_for
from engine.ids import RandomIds, SeededIds
from engine.store import OutboxItem, PendingCallback, Store
from engine.webhook import WebhookClient

START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


class FakeClock:
    """Time that passes only when the outbox waits."""

    def __init__(self) -> None:
        self.elapsed = 0.0

    def monotonic(self) -> float:
        return self.elapsed

    def now(self) -> datetime:
        return START + timedelta(seconds=self.elapsed)


class App:
    """An app, the store behind it and an outbox between; `answer` decides by call and sequence."""

    def __init__(self, answer: Callable[[str, int], int | Exception], path: Path | None = None) -> None:
        self.clock = FakeClock()
        self.answer = answer
        self.path = path
        self.got: list[tuple[str, int]] = []
        self.times: list[float] = []
        self.tokens: list[str] = []
        self.deliveries: list[Delivery] = []
        self.held: asyncio.Event | None = None
        self.most_at_once = self.at_once = 0
        self.quiet = asyncio.Event()
        self.progress = asyncio.Event()

    async def handle(self, request: httpx.Request) -> httpx.Response:
        form = parse_qs(request.content.decode())
        key = form["CallSid"][0], int(form["SequenceNumber"][0])
        self.got.append(key)
        self.progress.set()
        self.times.append(self.clock.elapsed)
        self.tokens.append(request.headers["i-twilio-idempotency-token"])
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            answer = self.answer(*key)
            if self.held is not None and answer == 0:
                await self.held.wait()
            if isinstance(answer, Exception):
                raise answer
            return httpx.Response(answer or 200)
        finally:
            self.at_once -= 1

    def delivered(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        self.progress.set()

    async def until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not reached():
                self.progress.clear()
                await self.progress.wait()

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        """The outbox has nothing to do: let time pass to what is next, or say that all is done."""
        if seconds is None or self.outbox.in_flight:
            if not self.outbox.in_flight and not event.is_set():
                self.quiet.set()
            await event.wait()
        elif not event.is_set():
            self.clock.elapsed += seconds

    async def sleep(self, seconds: float) -> None:
        self.clock.elapsed += seconds

    async def open(self) -> None:
        self.store = await Store.open(self.path, self.clock)
        client = WebhookClient("12345", SeededIds(), transport=httpx.MockTransport(self.handle))
        self.outbox = Outbox(
            self.store, client, self.clock, ids=SeededIds(), on_delivered=self.delivered,
            wait=self.wait, sleep=self.sleep,
        )  # fmt: skip

    async def put(self, *keys: tuple[str, int]) -> None:
        await self.store.enqueue([pending(*key) for key in keys])

    async def run(self) -> None:
        """Until nothing is left to deliver."""
        self.outbox.start()
        async with asyncio.timeout(30):
            await self.quiet.wait()

    async def close(self) -> None:
        await self.outbox.stop(5.0)
        await self.store.close()


def pending(call_sid: str, sequence: int, due_at: datetime = START) -> PendingCallback:
    params = (("CallSid", call_sid), ("SequenceNumber", str(sequence)))
    return PendingCallback(call_sid, sequence, "http://app.test/status#rc=0", "POST", params, due_at)


async def test_callbacks_leave_in_order_per_call() -> None:
    app = App(lambda call, sequence: 204)
    await app.open()
    keys = [(call, sequence) for sequence in range(5) for call in ("CA1", "CA2", "CA3")]
    await app.put(*keys)
    await app.run()
    for call in ("CA1", "CA2", "CA3"):
        assert [sequence for sid, sequence in app.got if sid == call] == list(range(5))
        assert {item.state for item in await app.store.callbacks(call)} == {"delivered"}
    assert len(app.got) == len(app.deliveries) == 15
    await app.close()


async def test_a_failing_callback_holds_back_its_own_call_only() -> None:
    failures: Iterator[int | Exception] = iter([httpx.ConnectError("down"), 503, httpx.ReadTimeout("slow")])
    app = App(lambda call, sequence: next(failures, 200) if (call, sequence) == ("CA1", 0) else 200)
    await app.open()
    await app.put(("CA1", 0), ("CA1", 1), ("CA2", 0), ("CA2", 1))
    await app.run()
    assert app.got.index(("CA2", 1)) < app.got.index(("CA1", 1))
    assert [key for key in app.got if key[0] == "CA1"] == [("CA1", 0)] * 4 + [("CA1", 1)]
    mine = [time for key, time in zip(app.got, app.times, strict=True) if key == ("CA1", 0)]
    waits = [round(later - earlier, 3) for earlier, later in pairwise(mine)]
    assert all(base <= wait <= base * 1.25 for base, wait in zip((1, 2, 4), waits, strict=True)), waits
    tokens = [token for key, token in zip(app.got, app.tokens, strict=True) if key == ("CA1", 0)]
    assert len(set(tokens)) == 1
    assert [delivery.outcome for delivery in app.deliveries if delivery.item.call_sid == "CA1"] == [
        "retry", "retry", "retry", "delivered", "delivered",
    ]  # fmt: skip
    await app.close()


async def test_a_refusal_is_final_and_the_next_goes_on() -> None:
    app = App(lambda call, sequence: 404 if sequence == 0 else 200)
    await app.open()
    await app.put(("CA1", 0), ("CA1", 1))
    await app.run()
    assert app.got == [("CA1", 0), ("CA1", 1)]
    assert [(d.outcome, d.status, d.code) for d in app.deliveries] == [
        ("refused", 404, 15003),
        ("delivered", 200, None),
    ]
    first, second = await app.store.callbacks("CA1")
    assert (first.state, first.last_error) == ("failed", "15003 (HTTP 404)")
    assert second.state == "delivered"
    await app.close()


async def test_an_unusable_url_is_final() -> None:
    app = App(lambda call, sequence: 200)
    await app.open()
    await app.store.enqueue([PendingCallback("CA1", 0, "nowhere", "POST", (), START)])
    await app.run()
    assert [(d.outcome, d.status, d.code) for d in app.deliveries] == [("refused", None, 11100)]
    await app.close()


async def test_a_dead_app_is_given_up_after_a_day() -> None:
    app = App(lambda call, sequence: 500)
    await app.open()
    await app.put(("CA1", 0))
    await app.run()
    assert app.deliveries[-1].outcome == "given-up"
    assert [delivery.outcome for delivery in app.deliveries[:-1]] == ["retry"] * (len(app.got) - 1)
    assert 24 * 3600 <= app.times[-1] <= 24 * 3600 + 300 or len(app.got) == MAX_ATTEMPTS
    assert 250 < len(app.got) <= MAX_ATTEMPTS
    (item,) = await app.store.callbacks("CA1")
    assert (item.state, item.attempts) == ("failed", len(app.got))
    await app.close()


async def test_what_an_earlier_process_left_is_delivered(tmp_path: Path) -> None:
    path = tmp_path / "calls.db"
    first = App(lambda call, sequence: httpx.ConnectError("down"), path)
    await first.open()
    await first.put(("CA1", 0), ("CA1", 1))
    first.outbox.start()
    await first.until(lambda: len(first.deliveries) >= 2)
    await first.outbox.stop(0.0)
    await first.store.close()

    second = App(lambda call, sequence: 200, path)
    second.clock.elapsed = first.clock.elapsed
    await second.open()
    await second.run()
    assert second.got == [("CA1", 0), ("CA1", 1)]
    assert second.tokens[0] == first.tokens[0]
    assert second.deliveries[0].item.attempts == len(first.got)
    await second.close()


async def test_deliveries_at_once_are_bounded_and_a_slow_one_delays_no_other_call() -> None:
    app = App(lambda call, sequence: 0 if call == "CA0" else 200)
    app.held = asyncio.Event()
    await app.open()
    await app.put(
        *((f"CA{number}", sequence) for number in range(3 * MAX_CONCURRENT) for sequence in range(2))
    )
    app.outbox.start()
    await app.until(lambda: len(app.deliveries) == 6 * MAX_CONCURRENT - 2)
    assert ("CA0", 1) not in app.got
    app.held.set()
    async with asyncio.timeout(30):
        await app.quiet.wait()
    assert app.got[-1] == ("CA0", 1)
    assert 1 < app.most_at_once <= MAX_CONCURRENT
    await app.close()


async def test_notify_wakes_a_waiting_outbox() -> None:
    app = App(lambda call, sequence: 200)
    await app.open()
    await app.run()
    await app.put(("CA1", 0))
    app.quiet.clear()
    app.outbox.notify()
    async with asyncio.timeout(30):
        await app.quiet.wait()
    assert app.got == [("CA1", 0)]
    await app.close()


async def test_what_is_enqueued_leaves_without_a_notify() -> None:
    app = App(lambda call, sequence: 200)
    await app.open()
    await app.run()
    await app.put(("CA1", 0))
    await app.until(lambda: len(app.deliveries) == 1)
    assert app.got == [("CA1", 0)]
    await app.close()


@pytest.mark.parametrize("seconds", [None, 3600.0])
async def test_the_outbox_looks_in_time_at_what_nobody_told_it(
    seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.callbacks.MAX_WAIT_S", 0.001)
    event = asyncio.Event()
    async with asyncio.timeout(30):
        await wait_for(event, seconds)
    assert not event.is_set()


async def test_stopping_drains_what_is_due_and_leaves_the_rest() -> None:
    app = App(lambda call, sequence: 500 if call == "CA2" else 200)
    await app.open()
    app.outbox.start()
    await app.put(("CA1", 0), ("CA1", 1), ("CA2", 0), ("CA2", 1))
    await app.store.enqueue([pending("CA3", 0, START + timedelta(hours=1))])
    await app.outbox.stop(5.0)
    await app.outbox.stop(5.0)
    assert sorted(app.got) == [("CA1", 0), ("CA1", 1), ("CA2", 0)]
    assert [(item.call_sid, item.sequence) for item in await app.store.callback_heads(9)] == [
        ("CA2", 0),
        ("CA3", 0),
    ]
    await app.store.close()


async def test_stopping_does_not_wait_longer_than_told() -> None:
    app = App(lambda call, sequence: 0)
    app.held = asyncio.Event()
    await app.open()
    await app.put(("CA1", 0))
    app.outbox.start()
    await app.until(lambda: bool(app.got))
    async with asyncio.timeout(30):
        await app.outbox.stop(0.01)
    assert (await app.store.callbacks("CA1"))[0].state == "pending"
    assert app.outbox.in_flight == 0
    await app.store.close()


async def test_a_listener_that_fails_stops_nothing() -> None:
    app = App(lambda call, sequence: 200)
    await app.open()

    def broken(delivery: Delivery) -> None:
        raise RuntimeError(delivery.item.id)

    app.outbox._on_delivered = broken
    await app.put(("CA1", 0), ("CA1", 1))
    await app.run()
    assert app.got == [("CA1", 0), ("CA1", 1)]
    await app.close()


@given(st.integers(1, 10_000))
def test_backoff_grows_to_five_minutes(attempts: int) -> None:
    seconds = backoff(attempts, RandomIds())
    assert min(2.0 ** min(attempts - 1, 20), 300.0) <= seconds <= 300.0
    if attempts < 9:
        assert seconds <= 2.0 ** (attempts - 1) * 1.25


async def test_a_delivery_that_ends_while_the_outbox_reads_is_not_sent_again() -> None:
    app = App(lambda call, sequence: 0)
    app.held = asyncio.Event()
    await app.open()
    read = app.store.callback_heads
    reads = 0

    async def slow_read(limit: int) -> list[OutboxItem]:
        nonlocal reads
        heads = await read(limit)
        reads += 1
        if (
            reads == 2
        ):  # the delivery under way ends, and is recorded, between our reading and its being looked at
            assert app.held is not None
            app.held.set()
            await app.until(lambda: bool(app.deliveries) and not app.outbox.in_flight)
        return heads

    app.store.callback_heads = slow_read  # type: ignore[method-assign]
    await app.put(("CA1", 0))
    app.outbox.start()
    await app.until(lambda: bool(app.got))
    app.outbox.notify()
    async with asyncio.timeout(30):
        await app.quiet.wait()
    await app.outbox.stop(1.0)
    await app.store.close()
    assert reads >= 2
    assert app.got == [("CA1", 0)]
