"""A scripted web app: what each path answers, everything it was asked, and a way to wait for a question."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tests.e2e.conftest import NOTE_SECONDS, VOICE


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: `url` as it came, `params` of query and form, `at` in monotonic seconds."""

    method: str
    url: str
    path: str
    params: Mapping[str, str]
    form: Mapping[str, str]
    headers: Headers
    at: float


Reply: TypeAlias = str | Response
Page: TypeAlias = Reply | Callable[[Ask], Reply | Awaitable[Reply]]


def xml(body: str) -> str:
    """A voice document around `body`."""
    return f"<Response>{body}</Response>"


def in_turn(*replies: Reply) -> Callable[[Ask], Reply]:
    """Each reply once, the last one ever after."""
    left = list(replies)
    return lambda ask: left.pop(0) if len(left) > 1 else left[0]


class Script:
    """An ASGI app. A page is verbs as text, a `Response`, or a function of what was asked; any other path is 404."""

    def __init__(self, voice: Page = "", **pages: Page) -> None:
        self.asks: list[Ask] = []
        self.pages: dict[str, Page] = {VOICE: voice} | {f"/{name}": page for name, page in pages.items()}
        self._changed = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        form = {name: str(value) for name, value in (await request.form()).items()}
        ask = Ask(
            request.method,
            str(request.url),
            request.url.path,
            dict(request.query_params) | form,
            form,
            request.headers,
            time.monotonic(),
        )
        self.asks.append(ask)
        self._changed.set()
        self._changed = asyncio.Event()
        await (await self._answer(ask))(scope, receive, send)

    def of(self, path: str) -> list[Ask]:
        """What was asked at `path`, oldest first."""
        return [ask for ask in self.asks if ask.path == path]

    async def asked(self, path: str, count: int = 1) -> list[Ask]:
        """The requests at `path`, once there are `count`."""
        try:
            async with asyncio.timeout(NOTE_SECONDS):
                while len(found := self.of(path)) < count:
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(
                f"{path} was not asked {count} times: {[a.path for a in self.asks]}"
            ) from None
        return found

    async def _answer(self, ask: Ask) -> Response:
        page = self.pages.get(ask.path, Response("no such page", 404))
        reply = page(ask) if callable(page) and not isinstance(page, Response) else page
        if inspect.isawaitable(reply):
            reply = await reply
        return reply if isinstance(reply, Response) else Response(xml(reply), media_type="text/xml")
