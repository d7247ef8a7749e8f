"""The one writer of the database: a thread with a queue, or, for a store in memory, the caller itself."""

from __future__ import annotations

import asyncio
import math
import queue
import sqlite3
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import msgspec
import structlog
from sqlite_utils import Database

from engine.schema import StoreError, plain, printable

MAX_BATCH = 500  # writes in one commit: bounds what one failing commit has to run again
NOTE_FLUSH_S = 0.25  # notes are for people who look; this is how stale a live view may be
MAX_NOTE_BYTES = 16 * 1024  # one note's JSON; its longest texts are shortened until it fits
MIN_KEPT_CHARS = 64  # what a text keeps at least: a note that is too large even so is not made of text
MAX_NOTES_PER_CALL = 5_000  # an hour of a busy menu; a far end that sends for ever must not fill the disk
MAX_COUNTED_CALLS = 10_000  # calls whose notes are counted: more than one engine has alive

log = structlog.get_logger(__name__)
T = TypeVar("T")

_INSERT_NOTE = "INSERT INTO timeline (call_sid, at_offset_s, kind, data) VALUES (?, ?, ?, ?)"

Note = tuple[str, float, str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Write(Generic[T]):
    """A function that changes the database, and the future of whoever awaits it.

    `committed` is called on the future's loop once the change is on disk, also if nobody awaits it any more.
    """

    run: Callable[[Database], T]
    done: asyncio.Future[T]
    committed: Callable[[], None] | None = None


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
        if error is None and write.committed is not None:
            # by itself: one that raises must not leave the other writes of the batch waiting
            write.done.get_loop().call_soon(write.committed)
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


class NoteShaper:
    """What becomes of a note before it is written: made printable, made to fit, and counted for its call."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, int] = OrderedDict()

    def shape(self, call_sid: str, at_offset_s: float, kind: str, data: Mapping[str, Any]) -> Note | None:
        """The note to write, or None for one to drop. A call's last one says that more are left out.

        Raises `ValueError`, `TypeError` or `RecursionError` for what cannot be stored.
        """
        if not math.isfinite(at_offset_s):
            raise ValueError(at_offset_s)
        (call_sid + kind).encode()  # what SQLite cannot take would fail every later commit with it
        count = self._count(call_sid)
        if count > MAX_NOTES_PER_CALL + 1:
            return None
        if count > MAX_NOTES_PER_CALL:
            kind, data = "warning", {"text": f"{MAX_NOTES_PER_CALL} notes are kept; the rest is left out"}
        return (call_sid, float(at_offset_s), kind, note_json(data))

    def forget(self, call_sid: str) -> None:
        """The call has ended."""
        self._counts.pop(call_sid, None)

    def _count(self, call_sid: str) -> int:
        count = self._counts[call_sid] = self._counts.get(call_sid, 0) + 1
        self._counts.move_to_end(call_sid)
        if len(self._counts) > MAX_COUNTED_CALLS:
            self._counts.popitem(
                last=False
            )  # the one longest silent: a note after its call's end counts anew
        return count


def note_json(data: Mapping[str, Any]) -> str:
    """The data as JSON of at most `MAX_NOTE_BYTES`, without control characters, its longest texts shortened.

    Raises `ValueError`, `TypeError` or `RecursionError` for what is no JSON or does not fit.
    """
    whole = _each_text(msgspec.to_builtins(dict(data), str_keys=True, enc_hook=str), printable)
    encoded = msgspec.json.encode(whole)
    longest = MAX_NOTE_BYTES
    while len(encoded) > MAX_NOTE_BYTES:
        longest = longest * 3 // 4
        if longest < MIN_KEPT_CHARS:
            raise ValueError(len(encoded))
        # from the whole text each time, so that the marker tells the true number of characters
        encoded = msgspec.json.encode(_each_text(whole, partial(_shortened, longest=longest)))
    return encoded.decode()


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): _each_text(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_each_text(item, change) for item in value]
    return value


def _shortened(text: str, longest: int) -> str:
    left_out = len(text) - longest
    if left_out <= 0:
        return text
    head = longest // 2
    return f"{text[:head]}… {left_out} characters left out …{text[head + left_out :]}"


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
