"""The menu as a web app: the engine asks over HTTP, we answer with XML.

    python -m samples.voice_menu.webhook                        # http://127.0.0.1:5000/voice
    switchhook serve --app http://127.0.0.1:5000/voice

With SWITCHHOOK_AUTH_TOKEN (or TWILIO_AUTH_TOKEN) set, a request that is not signed with it is refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from urllib.parse import parse_qsl

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from markup import build
from samples.voice_menu import menu
from samples.voice_menu.signature import is_signed

HOST, PORT = "127.0.0.1", 5000
MAX_BODY = 64 * 1024  # a request about a call is 1 to 4 kB; more is somebody filling our memory
MAX_FIELDS = 200  # a request about a call has about forty


def create_app(clock: Callable[[], datetime] = menu.utc_now, token: str = "") -> Starlette:
    """The app. `clock` says whether we are open; without a `token` anybody may ask."""

    async def voice(request: Request) -> Response:
        form = await read_form(request)
        if token and not is_signed(
            token, str(request.url), form, request.headers.get("X-Twilio-Signature", "")
        ):
            raise HTTPException(403, "not signed with our token")
        return respond(action_of(request), dict(form).get("Digits", ""))

    def respond(action: str, digits: str) -> Response:
        try:
            verbs = menu.answer(action, digits, clock())
        except (LookupError, ValueError) as error:
            raise HTTPException(404, "no such menu") from error
        return Response(build(*verbs), media_type="text/xml")

    return Starlette(
        routes=[Route("/voice", voice, methods=["POST"]), Route("/{menu}", voice, methods=["POST"])]
    )


def action_of(request: Request) -> str:
    """Where the caller is: our paths are the names of menus, and `/voice` is where a call begins."""
    name = request.path_params.get("menu", "")
    return f"{name}?{request.url.query}" if name else ""


async def read_form(request: Request) -> list[tuple[str, str]]:
    """The request's form parameters, in a bounded piece of memory."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413)
    try:
        return parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise HTTPException(400, "no form") from error


app = create_app(token=os.environ.get("SWITCHHOOK_AUTH_TOKEN") or os.environ.get("TWILIO_AUTH_TOKEN") or "")

if __name__ == "__main__":
    uvicorn.run(app, host=HOST, port=PORT)
