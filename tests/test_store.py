"""The store on real SQLite files: what was awaited is there, whatever happens to the process."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.ids import RandomIds, SeededIds
from engine.schema import MAX_END_REASON, MIGRATIONS
from engine.store import _EXPIRED, _HEADS, MAX_NOTES, CallRow, NumberRow, PendingCallback, Store, StoreError
from engine.writer import MAX_COUNTED_CALLS, MAX_NOTE_BYTES, MAX_NOTES_PER_CALL, NoteShaper, note_json

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class FixedClock:
    def monotonic(self) -> float:
        return 0.0

    def now(self) -> datetime:
        return NOW


def call(number: int, **changes: object) -> CallRow:
    row = CallRow(
        sid=f"CA{number:032x}",
        account_sid="AC" + "0" * 32,
        from_="+15551230001",
        to="+15551230002",
        direction="inbound",
        status="ringing",
        created_at=NOW + timedelta(seconds=number),
    )
    return replace(row, **changes)  # type: ignore[arg-type]


def callback(row: CallRow, sequence: int, due_at: datetime = NOW) -> PendingCallback:
    params = (("CallSid", row.sid), ("SequenceNumber", str(sequence)))
    return PendingCallback(row.sid, sequence, "http://app/status", "POST", params, due_at)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(tmp_path / "db" / "calls.db", FixedClock())
    yield opened
    await opened.close()


@pytest.fixture
async def memory() -> AsyncIterator[Store]:
    opened = await Store.open(None, FixedClock())
    yield opened
    await opened.close()


async def test_a_call_is_read_back_as_written(store: Store) -> None:
    row = call(
        1,
        answered_at=NOW,
        quality={"loss": 0.01, "rtt": {"in": 20}},
        status_callback_event=("answered",),
        sip_status=200,
    )
    await store.insert_call(row)
    assert await store.call(row.sid) == row
    assert await store.call("CAnone") is None


async def test_an_update_changes_the_named_fields_only(store: Store) -> None:
    row = call(1)
    await store.insert_call(row)
    ended = NOW + timedelta(minutes=1, microseconds=5)
    await store.update_call(
        row.sid, {"status": "completed", "ended_at": ended, "duration": 60, "from_": "sip:a@b"}
    )
    assert await store.call(row.sid) == replace(
        row, status="completed", ended_at=ended, duration=60, from_="sip:a@b"
    )


async def test_an_unknown_field_is_refused_before_it_is_sql(store: Store) -> None:
    with pytest.raises(ValueError, match="status = 'x' --"):
        await store.update_call("CA1", {"status = 'x' --": 1})


async def test_a_failed_update_takes_its_callbacks_back(store: Store) -> None:
    row = call(1)
    with pytest.raises(StoreError, match="no call"):
        await store.update_call(row.sid, {"status": "busy"}, [callback(row, 0)])
    with pytest.raises(StoreError, match="refused"):
        await store.insert_call(call(2, parent_sid="CAnobody"), [callback(call(2), 0)])
    assert await store.callback_heads(10) == []
    assert await store.call(call(2).sid) is None


@pytest.mark.parametrize("kind", ["file", "memory"])
async def test_writes_that_wait_together_share_commits_and_fail_alone(
    kind: str, store: Store, memory: Store
) -> None:
    used = store if kind == "file" else memory
    before = used.commits
    rows = [call(n) for n in range(200)]
    rows[77] = rows[76]  # the same SID twice
    results = await asyncio.gather(*(used.insert_call(row) for row in rows), return_exceptions=True)
    assert [n for n, result in enumerate(results) if result is not None] == [77]
    assert isinstance(results[77], StoreError)
    assert (
        kind == "memory" or used.commits - before < 20
    )  # in memory there is no disk whose sync is worth sharing
    assert len(await used.calls(1000)) == 199


async def test_a_lost_transaction_fails_only_the_write_that_lost_it(store: Store) -> None:
    def rollback(db: object) -> None:
        db.execute("ROLLBACK")  # type: ignore[attr-defined]  # what SQLite does by itself when the disk is full
        raise sqlite3.OperationalError("database or disk is full")

    good = [store.insert_call(call(n)) for n in range(3)]
    results = await asyncio.gather(good[0], good[1], store._write(rollback), good[2], return_exceptions=True)
    assert [isinstance(result, StoreError) for result in results] == [False, False, True, False]
    assert len(await store.calls()) == 3


async def test_a_full_disk_is_said_plainly_and_does_not_stop_the_queue(store: Store) -> None:
    await store._write(lambda db: db.execute("PRAGMA max_page_count = 1"))  # clamped to the present size
    writes = (store.insert_call(call(number, end_reason="x" * 2000)) for number in range(100))
    results = await asyncio.gather(*writes, return_exceptions=True)
    refused = [result for result in results if result is not None]
    assert refused
    assert all(isinstance(result, StoreError) and "disk is full" in str(result) for result in refused)
    assert len(await store.calls(1000)) == 100 - len(refused)
    await store._write(lambda db: db.execute("PRAGMA max_page_count = 1000000"))
    await store.insert_call(call(500))
    assert (await store.call(call(500).sid)) == call(500)


async def test_a_locked_database_is_said_plainly(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "calls.db", FixedClock(), busy_timeout=0.0)
    other = sqlite3.connect(tmp_path / "calls.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store.note(call(1).sid, 0.0, "ring", {})
    with pytest.raises(StoreError, match="locked by another program"):
        await store.insert_call(call(1))
    other.execute("ROLLBACK")
    other.close()
    await store.insert_call(call(1))
    assert await store.call(call(1).sid) == call(1)
    assert [note.kind for note in await store.timeline(call(1).sid)] == [
        "ring"
    ]  # kept through the failure, once
    await store.close()


async def test_calls_are_listed_newest_first_and_paged(store: Store) -> None:
    for number in range(7):
        await store.insert_call(call(number, status="busy" if number % 2 else "completed"))
    first = await store.calls(3)
    second = await store.calls(3, before=first[-1].sid)
    assert [row.sid for row in first + second] == [call(n).sid for n in (6, 5, 4, 3, 2, 1)]
    assert [row.sid for row in await store.calls(status="busy")] == [call(n).sid for n in (5, 3, 1)]
    between = await store.calls(
        created_after=NOW + timedelta(seconds=2), created_before=NOW + timedelta(seconds=4)
    )
    assert [row.sid for row in between] == [call(3).sid, call(2).sid]
    assert await store.calls(-1) == []


async def test_notes_come_with_the_end_of_their_call(tmp_path: Path) -> None:
    path = tmp_path / "calls.db"
    store = await Store.open(path, FixedClock())
    row = call(1)
    await store.insert_call(row)
    for number in range(5):
        store.note(row.sid, number / 10, "digit", {"digit": str(number), "at": NOW})
    await store.update_call(row.sid, {"status": "completed"})
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT count(*) FROM timeline").fetchone() == (5,)
    other.close()
    notes = await store.timeline(row.sid)
    assert [note.data["digit"] for note in notes] == ["0", "1", "2", "3", "4"]
    assert notes[3].at_offset_s == 0.3
    store.note(row.sid, 9.0, "hangup", {})
    await store.close()
    again = await Store.open(path, FixedClock())
    assert (await again.timeline(row.sid))[-1].kind == "hangup"
    await again.close()


async def test_notes_are_written_by_themselves_in_time(store: Store) -> None:
    store.note("CA1", 0.0, "ring", {})
    before = store.commits
    async with asyncio.timeout(10):
        while store.commits == before:
            await store.numbers()  # only reads: nothing else makes the writer commit
    assert store._writer.notes == type(store._writer.notes)()


async def test_too_many_and_unstorable_notes_are_counted(memory: Store) -> None:
    nested: list[object] = []
    for _ in range(10_000):
        nested = [nested]
    memory.note("CA1", 0.0, "big", {"many": [0] * MAX_NOTE_BYTES})
    memory.note("CA1", 0.0, "odd \udcff", {})
    memory.note("CA1", float("nan"), "odd", {})
    memory.note("CA1", float("inf"), "odd", {})
    memory.note("CA1", 0.0, "deep", {"x": nested})
    assert memory.notes_dropped == 5

    def fill(_db: object) -> None:  # in the writer's thread, so that it cannot empty the buffer meanwhile
        for number in range(MAX_NOTES + 3):
            memory.note(f"CB{number % 10}", float(number), "digit", {})

    await memory._write(fill)
    assert memory.notes_dropped == 8
    assert sum([len(await memory.timeline(f"CB{number}")) for number in range(10)]) == MAX_NOTES


async def test_a_large_note_keeps_its_short_texts_and_both_ends_of_the_long_one(memory: Store) -> None:
    traceback = "first line\n" + "x" * 100_000 + "\nValueError: the cause"
    memory.note("CA1", 0.0, "error", {"code": 12400, "short": "whole", "args": [traceback]})
    (note,) = await memory.timeline("CA1")
    (text,) = note.data["args"]
    assert (note.data["code"], note.data["short"], memory.notes_dropped) == (12400, "whole", 0)
    head, left_out, tail = re.split(r"… (\d+) characters left out …", text)
    assert head.startswith("first line\nx")
    assert tail.endswith("x\nValueError: the cause")
    assert len(head) + int(left_out) + len(tail) == len(traceback)
    assert MAX_NOTE_BYTES // 2 < len(text) < MAX_NOTE_BYTES


@given(st.dictionaries(st.text(max_size=5), st.text() | st.lists(st.text()) | st.integers(0, 9), max_size=5))
def test_a_note_is_json_that_a_terminal_can_show(data: dict[str, object]) -> None:
    for value in (data, {"long": [data, "\x1b[31m" * MAX_NOTE_BYTES, "é" * MAX_NOTE_BYTES]}):
        text = note_json(value)
        assert len(text.encode()) <= MAX_NOTE_BYTES
        assert not CONTROLS.search(shown(json.loads(text)))


def shown(value: object) -> str:
    if isinstance(value, dict):
        return "".join(shown(key) + shown(item) for key, item in value.items())
    return "".join(map(shown, value)) if isinstance(value, list) else str(value)


async def test_escape_sequences_of_a_far_end_are_not_stored(memory: Store) -> None:
    memory.note("CA1", 0.0, "state", {"reason": "\x1b[31mred\x9b2J\x00\x7f\tof\nit\udcff", "\x07key": 1})
    (note,) = await memory.timeline("CA1")
    assert note.data == {"reason": "[31mred2J\tof\nit?", "key": 1}
    await memory.insert_call(call(1, end_reason="\x1b[31mred\r\nline"))
    assert (await memory.call(call(1).sid)).end_reason == "[31mred line"  # type: ignore[union-attr]
    await memory.update_call(call(1).sid, {"end_reason": "x" * 20_000})
    assert (await memory.call(call(1).sid)).end_reason == "x" * (MAX_END_REASON - 1) + "…"  # type: ignore[union-attr]


async def test_a_call_keeps_so_many_notes_and_says_so_until_it_ends(memory: Store) -> None:
    row = call(1)
    await memory.insert_call(row)
    for number in range(MAX_NOTES_PER_CALL + 10):
        memory.note(row.sid, float(number), "sip", {})
    memory.note("CA2", 0.0, "sip", {})
    notes = await memory.timeline(row.sid)
    assert [note.kind for note in notes] == ["sip"] * MAX_NOTES_PER_CALL + ["warning"]
    assert notes[-1].data["text"] == f"{MAX_NOTES_PER_CALL} notes are kept; the rest is left out"
    assert memory.notes_dropped == 9
    assert len(await memory.timeline("CA2")) == 1
    with pytest.raises(StoreError):
        await memory.update_call(row.sid, {"status": "completed", "parent_sid": "CAnobody"})
    memory.note(row.sid, 9999.0, "sip", {})
    assert memory.notes_dropped == 10  # the end was not stored, so the call still counts
    await memory.update_call(row.sid, {"status": "completed"})
    await asyncio.sleep(0)
    assert row.sid not in memory._shaper._counts


def test_the_calls_that_are_counted_are_bounded() -> None:
    shaper = NoteShaper()
    for number in range(MAX_COUNTED_CALLS + 5):
        shaper.shape("CA busy", 0.0, "sip", {})
        shaper.shape(f"CA{number}", 0.0, "sip", {})
    assert len(shaper._counts) == MAX_COUNTED_CALLS
    assert shaper.shape("CA busy", 0.0, "sip", {}) is None  # the busiest is not the one forgotten


async def test_callback_parameters_that_are_no_text_are_stored_as_sent(memory: Store) -> None:
    odd = replace(callback(call(1), 0), params=(("CallerName", "\udcff"),))
    await memory.enqueue([odd])
    assert (await memory.callback_heads(1))[0].params == (("CallerName", "?"),)


async def test_numbers(store: Store) -> None:
    await store.put_number(NumberRow("+1555", "prefix", voice_url="http://app/a"))
    await store.put_number(NumberRow("+1", "prefix", app="ivr:main"))
    await store.put_number(NumberRow("+1555", "prefix", voice_url="http://app/b", voice_method="GET"))
    assert await store.numbers() == [
        NumberRow("+1", "prefix", app="ivr:main"),
        NumberRow("+1555", "prefix", voice_url="http://app/b", voice_method="GET"),
    ]
    assert [await store.delete_number("+1"), await store.delete_number("+1")] == [True, False]


async def test_the_account_is_drawn_once_and_kept_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "calls.db"
    store = await Store.open(path, FixedClock())
    account = await store.account(RandomIds())
    assert account == await store.account(SeededIds())
    assert account.sid.startswith("AC")
    assert len(account.token) == 32
    assert account.token not in repr(account)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    files = list(path.parent.iterdir())
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert len(files) == 3  # the database, its WAL and its shared memory
    await store.close()
    again = await Store.open(path, FixedClock())
    assert await again.account(RandomIds()) == account
    await again.close()


def test_a_folder_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    async def use() -> None:
        await (await Store.open(tmp_path / "calls.db", FixedClock())).close()

    tmp_path.chmod(0o755)
    asyncio.run(use())
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


async def test_recovery_ends_the_living_and_enqueues_in_one_transaction(store: Store) -> None:
    await store.insert_call(call(1, status="in-progress"), [callback(call(1), n) for n in range(3)])
    await store.insert_call(call(2, status="completed"))
    await store.insert_call(call(3, status="queued"))
    seen: list[CallRow] = []

    def callbacks_for(row: CallRow) -> list[PendingCallback]:
        seen.append(row)
        return [callback(row, row.next_sequence)]

    ended = await store.recover(callbacks_for)
    assert ended == seen
    assert [(row.sid, row.status, row.ended_at, row.end_reason) for row in ended] == [
        (call(n).sid, "failed", NOW, "engine restarted") for n in (1, 3)
    ]
    assert [item.sequence for item in await store.callbacks(call(1).sid)] == [0, 1, 2, 3]
    assert [item.sequence for item in await store.callbacks(call(3).sid)] == [0]
    assert await store.recover(callbacks_for) == []


async def test_a_failing_recovery_changes_nothing(store: Store) -> None:
    await store.insert_call(call(1))

    def fails(row: CallRow) -> list[PendingCallback]:
        raise LookupError(row.sid)

    with pytest.raises(LookupError):
        await store.recover(fails)
    assert await store.call(call(1).sid) == call(1)


async def test_the_outbox_shows_one_callback_per_call(store: Store) -> None:
    late = NOW + timedelta(hours=1)
    await store.insert_call(call(1), [callback(call(1), 0, late), callback(call(1), 1)])
    await store.insert_call(call(2), [callback(call(2), 0)])
    heads = await store.callback_heads(10)
    assert [(item.call_sid, item.sequence) for item in heads] == [(call(2).sid, 0), (call(1).sid, 0)]
    assert heads[0].params == callback(call(2), 0).params
    await store.callback_retry(heads[0].id, late + timedelta(hours=1), "11202")
    await store.callback_delivered(heads[1].id)
    after = await store.callback_heads(10)
    assert [(item.call_sid, item.sequence, item.attempts) for item in after] == [
        (call(1).sid, 1, 0),
        (call(2).sid, 0, 1),
    ]
    await store.callback_failed(after[1].id, "15003")
    assert [(i.state, i.attempts, i.last_error) for i in await store.callbacks(call(2).sid)] == [
        ("failed", 2, "15003")
    ]


async def test_heads_are_found_at_once_among_very_many(store: Store) -> None:
    for start in range(0, 20_000, 5000):
        rows = [call(number) for number in range(start, start + 5000)]
        await store.enqueue([callback(row, sequence) for row in rows for sequence in range(2)])
    plan = await store._read(lambda db: db.execute(f"EXPLAIN QUERY PLAN {_HEADS}", [65]).fetchall())
    assert [row[3] for row in plan] == ["SCAN outbox USING INDEX outbox_heads_due"]
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    await store._read(lambda db: db.conn.set_progress_handler(count, 1000))
    assert len(await store.callback_heads(65)) == 65
    assert steps <= 5  # thousands of SQLite's instructions: 65 rows' worth, whatever is pending


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=30))
@settings(max_examples=50, deadline=None)
def test_the_head_is_the_oldest_pending_whatever_happens(steps: list[tuple[int, int]]) -> None:
    async def run() -> None:
        store = await Store.open(None, FixedClock())
        for number, what in steps:
            sid = call(number).sid
            open_ = [item for item in await store.callbacks(sid) if item.state == "pending"]
            if what == 0 or not open_:
                await store.enqueue([callback(call(number), len(open_))] * 2)
            elif what == 1:
                await store.callback_delivered(open_[-1].id)  # also one that is not the head
            elif what == 2:
                await store.callback_failed(open_[0].id, "15003")
            else:  # as an operator does in the sqlite3 shell
                await store._write(lambda db, sid=sid: db.execute(BY_HAND, [sid]))  # type: ignore[misc]
            oldest = await store._read(lambda db: {row[0] for row in db.execute(OLDEST)})
            assert {item.id for item in await store.callback_heads(10)} == oldest
        await store.close()

    asyncio.run(run())


BY_HAND = "UPDATE outbox SET state = 'pending' WHERE call_sid = ? AND state <> 'pending'"
OLDEST = "SELECT min(id) FROM outbox WHERE state = 'pending' GROUP BY call_sid"


async def test_a_deleted_head_leaves_the_next(memory: Store) -> None:
    await memory.enqueue([callback(call(1), sequence) for sequence in range(2)])
    await memory._write(lambda db: db.execute("DELETE FROM outbox WHERE sequence = 0"))
    assert [item.sequence for item in await memory.callback_heads(5)] == [1]


async def test_commits_that_enqueue_are_told(store: Store) -> None:
    told = 0

    def tell() -> None:
        nonlocal told
        told += 1

    async def tells(write: Coroutine[object, object, object]) -> int:
        before = told
        await write
        await asyncio.sleep(0)
        return told - before

    store.on_enqueued = tell
    row = call(1)
    assert await tells(store.insert_call(row)) == 0
    assert await tells(store.update_call(row.sid, {"status": "in-progress"}, [callback(row, 0)])) == 1
    assert await tells(store.insert_call(call(2), [callback(call(2), 0)])) == 1
    assert await tells(store.enqueue([callback(row, 1)])) == 1
    assert await tells(store.recover(lambda row: [callback(row, 2)])) == 1
    assert await tells(store.callback_retry(1, NOW, "11200")) == 0
    with pytest.raises(StoreError):
        await tells(store.update_call("CAnone", {}, [callback(row, 3)]))
    cancelled = asyncio.ensure_future(store.enqueue([callback(row, 4)]))
    await asyncio.sleep(0)  # it is submitted
    cancelled.cancel()
    before = told
    await store.enqueue([])
    await store.timeline(row.sid)
    assert told >= before + 1  # the write stands, so it is told although nobody awaits it
    assert [item.sequence for item in await store.callbacks(row.sid)] == [0, 1, 2, 4]


async def test_a_listener_that_fails_leaves_no_write_waiting(memory: Store) -> None:
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: failures.append(context["exception"])
    )

    def broken() -> None:
        raise LookupError("listener")

    memory.on_enqueued = broken
    await asyncio.gather(*(memory.enqueue([callback(call(n), 0)]) for n in range(3)))
    await asyncio.sleep(0)
    assert [type(failure) for failure in failures] == [LookupError] * 3
    assert len(await memory.callback_heads(9)) == 3


@pytest.mark.parametrize("kind", ["file", "memory"])
async def test_pruning_takes_what_ended_long_ago_and_nothing_else(
    kind: str, store: Store, memory: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = store if kind == "file" else memory
    monkeypatch.setattr("engine.store.PRUNE_ROWS", 7)
    monkeypatch.setattr("engine.store.PRUNE_CALLS", 5)
    old, young = NOW - timedelta(days=40), NOW - timedelta(days=1)
    ended = {"status": "completed", "ended_at": old}
    for number in range(12):
        await used.insert_call(call(number, created_at=old, **ended), [callback(call(number), 0)])
        for offset in range(4):
            used.note(call(number).sid, float(offset), "digit", {})
    for item in await used.callback_heads(100):
        await used.callback_delivered(item.id)
    kept = [
        call(20, created_at=old, status="completed", ended_at=young),
        call(21, created_at=old, status="in-progress"),
        call(22, created_at=old, **ended),  # its callback is pending
        call(23, created_at=old, **ended),  # its child lives
        call(24, created_at=young, status="in-progress", parent_sid=call(23).sid),
    ]
    for row in kept:
        await used.insert_call(row, [callback(row, 0)])
        used.note(row.sid, 0.0, "digit", {})
    for item in await used.callback_heads(100):
        if item.call_sid != call(22).sid:
            await used.callback_failed(item.id, "15003")
    await used.insert_call(call(30, created_at=old, **ended))
    await used.insert_call(
        call(31, created_at=old, parent_sid=call(30).sid, **ended)
    )  # both go, the child first
    assert await used.prune(NOW - timedelta(days=30)) == 14
    assert {row.sid for row in await used.calls(100)} == {row.sid for row in kept}
    assert [len(await used.timeline(call(n).sid)) for n in (0, 11, 20, 21, 22, 23)] == [0, 0, 1, 1, 1, 1]
    assert [len(await used.callbacks(call(n).sid)) for n in (0, 11, 20, 21, 22, 23)] == [0, 0, 1, 1, 1, 1]
    assert await used.prune(NOW - timedelta(days=30)) == 0


async def test_pruning_takes_settled_callbacks_that_have_no_call(memory: Store) -> None:
    await memory.enqueue([callback(call(1), 0), callback(call(1), 1)])
    await memory.callback_delivered((await memory.callback_heads(1))[0].id)
    assert await memory.prune(NOW) == 0
    assert [item.sequence for item in await memory.callbacks(call(1).sid)] == [0, 1]  # as old as this moment
    assert await memory.prune(NOW + timedelta(seconds=1)) == 0
    assert [item.sequence for item in await memory.callbacks(call(1).sid)] == [1]  # pending: never


async def test_pruning_reads_only_what_is_old(memory: Store) -> None:
    query = f"EXPLAIN QUERY PLAN SELECT sid FROM calls WHERE {_EXPIRED}"
    plan = await memory._read(lambda db: [row[3] for row in db.execute(query, ["2026"])])
    assert plan[0] == "SEARCH calls USING INDEX calls_ended (<expr><?)"


async def test_a_database_from_before_heads_keeps_its_order(tmp_path: Path) -> None:
    from sqlite_utils import Database

    path = tmp_path / "calls.db"
    connection = sqlite3.connect(path, isolation_level=None)
    for step in MIGRATIONS[:4]:
        step(Database(connection))
    connection.execute("PRAGMA user_version = 4")
    insert = (
        "INSERT INTO outbox (call_sid, sequence, url, method, params, due_at, created_at, attempts, state, last_error)"
        " VALUES (?, ?, 'http://app/', 'POST', '[]', ?, ?, 0, ?, '')"
    )
    then = "2026-11-22T12:00:00.000000Z"
    rows = [("CA1", 0, "delivered"), ("CA1", 1, "pending"), ("CA2", 0, "pending"), ("CA1", 2, "pending")]
    connection.executemany(insert, [(sid, sequence, then, then, state) for sid, sequence, state in rows])
    connection.close()
    store = await Store.open(path, FixedClock())
    heads = await store.callback_heads(10)
    assert [(item.call_sid, item.sequence) for item in heads] == [("CA1", 1), ("CA2", 0)]
    await store.callback_delivered(heads[0].id)
    assert [(i.call_sid, i.sequence) for i in await store.callback_heads(10)] == [("CA2", 0), ("CA1", 2)]
    await store.close()


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "calls.db"
    await (await Store.open(path, FixedClock())).close()
    with sqlite3.connect(path) as other:
        other.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    other.close()
    with pytest.raises(StoreError, match="newer than this"):
        await Store.open(path, FixedClock())


async def test_an_older_schema_is_brought_up_to_date(tmp_path: Path) -> None:
    from sqlite_utils import Database

    path = tmp_path / "calls.db"
    connection = sqlite3.connect(path, isolation_level=None)
    MIGRATIONS[0](Database(connection))
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    store = await Store.open(path, FixedClock())
    await store.put_number(NumberRow("+1"))
    assert [row.pattern for row in await store.numbers()] == ["+1"]
    await store.close()


async def test_a_file_that_is_no_database_and_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello, this is no database " * 100)
    with pytest.raises(StoreError, match="not a database"):
        await Store.open(tmp_path / "text", FixedClock())
    with pytest.raises(StoreError, match="cannot be opened"):
        await Store.open(tmp_path / "text" / "below" / "calls.db", FixedClock())


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "calls.db", FixedClock())
    await store.close()
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.insert_call(call(1))
    with pytest.raises(StoreError, match="closed"):
        await store.call("CA1")
    store.note("CA1", 0.0, "late", {})
    assert store.notes_dropped == 1


CHILD = """
import asyncio, sys
from pathlib import Path
from tests.test_store import FixedClock, call, callback
from engine.store import Store

