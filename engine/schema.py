"""The database: its tables as numbered migrations, and its rows as frozen values."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from sqlite_utils import Database

from engine.errors import SwitchhookError

MAX_END_REASON = 500  # characters: a Reason header or a traceback may be of any size, a column is one line

TERMINAL_STATUSES = frozenset({"completed", "busy", "failed", "no-answer", "canceled"})


class StoreError(SwitchhookError):
    """The database refused: the text says in one sentence what failed and, where it helps, what to do."""


@dataclass(frozen=True, slots=True)
class CallRow:
    """One call leg. Times are UTC; `duration` is whole answered seconds, rounded up.

    `status` is the REST API's word (queued ringing in-progress completed busy failed no-answer canceled),
    `ended_by` caller, callee, engine or app, `sip_status` the final response code of the INVITE.
    `quality` holds packets, loss, jitter and rtt, both ways.
    `next_sequence` is kept by the store: the SequenceNumber that the call's next callback takes.
    """

    sid: str
    account_sid: str
    from_: str
    to: str
    direction: str
    status: str
    created_at: datetime
    ringing_at: datetime | None = None
    answered_at: datetime | None = None
    ended_at: datetime | None = None
    duration: int | None = None
    ended_by: str | None = None
    end_reason: str = ""
    sip_call_id: str = ""
    sip_status: int | None = None
    source_ip: str = ""
    parent_sid: str | None = None
    forwarded_from: str = ""
    caller_name: str = ""
    answered_by: str = ""
    quality: Mapping[str, Any] = field(default_factory=dict)
    voice_url: str = ""
    voice_method: str = "POST"
    status_callback: str = ""
    status_callback_method: str = "POST"
    status_callback_event: tuple[str, ...] = ()
    next_sequence: int = 0

    @property
    def is_final(self) -> bool:
        """Whether the call has ended: no later status may follow."""
        return self.status in TERMINAL_STATUSES


@dataclass(frozen=True, slots=True)
class PendingCallback:
    """A status callback to be written to the outbox: `params` already carry SequenceNumber and Timestamp.

    `call_sid` is what the order holds for: callbacks with the same one leave one after another. The SID of a
    conference serves as well.
    """

    call_sid: str
    sequence: int
    url: str
    method: str
    params: tuple[tuple[str, str], ...]
    due_at: datetime


@dataclass(frozen=True, slots=True)
class OutboxItem:
    """A callback in the outbox, with how often it has been tried."""

    id: int
    call_sid: str
    sequence: int
    url: str
    method: str
    params: tuple[tuple[str, str], ...]
    due_at: datetime
    created_at: datetime
    attempts: int
    state: str
    last_error: str


@dataclass(frozen=True, slots=True)
class TimelineRow:
    """One thing that happened to a call, `at_offset_s` seconds after it was created."""

    call_sid: str
    at_offset_s: float
    kind: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class NumberRow:
    """What to do with a call to `pattern` (`kind` exact, prefix or pattern); `app` names a callback.

    `status_callback_event` lists the events to tell, separated by blanks.
    """

    pattern: str
    kind: str = "exact"
    voice_url: str = ""
    voice_method: str = "POST"
    fallback_url: str = ""
    fallback_method: str = "POST"
    status_callback: str = ""
    status_callback_method: str = "POST"
    status_callback_event: str = "completed"
    app: str = ""


@dataclass(frozen=True, slots=True)
class Account:
    """The one account: its SID, and the auth token that signs webhooks and opens the REST API."""

    sid: str
    token: str

    def __repr__(self) -> str:
        return f"Account(sid={self.sid!r})"  # a token in a log line is a token lost


def to_text(moment: datetime) -> str:
    """UTC in ISO 8601 at a fixed width, so that the text sorts as the time does."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def from_text(text: str) -> datetime:
    """The inverse of `to_text`."""
    return datetime.fromisoformat(text)


def to_column(value: object) -> object:
    """A row's value as SQLite keeps it: times as sortable text, mappings and sequences as JSON."""
    if isinstance(value, datetime):
        return to_text(value)
    if isinstance(value, Mapping):
        return msgspec.json.encode(dict(value), enc_hook=str).decode()
    if isinstance(value, (tuple, list)):
        return msgspec.json.encode(value).decode()
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # a lone surrogate would fail the whole transaction
    return value


# Without C0 (but line feed and tab), DEL and C1: in a terminal they are commands, and far ends write these texts.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """The text without control characters (line feed and tab stay) and without lone surrogates."""
    return _CONTROLS.sub("", text).encode("utf-8", "replace").decode()


