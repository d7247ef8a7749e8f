"""The HTTP side: health and metrics; the REST API joins it here."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from engine.errors import ConfigError

START_SECONDS = 10.0
STOP_SECONDS = 2


def build_app(health: Callable[[], dict[str, object]], metrics: Callable[[], bytes]) -> Starlette:
    """Liveness for load balancers and figures for Prometheus. Neither says anything about any call."""

    async def show_health(request: Request) -> Response:
        state = health()
        return JSONResponse(state, status_code=200 if state["status"] == "ok" else 503)

    async def show_metrics(request: Request) -> Response:
        return PlainTextResponse(metrics(), media_type="text/plain; version=0.0.4")

    return Starlette(routes=[Route("/health", show_health), Route("/metrics", show_metrics)])


class _Server(uvicorn.Server):
    """uvicorn inside our own loop: signals are the engine's business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """A Starlette app on one address, in this process."""

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        self._socket = _bind(host, port)
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")
        config.timeout_graceful_shutdown = STOP_SECONDS
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        host, port = self.address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def start(self) -> None:
        """Returns once requests are accepted."""
        self._task = asyncio.create_task(self._server.serve([self._socket]), name="http")
        async with asyncio.timeout(START_SECONDS):
            while not self._server.started and not self._task.done():  # noqa: ASYNC110 - uvicorn has no event
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        self._server.should_exit = True
        if self._task is not None:
            await self._task


def _bind(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"cannot listen for HTTP on {host}:{port} ({error.strerror}): choose another with --http HOST:PORT"
        ) from error
    return sock
