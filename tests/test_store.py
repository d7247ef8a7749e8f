"""The store on real SQLite files: what was awaited is there, whatever happens to the process."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from engine.ids import RandomIds, SeededIds
from engine.schema import MIGRATIONS
from engine.store import MAX_NOTE_BYTES, MAX_NOTES, CallRow, NumberRow, PendingCallback, Store, StoreError

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


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
    memory.note("CA1", 0.0, "big", {"text": "x" * MAX_NOTE_BYTES})
    memory.note("CA1", 0.0, "odd \udcff", {})
    memory.note("CA1", 0.0, "odd", {"text": "\udcff"})
    memory.note("CA1", float("nan"), "odd", {})
    memory.note("CA1", 0.0, "deep", {"x": nested})
    assert memory.notes_dropped == 5

    def fill(_db: object) -> None:  # in the writer's thread, so that it cannot empty the buffer meanwhile
        for number in range(MAX_NOTES + 3):
            memory.note("CA1", float(number), "digit", {})

    await memory._write(fill)
    assert memory.notes_dropped == 8
    assert len(await memory.timeline("CA1")) == MAX_NOTES


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