def call_columns(values: Mapping[str, object]) -> dict[str, object]:
    """Fields of a `CallRow` as SQLite keeps them; `end_reason` becomes one line of `MAX_END_REASON` at most."""
    columns = {name: to_column(value) for name, value in values.items()}
    reason = columns.get("end_reason")
    if isinstance(reason, str):
        line = re.sub(r"[\n\t]+", " ", printable(reason))
        columns["end_reason"] = line if len(line) <= MAX_END_REASON else line[: MAX_END_REASON - 1] + "…"
    return columns


_CALL_TIMES = frozenset({"created_at", "ringing_at", "answered_at", "ended_at"})
CALL_COLUMNS = tuple(f.name for f in fields(CallRow))


def call_from(row: Mapping[str, Any]) -> CallRow:
    """A `calls` row read back as the value that was written."""
    values = {name: row[name] for name in CALL_COLUMNS}
    for name in _CALL_TIMES:
        values[name] = from_text(values[name]) if values[name] else None
    values["quality"] = msgspec.json.decode(values["quality"])
    values["status_callback_event"] = tuple(msgspec.json.decode(values["status_callback_event"]))
    return CallRow(**values)


def outbox_item_from(row: Mapping[str, Any]) -> OutboxItem:
    """An `outbox` row as a value."""
    values = {f.name: row[f.name] for f in fields(OutboxItem)}
    values["params"] = msgspec.json.decode(values["params"], type=tuple[tuple[str, str], ...])
    values["due_at"] = from_text(values["due_at"])
    values["created_at"] = from_text(values["created_at"])
    return OutboxItem(**values)


def timeline_from(row: Mapping[str, Any]) -> TimelineRow:
    """A `timeline` row as a value."""
    return TimelineRow(row["call_sid"], row["at_offset_s"], row["kind"], msgspec.json.decode(row["data"]))


def _001_calls(db: Database) -> None:
    # an INTEGER PRIMARY KEY keeps the order of insertion through VACUUM, which an implicit rowid does not
    db.table("calls").create(
        {
            "id": int, "sid": str, "account_sid": str, "from_": str, "to": str, "direction": str,
            "status": str, "created_at": str, "ringing_at": str, "answered_at": str, "ended_at": str,
            "duration": int, "ended_by": str, "end_reason": str, "sip_call_id": str, "sip_status": int,
            "source_ip": str, "parent_sid": str, "forwarded_from": str, "caller_name": str, "answered_by": str,
            "quality": str, "voice_url": str, "voice_method": str, "status_callback": str,
            "status_callback_method": str, "status_callback_event": str, "next_sequence": int,
        },
        pk="id",
        not_null={"sid", "account_sid", "from_", "to", "direction", "status", "created_at", "quality"},
        foreign_keys=[("parent_sid", "calls", "sid")],
    )  # fmt: skip
    db.table("calls").create_index(["sid"], unique=True)
    db.table("calls").create_index(["status"])
    db.table("calls").create_index(["parent_sid"])


def _002_timeline(db: Database) -> None:
    # no foreign key: a note may be flushed before its call's row is, and must not fail another call's commit
    db.table("timeline").create(
        {"id": int, "call_sid": str, "at_offset_s": float, "kind": str, "data": str}, pk="id"
    )
    db.table("timeline").create_index(["call_sid"])


def _003_outbox(db: Database) -> None:
    # no foreign key: conferences order their callbacks by their own SID
    db.table("outbox").create(
        {
            "id": int, "call_sid": str, "sequence": int, "url": str, "method": str, "params": str,
            "due_at": str, "created_at": str, "attempts": int, "state": str, "last_error": str,
        },
        pk="id",
        not_null={"call_sid", "url", "method", "params", "due_at", "created_at", "attempts", "state"},
    )  # fmt: skip
    # partial indexes: what was delivered long ago costs the dispatcher nothing
    db.execute("CREATE INDEX outbox_order ON outbox (call_sid, id) WHERE state = 'pending'")
    db.execute("CREATE INDEX outbox_due ON outbox (due_at, id) WHERE state = 'pending'")


def _004_numbers_and_account(db: Database) -> None:
    db.table("numbers").create({f.name: str for f in fields(NumberRow)}, pk="pattern")
    db.table("account").create({"id": int, "sid": str, "token": str}, pk="id", not_null={"sid", "token"})


# The oldest pending callback of the call of one row is its head, and no other row is: whatever changed the row.
# Only rows that are wrong are written, so a callback that queues behind others costs two index look-ups.
_SET_HEAD = """BEGIN
    UPDATE outbox SET head = 0 WHERE head = 1 AND call_sid = {row}.call_sid AND id IS NOT
        (SELECT id FROM outbox WHERE call_sid = {row}.call_sid AND state = 'pending' ORDER BY id LIMIT 1);
    UPDATE outbox SET head = 1 WHERE head = 0 AND id =
        (SELECT id FROM outbox WHERE call_sid = {row}.call_sid AND state = 'pending' ORDER BY id LIMIT 1);
END"""