async def main():
    store = await Store.open(Path(sys.argv[1]), FixedClock())
    async def one(number):
        row = call(number)
        await store.insert_call(row, [callback(row, 0)])
        sys.stdout.write(f"{row.sid}\\n")
        sys.stdout.flush()
    number = 0
    while True:
        await asyncio.gather(*(one(number + n) for n in range(20)))
        number += 20

asyncio.run(main())
"""


def test_what_was_awaited_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "calls.db"
    root = Path(__file__).parents[1]
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, cwd=root)
    assert child.stdout is not None
    said = [child.stdout.readline() for _ in range(100)]
    os.kill(child.pid, signal.SIGKILL)
    said += child.stdout.read().splitlines(keepends=True)
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL
    promised = {line.decode().strip() for line in said if line.endswith(b"\n")}
    assert len(promised) >= 100

    kept, due = asyncio.run(_kept_and_due(path))
    assert promised <= kept
    assert kept == due  # a call is never there without the callback that was written with it


async def _kept_and_due(path: Path) -> tuple[set[str], set[str]]:
    store = await Store.open(path, FixedClock())
    kept = await store._read(lambda db: {row["sid"] for row in db.query("SELECT sid FROM calls")})
    due = await store._read(
        lambda db: {
            row["call_sid"] for row in db.query("SELECT call_sid FROM outbox WHERE state = 'pending'")
        }
    )
    assert len(await store.callback_heads(1000)) == min(len(due), 1000)
    await store.close()
    return kept, due
