"""The one writer of the database: a thread with a queue, or, for a store in memory, the caller itself."""

from __future__ import annotations

import asyncio
import math
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import structlog
from sqlite_utils import Database

from engine.schema import StoreError, plain

MAX_BATCH = 500  # writes in one commit: bounds what one failing commit has to run again
NOTE_FLUSH_S = 0.25  # notes are for people who look; this is how stale a live view may be

log = structlog.get_logger(__name__)
T = TypeVar("T")

_INSERT_NOTE = "INSERT INTO timeline (call_sid, at_offset_s, kind, data) VALUES (?, ?, ?, ?)"

Note = tuple[str, float, str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Write(Generic[T]):
    """A function that changes the database, and the future of whoever awaits it."""

    run: Callable[[Database], T]
    done: asyncio.Future[T]


Outcome = tuple[Write[Any], Any, Exception | None]


class Writer(threading.Thread):
    """The one thread that changes the database.

    A batch is one transaction with a savepoint per write, so a failed write undoes only itself. If the whole
    commit fails (SQLite drops a transaction when the disk is full) its writes run again one by one, so that
    only those that fail alone are reported as failed.
    """

    def __init__(self, connect: Callable[[], Database]) -> None:
        super().__init__(name="store-writer", daemon=True)
        self.commits = 0
        self.notes: deque[Note] = deque()
        self.opened: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        self._queue: queue.SimpleQueue[Write[Any] | str | None] = queue.SimpleQueue()
        self._connect = connect

    def submit(self, write: Write[Any]) -> None:
        self._queue.put(write)

    def note(self, note: Note) -> None:
        self.notes.append(note)
        if (
            len(self.notes) == 1
        ):  # counted after the append: the thread may have emptied the buffer just before
            self._queue.put("notes")

    def stop(self) -> None:
        """End after everything submitted so far, notes included."""
        self._queue.put(None)

    def run(self) -> None:
        try:
            db = self._connect()
        except Exception as error:
            self.opened.put(error)
            return
        self.opened.put(None)
        flush_at, stop = math.inf, False
        while not stop:
            batch, stop = self._collect(flush_at)
            if batch or stop or time.monotonic() >= flush_at:
                self._settle(self._commit(db, batch))
                flush_at = math.inf
            if self.notes and flush_at == math.inf:
                flush_at = time.monotonic() + NOTE_FLUSH_S
        db.close()

    def _collect(self, flush_at: float) -> tuple[list[Write[Any]], bool]:
        """Wait for one write, then take every other that is already waiting; True when told to stop."""
        batch: list[Write[Any]] = []
        try:
            item = self._queue.get(timeout=_until(flush_at))
            while item is not None:
                if isinstance(item, Write):
                    batch.append(item)
                if len(batch) == MAX_BATCH:
                    return batch, False
                item = self._queue.get_nowait()
        except queue.Empty:
            return batch, False
        return batch, True

    def _commit(self, db: Database, batch: list[Write[Any]]) -> list[Outcome]:
        notes = list(self.notes)
        if not batch and not notes:
            return []
        try:
            outcomes = self._transaction(db, batch, notes)
        except Exception as error:
            with suppress(sqlite3.Error):
                db.rollback()
            if len(batch) > 1:
                return [outcome for write in batch for outcome in self._commit(db, [write])]
            log.error("commit failed", error=plain(error), notes_waiting=len(notes))
            return [(write, None, error) for write in batch]
        for _ in notes:  # only now: a failed commit leaves its notes to the next one
            self.notes.popleft()
        self.commits += 1
        return outcomes

    def _transaction(self, db: Database, batch: list[Write[Any]], notes: list[Note]) -> list[Outcome]:
        db.execute(
            "BEGIN IMMEDIATE"
        )  # takes the write lock here, where SQLite still waits for another program
        db.conn.executemany(_INSERT_NOTE, notes)
        outcomes = [self._savepoint(db, write) for write in batch]
        db.execute("COMMIT")
        return outcomes

    def _savepoint(self, db: Database, write: Write[Any]) -> Outcome:
        try:
            with db.atomic():
                return (write, write.run(db), None)
        except Exception as error:
            if not db.conn.in_transaction:
                raise  # SQLite undid the whole transaction, with the writes before this one
            return (write, None, error)

    def _settle(self, outcomes: list[Outcome]) -> None:
        for loop in {write.done.get_loop() for write, _, _ in outcomes}:
            mine = [outcome for outcome in outcomes if outcome[0].done.get_loop() is loop]
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more, and the rows are safe
                loop.call_soon_threadsafe(_resolve, mine)


def _until(moment: float) -> float | None:
    return None if moment == math.inf else max(moment - time.monotonic(), 0.0)


def _resolve(outcomes: list[Outcome]) -> None:
    for write, value, error in outcomes:
        if write.done.done():
            continue  # whoever awaited it was cancelled; the write stands
        if error is None:
            write.done.set_result(value)
        else:
            write.done.set_exception(as_store_error(error))


def as_store_error(error: Exception) -> Exception:
    if not isinstance(error, sqlite3.Error):
        return error
    wrapped = StoreError(plain(error))
    wrapped.__cause__ = error
    return wrapped


class InlineWriter(Writer):
    """Commits where it is called, with no thread: a store in memory has no disk to wait for, and a virtual clock
    no way to wait for a thread."""

    def start(self) -> None:
        self._db = self._connect()
        self.opened.put(None)

    def submit(self, write: Write[Any]) -> None:
        _resolve(self._commit(self._db, [write]))

    def note(self, note: Note) -> None:
        self.notes.append(note)

    def stop(self) -> None:
        self._commit(self._db, [])
        self._db.close()

    def join(self, timeout: float | None = None) -> None:
        """Nothing runs."""
