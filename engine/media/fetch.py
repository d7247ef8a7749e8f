"""What `<Play>` names, fetched once and kept: HTTP caching (RFC 9111) in front of the prompt cache.

The GET of a Play URL carries no webhook parameters and no signature.
"""

from __future__ import annotations

import asyncio
import re
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from engine.media.audio import AudioError, Pcm, decode
from speech.cache import Prompt, PromptCache

HTTP_FAILURE = 11200
INVALID_URL = 11100
TCP_TIMEOUT, CONNECTION_FAILED = 11201, 11205
TOTAL_TIMEOUT = 11203
TOO_MANY_REDIRECTS = 11215

MAX_BYTES = 64 << 20  # an hour of mp3 at 128 kbit/s; larger files are not meant for a telephone
MAX_FETCH_SECONDS = 15.0  # Twilio's total time limit for one HTTP request
MAX_ENTRIES = 10_000  # remembered validators, some hundred bytes each
MAX_AGE = 365 * 86_400  # RFC 9111 §1.2.2: a larger delta-seconds means "for ever"

_DIRECTIVE = re.compile(r'([a-z-]+)(?:\s*=\s*"?([^",]*)"?)?', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Stored:
    """A URL's answer as it was last seen. `fresh_until` is in the clock's seconds."""

    etag: str | None
    last_modified: str | None
    fresh_until: float

    def conditions(self) -> dict[str, str]:
        """The header fields of a conditional request (RFC 9110 §13.1)."""
        fields = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in fields.items() if value}


class MediaFetcher:
    """Play URLs, and local files where `allow_files`, as prompts.

    `client` is the engine's pooled HTTP client. `clock` gives seconds that never go back.
    """

    def __init__(
        self,
        cache: PromptCache,
        client: httpx.AsyncClient,
        *,
        allow_files: bool = False,
        max_bytes: int = MAX_BYTES,
        max_seconds: float = MAX_FETCH_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache = cache
        self._client = client
        self._allow_files = allow_files
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._clock = clock
        self._stored: dict[str, Stored] = {}
        self._fetching: dict[str, asyncio.Task[Prompt]] = {}

    async def prompt(self, url: str) -> Prompt:
        """The audio behind an absolute http(s) URL or a path. Raises AudioError with Twilio's code.

        Callers that ask for the same URL at once share one fetch; one that is cancelled does not end it for the rest.
        """
        if "://" in url:
            url = url.partition("#")[0]  # a fragment holds connection overrides and is never sent
        task = self._fetching.get(url)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._load(url))
            self._fetching[url] = task
            task.add_done_callback(lambda done: self._end(url, done))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Cancel every fetch under way."""
        tasks = list(self._fetching.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _end(self, url: str, task: asyncio.Task[Prompt]) -> None:
        del self._fetching[url]
        if not task.cancelled():
            task.exception()  # seen: every caller may have been cancelled, and asyncio would complain

    async def _load(self, url: str) -> Prompt:
        scheme, host = _scheme_and_host(url)
        if scheme in ("http", "https") and host:
            return await self._load_http(url)
        if scheme not in ("", "file"):
            raise AudioError(INVALID_URL, f"{_shown(url)} is no complete http, https or file address.")
        if not self._allow_files:
            raise AudioError(
                INVALID_URL, f"{_shown(url)} is a local file, and local files are not allowed here."
            )
        path = Path(unquote(urlsplit(url).path)) if scheme == "file" else Path(url)
        return await self._load_file(path)

    async def _load_file(self, path: Path) -> Prompt:
        """A file's state is its key: when it changes, it is decoded again."""
        state = await asyncio.to_thread(_file_state, path, self._max_bytes)
        key = f"file\0{path}\0{state}"
        if (known := self._cache.get(key)) is not None:
            return known
        data = await asyncio.to_thread(_read_file, path)
        return self._cache.store(key, await _decode(data, None, path.name))

    async def _load_http(self, url: str) -> Prompt:
        known = self._cache.get(url)
        stored = self._stored.get(url) if known is not None else None
        if known is not None and stored is not None and self._clock() < stored.fresh_until:
            return known
        try:
            async with asyncio.timeout(self._max_seconds):
                response, data = await self._get(url, stored.conditions() if stored else {})
        except TimeoutError:
            text = f"{_shown(url)} was not loaded within {self._max_seconds:g} seconds."
            raise AudioError(TOTAL_TIMEOUT, text) from None
        if response.status_code == httpx.codes.NOT_MODIFIED and known is not None and stored is not None:
            self._remember(url, self._refreshed(stored, response))
            return known
        if response.status_code != httpx.codes.OK:
            raise AudioError(HTTP_FAILURE, f"{_shown(url)} answered with HTTP status {response.status_code}.")
        pcm = await _decode(data, response.headers.get("content-type"), urlsplit(url).path)
        self._remember(url, self._describe(response))
        return self._cache.store(url, pcm)

    async def _get(self, url: str, conditions: dict[str, str]) -> tuple[httpx.Response, bytes]:
        """The final response and its body, read only as far as the limit."""
        data = bytearray()
        try:
            async with self._client.stream("GET", url, headers=conditions, follow_redirects=True) as response:
                async for piece in response.aiter_bytes():
                    data += piece
                    if len(data) > self._max_bytes:
                        raise AudioError(
                            HTTP_FAILURE, f"{_shown(url)} is larger than {self._max_bytes} bytes."
                        )
                return response, bytes(data)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error).rstrip(".") or type(error).__name__
            raise AudioError(_code(error), f"{_shown(url)} could not be loaded: {reason}.") from error

    def _remember(self, url: str, stored: Stored | None) -> None:
        self._stored.pop(url, None)  # to the end of the order: the oldest goes first
        if stored is not None:
            self._stored[url] = stored
            if len(self._stored) > MAX_ENTRIES:
                del self._stored[next(iter(self._stored))]

    def _describe(self, response: httpx.Response) -> Stored | None:
        """What may be reused of this response; None for `no-store`: fetched again for every Play."""
        directives = _directives(response)
        if "no-store" in directives:
            return None
        headers = response.headers
        return Stored(headers.get("etag"), headers.get("last-modified"), self._fresh_until(directives))

    def _refreshed(self, stored: Stored, response: httpx.Response) -> Stored | None:
        """RFC 9111 §4.3.4: a 304 replaces the fields that it brings."""
        fresh = self._describe(response)
        if fresh is None:
            return None
        return replace(
            fresh,
            etag=fresh.etag or stored.etag,
            last_modified=fresh.last_modified or stored.last_modified,
        )

    def _fresh_until(self, directives: dict[str, str]) -> float:
        """With neither `max-age` nor a validator's answer nothing is fresh: ask each time, as Twilio does."""
        age = directives.get("max-age", "")
        if "no-cache" in directives or not (age.isascii() and age.isdigit()):
            return self._clock()
        return self._clock() + min(int(age[:12]), MAX_AGE)


