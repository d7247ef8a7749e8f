"""Where a call's documents come from: a webhook, a Python callback or a file, behind one question.

Each call has its own `Instructions`: cookies and logins, the current document's URL, and the fallback live here.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from engine.call import callback as python
from engine.call.routing import Route
from engine.call.timeline import Timeline
from engine.errors import ConfigError
from engine.media.audio import AudioError
from engine.signature import shown
from engine.webhook import Attempt, WebhookClient, WebhookError, WebhookReply, WebhookSession, resolve
from markup import Document, Hangup, MarkupError, Play, Say, parse

XML_TYPES = ("text/xml", "application/xml", "text/html")
HTTP = ("http", "https")
FILE = "file"

Params: TypeAlias = list[tuple[str, str]]


class InstructionError(Exception):
    """No document: `code` is the vendor's error code, `url` what was asked."""

    def __init__(self, code: int, message: str, url: str, line: int = 0, column: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.url = url
        self.line = line
        self.column = column


@dataclass(frozen=True, slots=True)
class Page:
    """A document and the URL it came from, to which its own references are relative."""

    document: Document
    url: str


@dataclass(frozen=True, slots=True)
class Sources:
    """What all calls share: the HTTP client, the threads of sync callbacks, and the loaded callbacks."""

    client: WebhookClient
    threads: ThreadPoolExecutor
    callbacks: dict[str, python.Callback]


class Instructions:
    """One call's way to its app."""

    def __init__(self, route: Route, sources: Sources, timeline: Timeline) -> None:
        self._route = route
        self._sources = sources
        self._timeline = timeline
        self._session = WebhookSession()
        self._url = route.voice_url

    async def first(self, params: Params) -> Page:
        """The document a new call begins with. Raises `InstructionError` when there is no fallback either."""
        return await self._ask(self._route.voice_url, self._route.voice_method, params)

    async def next(self, reference: str, method: str, params: Params) -> Page:
        """The document at a verb's URL, relative to the current one; "" is the current one again."""
        return await self._ask(_absolute(self._url, reference), method, params)

    def sound(self, reference: str) -> str:
        """Where a Play's sound is. Raises `AudioError` for one that the current document has no right to name."""
        if scheme_of(self._url) == python.NAME and scheme_of(reference) not in (*HTTP, FILE):
            return Path(reference.strip()).absolute().as_uri()  # the operator's own code names paths
        url = resolve(self._url, reference)
        if scheme_of(url) in HTTP or (scheme_of(url) == FILE and self._may_read(url)):
            return url
        raise AudioError(11100, f"{shown(reference)}: this document may not play that")

    def _may_read(self, url: str) -> bool:
        """Whether the current document may name a local file: a webhook none, a callback any, a file those in the
        folder of the app's first document (or its own) and below."""
        if scheme_of(self._url) == python.NAME:
            return True
        if scheme_of(self._url) != FILE:
            return False
        first = self._route.voice_url
        return _is_beside(first if scheme_of(first) == FILE else self._url, url)

    async def _ask(self, url: str, method: str, params: Params) -> Page:
        try:
            page = await self._fetch(url, method, params, trusted=self._may_read(url))
        except InstructionError as error:
            self._note_error(error)
            if not self._route.fallback_url:
                raise
            page = await self._ask_fallback(error, params)
        self._url = page.url
        for problem in page.document.problems:
            self._timeline.note(
                "warning",
                code=problem.code,
                text=problem.message,
                line=problem.line,
                verb=problem.verb,
                url=page.url,
            )
        return page

    async def _ask_fallback(self, error: InstructionError, params: Params) -> Page:
        fallback = _absolute(self._route.voice_url, self._route.fallback_url)
        extra = [("ErrorCode", str(error.code)), ("ErrorUrl", error.url)]
        try:
            return await self._fetch(fallback, self._route.fallback_method, params + extra, trusted=True)
        except InstructionError as second:
            self._note_error(second)
            raise

    async def _fetch(self, url: str, method: str, params: Params, *, trusted: bool) -> Page:
        """`trusted`: whoever named the URL may name local files."""
        scheme = scheme_of(url)
        try:
            if scheme in HTTP:
                return await self._fetch_webhook(url, method, params)
            if scheme == FILE and trusted:
                return Page(parse(await asyncio.to_thread(_read, url)), url)
            if scheme == python.NAME:
                return await self._ask_callback(url, params)
            raise InstructionError(11100, "this document may not lead there", shown(url))
        except MarkupError as error:
            raise InstructionError(error.code, error.message, url, error.line, error.column) from error

    # --- webhook ---------------------------------------------------------------------------------------------

    async def _fetch_webhook(self, url: str, method: str, params: Params) -> Page:
        try:
            reply = await self._sources.client.fetch(self._session, url, method, params)
        except WebhookError as error:
            self._note_attempts(method, error.attempts)
            raise InstructionError(error.code, error.message, error.url) from error
        except asyncio.CancelledError:
            self._timeline.note("webhook", method=method, url=shown(url), error="the call ended first")
            raise
        self._note_attempts(method, reply.attempts)
        return Page(to_document(reply), reply.url)

    def _note_attempts(self, method: str, attempts: tuple[Attempt, ...]) -> None:
        for attempt in attempts:
            self._timeline.note("webhook", method=method, **asdict(attempt))

    # --- callback --------------------------------------------------------------------------------------------

    async def _ask_callback(self, url: str, params: Params) -> Page:
        name, _, action = url.removeprefix(python.SCHEME).partition("#")
        callback = self._sources.callbacks.get(name)
        if callback is None:
            raise InstructionError(11100, f"{url!r} is neither an http(s) URL nor a loaded callback", url)
        began = self._timeline.elapsed
        try:
            document = await callback.ask(python.CallRequest(dict(params), action), self._sources.threads)
        except python.CallbackError as error:
            self._note_callback(name, action, began, str(error), error.trace)
            raise InstructionError(11200, str(error), url) from error
        self._note_callback(name, action, began, None, "")
        return Page(document, url)

    def _note_callback(self, name: str, action: str, began: float, error: str | None, trace: str) -> None:
        self._timeline.note(
            "callback",
            name=name,
            action=action,
            error=error,
            trace=trace,
            total_ms=round(1000 * (self._timeline.elapsed - began), 1),
        )

    def _note_error(self, error: InstructionError) -> None:
        where = {"line": error.line, "column": error.column} if error.line else {}
        self._timeline.note("error", code=error.code, text=error.message, url=error.url, **where)


def scheme_of(url: str) -> str:
    """`http`, `file`, `callback` …; "" for what has none. In lower case: `FILE:` is a file too."""
    return url.strip().partition(":")[0].lower() if ":" in url else ""


def _read(url: str) -> bytes:
    path = _path(url)
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise InstructionError(11200, f"cannot read {path}: {error}", url) from error


def _is_beside(first_url: str, url: str) -> bool:
    try:
        return _path(url).is_relative_to(_path(first_url).parent)
    except ValueError:  # a NUL in a name
        return False


def _path(url: str) -> Path:
    """The file of a `file:` URL, with every link and `..` followed. Raises ValueError for what can be no name."""
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise ValueError("a file on another host")
    return Path(unquote(parts.path)).resolve()


def to_document(reply: WebhookReply) -> Document:
    """A webhook's answer by its content type. Raises `MarkupError`, 12300 for a type that is no instruction."""
    if reply.status == 204 or not reply.body.strip():
        return Document(())
    kind = reply.content_type
    if kind in XML_TYPES:
        return parse(reply.body)
    if kind.startswith("audio/"):
        return Document((Play(reply.url), Hangup()))
    if kind == "text/plain":
        return _plain_text(reply)
    named = f"Content-Type {kind!r}" if kind else "no Content-Type"
    raise MarkupError(12300, f"{named}: a voice document is text/xml, application/xml or text/html")


def _plain_text(reply: WebhookReply) -> Document:
    try:
        return parse(reply.body)
    except MarkupError:
        text = reply.body.decode(reply.charset or "utf-8", "replace")
        return Document((Say(text), Hangup()))


def _absolute(base: str, reference: str) -> str:
    """A reference in a document at `base`. In a callback's document a name is that callback's own action."""
    if scheme_of(base) != python.NAME:
        return resolve(base, reference)
    reference = reference.strip()
    if not reference or scheme_of(reference) in (*HTTP, FILE, python.NAME):
        return reference or base
    return f"{base.partition('#')[0]}#{reference}"


def source_url(
    app: str, load: Callable[[str], python.Callback], callbacks: dict[str, python.Callback]
) -> str:
    """An app as a URL: http(s) as it is, a file as `file://`, `module:callable` loaded. Raises `ConfigError`."""
    if scheme_of(app) in HTTP:
        return app
    path = Path(app.removeprefix("file://"))
    if path.suffix == ".xml" or path.is_file():
        if not path.is_file():
            raise ConfigError(f"there is no file {path}")
        return path.resolve().as_uri()
    if app not in callbacks:
        callbacks[app] = load(app)
    return python.SCHEME + app


def fallback_url(
    app: str, load: Callable[[str], python.Callback], callbacks: dict[str, python.Callback]
) -> str:
    """A fallback: an app as in `source_url`, or a URL relative to the voice URL, which stays as it is."""
    is_app = re.fullmatch(r"[\w.]+:[\w.]+", app) or Path(app).is_file() or app.startswith("file://")
    return source_url(app, load, callbacks) if is_app else app
