"""Where a call's documents come from: a webhook, a Python callback or a file, behind one question.

Each call has its own `Instructions`: cookies and logins, the current document's URL, and the fallback live here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from engine.call import callback as python
from engine.call.routing import Route
from engine.call.timeline import Timeline
from engine.media.audio import AudioError
from engine.webhook import Attempt, WebhookClient, WebhookError, WebhookReply, WebhookSession, resolve
from markup import Document, Hangup, MarkupError, Play, Say, parse

XML_TYPES = ("text/xml", "application/xml", "text/html")
HTTP = ("http://", "https://")
FILE = "file://"

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
        """Where a Play's sound is. Raises `AudioError` for a file that the current document has no right to name:
        a webhook may name none, a file those beside it, a callback (the operator's own code) any."""
        reference = reference.strip()
        if reference.startswith(HTTP):
            return reference
        if self._url.startswith(python.SCHEME):
            return reference if reference.startswith(FILE) else Path(reference).absolute().as_uri()
        url = resolve(self._url, reference)
        if url.startswith(FILE) and not (
            self._url.startswith(FILE) and _is_beside(self._route.voice_url, url)
        ):
            raise AudioError(11100, f"{reference} is a local file, which this document may not play")
        return url

    async def _ask(self, url: str, method: str, params: Params) -> Page:
        try:
            page = await self._fetch(url, method, params)
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
            return await self._fetch(fallback, self._route.fallback_method, params + extra)
        except InstructionError as second:
            self._note_error(second)
            raise

    async def _fetch(self, url: str, method: str, params: Params) -> Page:
        try:
            if url.startswith(HTTP):
                return await self._fetch_webhook(url, method, params)
            if url.startswith(FILE):
                return await self._read_file(url)
            return await self._ask_callback(url, params)
        except MarkupError as error:
            raise InstructionError(error.code, error.message, url, error.line, error.column) from error

    # --- webhook ---------------------------------------------------------------------------------------------

    async def _fetch_webhook(self, url: str, method: str, params: Params) -> Page:
        try:
            reply = await self._sources.client.fetch(self._session, url, method, params)
        except WebhookError as error:
            self._note_attempts(method, error.attempts)
            raise InstructionError(error.code, error.message, error.url) from error
        self._note_attempts(method, reply.attempts)
        return Page(to_document(reply), reply.url)

    def _note_attempts(self, method: str, attempts: tuple[Attempt, ...]) -> None:
        for attempt in attempts:
            self._timeline.note("webhook", method=method, **asdict(attempt))

    # --- file ------------------------------------------------------------------------------------------------

    async def _read_file(self, url: str) -> Page:
        data = await asyncio.to_thread(_read_beside, self._route.voice_url, url)
        return Page(parse(data), url)

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


def _read_beside(first_url: str, url: str) -> bytes:
    """A file of the app: the first document's folder is all it may reach."""
    path = _path(url)
    if not _is_beside(first_url, url):
        raise InstructionError(11100, f"{path} is outside the folder of the first document", url)
    try:
        return path.read_bytes()
    except OSError as error:
        raise InstructionError(11200, f"cannot read {path}: {error.strerror}", url) from error


def _is_beside(first_url: str, url: str) -> bool:
    return _path(url).is_relative_to(_path(first_url).parent)


def _path(url: str) -> Path:
    return Path(unquote(urlsplit(url).path)).resolve()


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
    if not base.startswith(python.SCHEME):
        return resolve(base, reference)
    reference = reference.strip()
    if not reference or reference.startswith((*HTTP, FILE, python.SCHEME)):
        return reference or base
    return f"{base.partition('#')[0]}#{reference}"


def source_url(
    app: str, load: Callable[[str], python.Callback], callbacks: dict[str, python.Callback]
) -> str:
    """An `--app` value as a URL: http(s) as it is, a file as `file://`, `module:callable` loaded."""
    if app.startswith((*HTTP, FILE)):
        return app
    path = Path(app)
    if path.suffix == ".xml" or path.is_file():
        return path.resolve().as_uri()
    if app not in callbacks:
        callbacks[app] = load(app)
    return python.SCHEME + app
