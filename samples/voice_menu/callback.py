"""The menu as a Python function in the engine's own process: no web server, no XML.

switchhook serve --app samples.voice_menu.callback:answer
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime

from engine.call.callback import CallRequest
from markup import Verb
from samples.voice_menu import menu


def create_callback(
    clock: Callable[[], datetime] = menu.utc_now,
) -> Callable[[CallRequest], Awaitable[list[Verb]]]:
    """The callback. `clock` says whether we are open."""

    async def answer(request: CallRequest) -> list[Verb]:
        return menu.answer(request.action, request.get("Digits", ""), clock())

    return answer


answer = create_callback()