def _005_outbox_heads(db: Database) -> None:
    # what may leave next is marked, because looking for it among all that is pending grows with a dead app's arrears
    db.execute("ALTER TABLE outbox ADD COLUMN head INTEGER NOT NULL DEFAULT 0")
    oldest = "SELECT min(id) FROM outbox WHERE state = 'pending' GROUP BY call_sid"
    db.execute(f"UPDATE outbox SET head = 1 WHERE id IN ({oldest})")  # noqa: S608 - our own text
    db.execute("CREATE INDEX outbox_heads_due ON outbox (due_at, id) WHERE head = 1")
    db.execute("CREATE INDEX outbox_heads_call ON outbox (call_sid) WHERE head = 1")
    db.execute("CREATE INDEX outbox_call ON outbox (call_sid, state, id)")
    db.execute("DROP INDEX outbox_order")
    db.execute("DROP INDEX outbox_due")
    # triggers, so that the mark is right in every transaction, an operator's in the sqlite3 shell included
    added, left = _SET_HEAD.format(row="NEW"), _SET_HEAD.format(row="OLD")
    db.execute(f"CREATE TRIGGER outbox_added AFTER INSERT ON outbox WHEN NEW.state = 'pending' {added}")
    moved = "AFTER UPDATE OF state ON outbox WHEN NEW.state <> OLD.state"
    db.execute(f"CREATE TRIGGER outbox_moved {moved} {added}")
    db.execute(f"CREATE TRIGGER outbox_removed AFTER DELETE ON outbox WHEN OLD.head = 1 {left}")


def _006_calls_by_end(db: Database) -> None:
    # for `Store.prune`: what is old is found without reading what is kept
    db.execute("CREATE INDEX calls_ended ON calls (coalesce(ended_at, created_at))")


MIGRATIONS: tuple[Callable[[Database], None], ...] = (
    _001_calls,
    _002_timeline,
    _003_outbox,
    _004_numbers_and_account,
    _005_outbox_heads,
    _006_calls_by_end,
)


def migrate(db: Database) -> None:
    """Bring the database to the newest schema, each step in a transaction of its own with its number.

    Raises `StoreError` if a newer Switchhook wrote it: guessing at unknown tables would lose data.
    """
    version = schema_version(db)
    if version > len(MIGRATIONS):
        raise StoreError(
            f"The database has schema version {version}, newer than this Switchhook's {len(MIGRATIONS)}: "
            "install the version that wrote it, or name another database file."
        )
    for number, step in enumerate(MIGRATIONS[version:], version + 1):
        with db.atomic():
            step(db)
            db.execute(f"PRAGMA user_version = {number}")


def schema_version(db: Database) -> int:
    """The number of the last migration applied; 0 for an empty file."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def make_private(path: Path) -> None:
    """Create the file (0600), and its folder if there is none (0700), unless they exist."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # created before SQLite sees it: the WAL and shared-memory files take their mode from it
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    path.chmod(0o600)


def connect(path: Path | None, busy_timeout: float, *, migrated: bool = False) -> Database:
    """A connection for the calling thread (None: in memory), with the schema brought up to date."""
    connection = sqlite3.connect(path or ":memory:", timeout=busy_timeout, isolation_level=None)
    try:
        db = Database(connection, execute_plugins=False)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")  # NORMAL may lose the last commits with the power
        db.execute("PRAGMA foreign_keys = ON")
        if not migrated:
            migrate(db)
    except BaseException:
        connection.close()
        raise
    return db


def plain(error: Exception) -> str:
    """One sentence an operator can act on, for what SQLite reports."""
    name = getattr(error, "sqlite_errorname", "") or ""
    for prefix, sentence in _SENTENCES:
        if name.startswith(prefix):
            return sentence
    return f"The database refused the change: {error}."


_SENTENCES = (
    ("SQLITE_FULL", "The disk is full, so the change was not stored: free some space."),
    ("SQLITE_BUSY", "The database is locked by another program: close it, or stop the other engine."),
    ("SQLITE_LOCKED", "The database is locked by another program: close it, or stop the other engine."),
    ("SQLITE_READONLY", "The database file is read-only: give the engine's user write permission."),
    ("SQLITE_CANTOPEN", "The database file cannot be opened: check its path and permissions."),
    ("SQLITE_IOERR", "The disk failed while the database was read or written: check it."),
    ("SQLITE_CORRUPT", "The database file is damaged: restore it from a backup."),
    ("SQLITE_NOTADB", "The file is not a database: name another file."),
)