async def _decode(data: bytes, content_type: str | None, name: str) -> bytes:
    def work() -> bytes:
        pcm: Pcm = decode(data, content_type, name)
        return pcm.tobytes()

    return await asyncio.to_thread(work)


def _directives(response: httpx.Response) -> dict[str, str]:
    """Cache-Control's directives, RFC 9111 §5.2.2; those without a value have ""."""
    found = _DIRECTIVE.findall(response.headers.get("cache-control", ""))
    return {name.lower(): value.strip() for name, value in found}


def _file_state(path: Path, max_bytes: int) -> str:
    """What changes when the file does: size and time. Raises AudioError for what is no file, or too large."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    if not stat.S_ISREG(status.st_mode):  # a pipe or device would never end
        raise AudioError(HTTP_FAILURE, f"{path} is no regular file.")
    if status.st_size > max_bytes:
        raise AudioError(HTTP_FAILURE, f"{path} is larger than {max_bytes} bytes.")
    return f"{status.st_size} {status.st_mtime_ns}"


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> AudioError:
    reason = getattr(error, "strerror", None) or str(error)
    return AudioError(HTTP_FAILURE, f"{path} cannot be read: {reason}.")


def _scheme_and_host(url: str) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
        return parts.scheme.lower(), parts.hostname or ""
    except ValueError:
        raise AudioError(INVALID_URL, f"{_shown(url)} is no valid address.") from None


def _code(error: Exception) -> int:
    if isinstance(error, httpx.ConnectTimeout):
        return TCP_TIMEOUT
    if isinstance(error, httpx.ConnectError):
        return CONNECTION_FAILED
    if isinstance(error, httpx.TooManyRedirects):
        return TOO_MANY_REDIRECTS
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
        return INVALID_URL
    return HTTP_FAILURE


def _shown(url: str) -> str:
    """A URL for a log line: short, and without a password."""
    shown = re.sub(r"//[^/@]*@", "//", url)
    return shown if len(shown) <= 200 else f"{shown[:200]}…"
