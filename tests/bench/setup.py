"""How fast calls are set up: SIP alone, and with a webhook that answers each call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from engine.api.server import HttpServer
from engine.softphone import CallPlan, PhoneCall, Softphone
from tests.bench.caller import Caller, Figures
from tests.bench.peers import Peer, Prompt

RATES = (50, 100, 150, 200, 250, 300, 400)
QUICK_RATES = (50, 100)
SECONDS = 6.0  # calls are placed at each rate for so long
HOLD = 1.0
SETUP_P99 = 500.0  # ms: Timer A, after which a caller sends its INVITE again


@dataclass(frozen=True, slots=True)
class Rate:
    """Set-ups at one rate."""

    peer: str
    rate: float
    figures: Figures

    @property
    def held(self) -> bool:
        return (
            self.figures.failed == 0 and self.figures.setup_p99 < SETUP_P99 and not self.figures.retransmits
        )


def climb(peer: Peer, caller: Caller, rates: tuple[int, ...]) -> Iterator[Rate]:
    """Rates upwards, RTP on every call, until one is not held."""
    for rate in rates:
        found = Rate(peer.name, rate, caller.call(peer, int(rate * SECONDS), rate, HOLD))
        yield found
        if not found.held:
            return


class WebhookApp:
    """An app that plays a prompt to every caller, and remembers when it said so to whom."""

    def __init__(self, prompt: Prompt) -> None:
        self._prompt = prompt
        self.replied: dict[str, float] = {}
        routes = [Route("/voice", self._voice, methods=["POST"]), Route("/prompt.wav", self._sound)]
        self.server = HttpServer(Starlette(routes=routes), "127.0.0.1", 0)

    async def _voice(self, request: Request) -> Response:
        form = await request.form()
        self.replied[str(form["From"])] = time.monotonic()
        body = "<Response><Gather timeout='60'><Play loop='0'>/prompt.wav</Play></Gather></Response>"
        return Response(body, media_type="text/xml")

    async def _sound(self, request: Request) -> Response:
        return FileResponse(self._prompt.wav)


@dataclass(frozen=True, slots=True)
class Reaction:
    """From the webhook's reply to the first RTP packet at the caller, ms; read in ticks of 2 ms."""

    calls: int
    p50: float
    p99: float


async def reaction(peer: Peer, app: WebhookApp, calls: int, rate: float) -> Reaction:
    """Place calls whose numbers tell them apart, and compare when each was answered by the app and heard."""
    waits: list[float] = []

    async def one(phone: Softphone, number: int) -> None:
        caller, placed = f"bench{number}", [0.0]

        def on_start(call: PhoneCall) -> None:
            placed[0] = time.monotonic() - call.timeline.elapsed

        plan = CallPlan(f"1000@127.0.0.1:{peer.port}", caller, duration=0.5)
        report = await phone.call(plan, on_start)
        replied = next((at for whom, at in app.replied.items() if f"{caller}@" in whom), None)
        if replied is not None and report.first_audio_after is not None:
            waits.append(1000 * (placed[0] + report.first_audio_after - replied))

    async with Softphone() as phone, asyncio.TaskGroup() as group:
        for number in range(calls):
            group.create_task(one(phone, number))
            await asyncio.sleep(1 / rate)
    p50, p99 = np.percentile(waits, (50, 99)) if waits else (0.0, 0.0)
    return Reaction(len(waits), round(float(p50), 2), round(float(p99), 2))


def document(folder: Path, prompt: Prompt) -> Path:
    """The density test's app: plays until a key comes, so that telephone events are watched on every call."""
    app = folder / "app.xml"
    app.write_text(
        f"<Response><Gather timeout='600'><Play loop='0'>{prompt.wav.name}</Play></Gather></Response>"
    )
    return app
