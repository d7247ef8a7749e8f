"""Everything that must outlive the process: calls, their timelines, numbers, the account, the outbox.

SQLite through sqlite-utils. One thread owns the writing connection; a write is awaited until its commit is on
disk, and writes that wait together share one commit, because an fsync per call would cap calls per second at
what the disk can sync. Reads have a connection of their own and never wait for a writer (WAL).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlite_utils import Database

from engine.clock import Clock
from engine.ids import Ids, sid
from engine.schema import (
    CALL_COLUMNS,
    TERMINAL_STATUSES,
    Account,
    CallRow,
    NumberRow,
    OutboxItem,
    PendingCallback,
    StoreError,
    TimelineRow,
    call_columns,
    call_from,
    connect,
    make_private,
    outbox_item_from,
    timeline_from,
    to_column,
    to_text,
)
from engine.signature import pairs
from engine.writer import InlineWriter, NoteShaper, Write, Writer, as_store_error

__all__ = [
    "TERMINAL_STATUSES",
    "Account",
    "CallRow",
    "NumberRow",
    "OutboxItem",
    "PendingCallback",
    "Store",
    "StoreError",
    "TimelineRow",
]

BUSY_TIMEOUT_S = 5.0  # another program (a backup, the sqlite3 shell) may hold the file this long
MAX_PAGE = 1000  # rows in one read: the REST API's largest page
MAX_NOTES = 20_000  # notes not yet written: some seconds of a full machine, a few MB
PRUNE_CALLS = 100  # calls looked at in one step of `prune`
PRUNE_ROWS = 1000  # rows deleted in one write of `prune`: some milliseconds for which calls' writes wait

T = TypeVar("T")

_INSERT_CALL = "INSERT INTO calls ({}) VALUES ({})".format(  # noqa: S608 - our own column names
    ", ".join(f'"{name}"' for name in CALL_COLUMNS), ", ".join(f":{name}" for name in CALL_COLUMNS)
)
_INSERT_CALLBACK = (
    "INSERT INTO outbox"
    " (call_sid, sequence, url, method, params, due_at, created_at, attempts, state, last_error)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, 0, 'pending', '')"
)
_NEXT_SEQUENCE = "UPDATE calls SET next_sequence = max(next_sequence, ?) WHERE sid = ?"
# The oldest pending callback of each call, soonest first. An older pending one hides those behind it: that is
# the whole of "in order per call". Migration 005's triggers keep the mark.
_HEADS = "SELECT * FROM outbox WHERE head = 1 ORDER BY due_at, id LIMIT ?"
_FINAL = ", ".join(f"'{status}'" for status in sorted(TERMINAL_STATUSES))
# Ended before a time, with nothing left to tell, and no other call's parent: that goes with its last child.
# The plus keeps SQLite from the index of statuses, by which it would read every call that is kept.
_EXPIRED = (
    f"coalesce(ended_at, created_at) < ? AND +status IN ({_FINAL})"  # noqa: S608 - our own text
    " AND NOT EXISTS (SELECT 1 FROM outbox WHERE call_sid = calls.sid AND state = 'pending')"
    " AND NOT EXISTS (SELECT 1 FROM calls AS child WHERE child.parent_sid = calls.sid)"
)
# Settled callbacks of what has no call, such as conferences. Ids follow created_at, so the first young row ends it.
_EXPIRED_CALLBACKS = (
    "id < (SELECT coalesce(min(id), 1 << 62) FROM outbox WHERE created_at >= ?)"
    " AND state <> 'pending' AND NOT EXISTS (SELECT 1 FROM calls WHERE sid = outbox.call_sid)"
)
_UPDATABLE = frozenset(CALL_COLUMNS) - {"sid", "created_at", "next_sequence"}


class Store:
    """The engine's database. Every awaited write is on disk when it returns, or raises `StoreError`.

    A failed write changes nothing and later writes go on. Cancelling the task that awaits a write does not
    take the write back.

    `on_enqueued` is called on the loop after each commit that may have put callbacks into the outbox.
    """

    def __init__(self, path: Path | None, clock: Clock, busy_timeout: float) -> None:
        self._clock = clock
        self._closed = False
        writer = InlineWriter if path is None else Writer
        self._writer = writer(lambda: connect(path, busy_timeout))
        # in memory there is one connection only, so reads queue with the writes
        self._reader = None if path is None else ThreadPoolExecutor(1, thread_name_prefix="store-reader")
        self._read_db: Database | None = None
        self._connect_reader: Callable[[], Database] = lambda: connect(path, busy_timeout, migrated=True)
        self._shaper = NoteShaper()
        self.notes_dropped = 0
        self.on_enqueued: Callable[[], None] | None = None

    @classmethod
    async def open(cls, path: Path | None, clock: Clock, *, busy_timeout: float = BUSY_TIMEOUT_S) -> Store:
        """Open or create the database at `path` (None: in memory) and bring its schema up to date.

        A new file is readable by its owner only (0600), and so is a folder made for it (0700): it holds the
        auth token and whom people called. A write waits `busy_timeout` seconds for another program's lock.
        Raises `StoreError`.
        """
        try:
            if path is not None:
                await asyncio.to_thread(make_private, path)
            store = cls(path, clock, busy_timeout)
            store._writer.start()
            error = await asyncio.to_thread(store._writer.opened.get)
        except OSError as failed:
            raise StoreError(f"The database {path} cannot be opened: {failed.strerror}.") from failed
        if error is not None:
            raise as_store_error(error)
        return store

    async def close(self) -> None:
        """Commit what was submitted, buffered notes included, and close the file. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._writer.stop()
        await asyncio.to_thread(self._writer.join)
        if self._reader is not None:
            await asyncio.get_running_loop().run_in_executor(self._reader, self._close_reader)
            self._reader.shutdown(wait=False)

    @property
    def commits(self) -> int:
        """Transactions committed since opening: against the writes, the measure of group commit."""
        return self._writer.commits

    # -- calls

    async def insert_call(self, row: CallRow, callbacks: Sequence[PendingCallback] = ()) -> None:
        """Store a new call and, in the same transaction, its callbacks."""
        values = call_columns({name: getattr(row, name) for name in CALL_COLUMNS})

        def run(db: Database) -> None:
            db.execute(_INSERT_CALL, values)
            self._enqueue(db, callbacks)

        await self._write(run, lambda: self._committed(row.sid, row.status, callbacks))

    async def update_call(
        self, sid: str, changes: Mapping[str, object], callbacks: Sequence[PendingCallback] = ()
    ) -> None:
        """Set the `CallRow` fields in `changes` and, in the same transaction, enqueue callbacks.

        Raises `StoreError` for an unknown call, and `ValueError` for a field that a call does not have.
        """
        unknown = changes.keys() - _UPDATABLE
        if unknown:
            raise ValueError(f"not a field of a call that can change: {', '.join(sorted(unknown))}")
        values = call_columns(changes)

        def run(db: Database) -> None:
            _update_call(db, sid, values)
            self._enqueue(db, callbacks)

        await self._write(run, lambda: self._committed(sid, changes.get("status"), callbacks))

    async def call(self, sid: str) -> CallRow | None:
        """The call, or None."""
        rows = await self._read(lambda db: list(db.query("SELECT * FROM calls WHERE sid = ?", [sid])))
        return call_from(rows[0]) if rows else None

    async def calls(
        self,
        limit: int = 50,
        *,
        before: str | None = None,
        status: str | None = None,
        direction: str | None = None,
        from_: str | None = None,
        to: str | None = None,
        parent_sid: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
    ) -> list[CallRow]:
        """Calls that match every given field, newest first, at most `limit` (and `MAX_PAGE`).

        `before` is the SID of the last call of the previous page. The times are inclusive at the start and
        exclusive at the end.
        """
        conditions = {
            "id < (SELECT id FROM calls WHERE sid = ?)": before,
            "status = ?": status,
            "direction = ?": direction,
            "from_ = ?": from_,
            '"to" = ?': to,
            "parent_sid = ?": parent_sid,
            "created_at >= ?": created_after,
            "created_at < ?": created_before,
        }
        given = {sql: to_column(value) for sql, value in conditions.items() if value is not None}
        where = " AND ".join(given) or "1"
        query = f"SELECT * FROM calls WHERE {where} ORDER BY id DESC LIMIT ?"  # noqa: S608 - fixed fragments
        args = [*given.values(), _page(limit)]
        return await self._read(lambda db: [call_from(row) for row in db.query(query, args)])

    async def recover(self, callbacks_for: Callable[[CallRow], Sequence[PendingCallback]]) -> list[CallRow]:
        """End the calls that were alive when the last process died, and enqueue their callbacks with that.

        Each becomes failed, ended now by the engine ("engine restarted"); a real end was not seen, so an
        answered call gets no duration. `callbacks_for` runs in the writer thread and must only build values.
        """
        marks = ", ".join("?" * len(TERMINAL_STATUSES))
        alive = f"SELECT * FROM calls WHERE status NOT IN ({marks}) ORDER BY id"  # noqa: S608 - marks only
        end = {"status": "failed", "ended_at": self._clock.now(), "ended_by": "engine"}
        ended = call_columns({**end, "end_reason": "engine restarted"})

        def run(db: Database) -> list[CallRow]:
            sids = [row["sid"] for row in db.query(alive, sorted(TERMINAL_STATUSES))]
            return [self._recover_one(db, sid, ended, callbacks_for) for sid in sids]

        return await self._write(run, self._tell_enqueued)

    def _recover_one(
        self,
        db: Database,
        sid: str,
        ended: Mapping[str, object],
        callbacks_for: Callable[[CallRow], Sequence[PendingCallback]],
    ) -> CallRow:
        _update_call(db, sid, ended)
        row = call_from(next(iter(db.query("SELECT * FROM calls WHERE sid = ?", [sid]))))
        self._enqueue(db, callbacks_for(row))
        return row

    def _committed(self, sid: str, status: object, callbacks: Sequence[PendingCallback]) -> None:
        if status in TERMINAL_STATUSES:
            self._shaper.forget(sid)
        if callbacks:
            self._tell_enqueued()

    async def prune(self, before: datetime) -> int:
        """Delete the calls that ended before this time, with their timelines and callbacks; return how many.

        A call with a callback still pending, or with a child that stays, stays until a later time. The work is
        done in small writes between those of live calls; the file keeps its size, and its free pages are used
        again.
        """
        limit, total = to_text(before), 0
        query = f"SELECT sid FROM calls WHERE {_EXPIRED} LIMIT {PRUNE_CALLS}"  # noqa: S608 - our own text
        while sids := await self._read(lambda db: [row["sid"] for row in db.query(query, [limit])]):
            theirs = f"IN ({', '.join('?' * len(sids))})"
            await self._delete("timeline", f"call_sid {theirs}", sids)
            await self._delete("outbox", f"state <> 'pending' AND call_sid {theirs}", sids)
            deleted = await self._delete("calls", f"{_EXPIRED} AND sid {theirs}", [limit, *sids])
            if deleted == 0:
                break  # each of them got a callback or a child meanwhile
            total += deleted
        await self._delete("outbox", _EXPIRED_CALLBACKS, [limit])
        return total

    async def _delete(self, table: str, where: str, args: Sequence[str]) -> int:
        """Delete the rows in writes of `PRUNE_ROWS`; how many there were."""
        rows = f"SELECT id FROM {table} WHERE {where} LIMIT {PRUNE_ROWS}"  # noqa: S608 - our own text
        query, total = f"DELETE FROM {table} WHERE id IN ({rows})", 0  # noqa: S608
        while deleted := await self._write(lambda db: db.execute(query, args).rowcount):
            total += deleted
        return total

    # -- timeline

    def note(self, call_sid: str, at_offset_s: float, kind: str, data: Mapping[str, Any]) -> None:
        """Remember that something happened to a call, without waiting.

        Written within `NOTE_FLUSH_S`, and always with or before the next write, so that a call's notes are
        there when its end is. Control characters are taken out, and long texts shortened until the note fits
        `MAX_NOTE_BYTES`. What finds the buffer full, comes after `MAX_NOTES_PER_CALL`, or cannot be stored, is
        dropped and counted (`notes_dropped`).
        """
        if self._closed or len(self._writer.notes) >= MAX_NOTES:
            self.notes_dropped += 1
            return
        try:
            note = self._shaper.shape(call_sid, at_offset_s, kind, data)
        except (ValueError, TypeError, RecursionError):
            note = None
        if note is None:
            self.notes_dropped += 1
        else:
            self._writer.note(note)

    async def timeline(self, call_sid: str) -> list[TimelineRow]:
        """What happened to a call, in order, up to this moment."""
        await self._write(lambda db: None)  # a commit takes the buffered notes along
        query = "SELECT * FROM timeline WHERE call_sid = ? ORDER BY at_offset_s, id"
        return await self._read(lambda db: [timeline_from(row) for row in db.query(query, [call_sid])])

    # -- numbers and account

    async def numbers(self) -> list[NumberRow]:
        """Every configured number, by pattern."""
        return await self._read(
            lambda db: [NumberRow(**row) for row in db.query("SELECT * FROM numbers ORDER BY pattern")]
        )

    async def put_number(self, row: NumberRow) -> None:
        """Add a number, or replace the one with the same pattern."""
        values = {name: to_column(value) for name, value in asdict(row).items()}
        await self._write(lambda db: db.table("numbers").upsert(values, pk="pattern"))

    async def delete_number(self, pattern: str) -> bool:
        """Remove a number; False if there was none."""
        query = "DELETE FROM numbers WHERE pattern = ?"
        return await self._write(lambda db: db.execute(query, [pattern]).rowcount > 0)

    async def account(self, ids: Ids) -> Account:
        """The account; drawn from `ids` the first time and the same ever after."""
        fresh = [sid(ids, "AC"), ids.hex(32)]

        def run(db: Database) -> Account:
            db.execute("INSERT INTO account (id, sid, token) VALUES (1, ?, ?) ON CONFLICT DO NOTHING", fresh)
            return Account(*db.execute("SELECT sid, token FROM account").fetchone())

        return await self._write(run)

    # -- outbox

    async def enqueue(self, callbacks: Sequence[PendingCallback]) -> None:
        """Store callbacks that belong to no change of a call (recordings, conferences)."""
        await self._write(lambda db: self._enqueue(db, callbacks), self._tell_enqueued)

    async def callback_heads(self, limit: int) -> list[OutboxItem]:
        """The next pending callback of each call, soonest due first, whether due yet or not."""
        return await self._read(
            lambda db: [outbox_item_from(row) for row in db.query(_HEADS, [_page(limit)])]
        )

    async def callbacks(self, call_sid: str) -> list[OutboxItem]:
        """Every callback of a call in order; `state` is pending, delivered or failed."""
        query = "SELECT * FROM outbox WHERE call_sid = ? ORDER BY id"
        return await self._read(lambda db: [outbox_item_from(row) for row in db.query(query, [call_sid])])

    async def callback_delivered(self, item_id: int) -> None:
        """The app has it."""
        await self._attempted(item_id, "delivered", None, "")

    async def callback_retry(self, item_id: int, due_at: datetime, error: str) -> None:
        """An attempt failed; the next is due at `due_at`, and the call's later callbacks wait for it."""
        await self._attempted(item_id, "pending", due_at, error)

    async def callback_failed(self, item_id: int, error: str) -> None:
        """It will not be tried again; the call's later callbacks go on."""
        await self._attempted(item_id, "failed", None, error)

    async def _attempted(self, item_id: int, state: str, due_at: datetime | None, error: str) -> None:
        query = (
            "UPDATE outbox SET attempts = attempts + 1, state = ?, due_at = coalesce(?, due_at),"
            " last_error = ? WHERE id = ?"
        )
        args = [state, to_column(due_at), to_column(error), item_id]
        await self._write(lambda db: db.execute(query, args))

    def _enqueue(self, db: Database, callbacks: Iterable[PendingCallback]) -> None:
        now = to_text(self._clock.now())
        for one in callbacks:
            params = tuple(pairs(one.params))  # as they will be sent: JSON has no lone surrogates either
            values = (one.call_sid, one.sequence, one.url, one.method, params, one.due_at, now)
            db.execute(_INSERT_CALLBACK, [to_column(value) for value in values])
            db.execute(_NEXT_SEQUENCE, [one.sequence + 1, one.call_sid])

    def _tell_enqueued(self) -> None:
        if self.on_enqueued is not None:
            self.on_enqueued()

    # -- threads

    async def _write(self, run: Callable[[Database], T], committed: Callable[[], None] | None = None) -> T:
        if self._closed:
            raise StoreError("The database is closed: the engine is stopping.")
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._writer.submit(Write(run, done, committed))
        return await done

    async def _read(self, run: Callable[[Database], T]) -> T:
        if self._reader is None:
            return await self._write(run)
        if self._closed:
            raise StoreError("The database is closed: the engine is stopping.")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reader, self._run_read, run)
        except sqlite3.Error as error:
            raise as_store_error(error) from error

    def _run_read(self, run: Callable[[Database], T]) -> T:
        if self._read_db is None:
            self._read_db = self._connect_reader()
        return run(self._read_db)

    def _close_reader(self) -> None:
        if self._read_db is not None:
            self._read_db.close()


def _page(limit: int) -> int:
    return max(0, min(limit, MAX_PAGE))


def _update_call(db: Database, sid: str, values: Mapping[str, object]) -> None:
    columns = ", ".join(f'"{name}" = :{name}' for name in values) or "sid = sid"
    done = db.execute(f"UPDATE calls SET {columns} WHERE sid = :sid", {**values, "sid": sid})  # noqa: S608
    if done.rowcount == 0:
        raise StoreError(f"There is no call {sid}.")
