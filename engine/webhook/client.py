"""The HTTP client that asks an app what to do: signed, bounded in time and size, and as strict as the cloud's.

One `fetch` is one question. It may take several requests (a retry, a login, redirects), each signed for its own
URL, and all of them share one time limit, because a caller is listening to silence meanwhile.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import httpx

from engine.ids import Ids
from engine.signature import Params, pairs, shown, sign
from engine.webhook.body import BodyReader
from engine.webhook.errors import Attempt, Kind, RequestError, WebhookError, connect_failure, is_malformed
from engine.webhook.session import WebhookSession
from engine.webhook.url import MAX_URL, Overrides, Target, WireUrl, missing, resolve, with_query

MAX_REDIRECTS = 10
KEEPALIVE_S = (
    4.0  # below the 5 s after which the common app servers close, so that few requests meet a dead one
)
KEPT_CONNECTIONS = 200

_REDIRECTS = frozenset({301, 302, 303, 307})


@dataclass(frozen=True, slots=True)
class WebhookReply:
    """A 2xx answer. `url` is the final one, after redirects: what relative URLs in the body refer to.

    It has no fragment, no userinfo and none of the parameters that a GET appended. `content_type` is lower
    case without parameters, "" if the app sent none; `charset` as the app named it, or None.
    """

    status: int
    content_type: str
    charset: str | None
    body: bytes
    url: str
    attempts: tuple[Attempt, ...]


class WebhookClient:
    """Pooled connections to every app. `account_token` is the auth token, or what returns the current one.

    `transport` replaces the network in tests. Close with `aclose`.
    """

    def __init__(
        self,
        account_token: str | Callable[[], str],
        ids: Ids,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        # no cap on connections: calls that wait for a slow app must not make another app's calls wait
        limits = httpx.Limits(
            max_connections=None, max_keepalive_connections=KEPT_CONNECTIONS, keepalive_expiry=KEEPALIVE_S
        )
        self.transport = transport or httpx.AsyncHTTPTransport(limits=limits)
        self.ids = ids
        self.monotonic = monotonic
        self._token = account_token

    def token(self) -> str:
        """The auth token that signs now."""
        return self._token if isinstance(self._token, str) else self._token()

    async def fetch(
        self,
        session: WebhookSession,
        url: str,
        method: str = "POST",
        params: Params = (),
        *,
        idempotency_token: str | None = None,
    ) -> WebhookReply:
        """Ask the app at `url` and return its 2xx answer, following redirects.

        A method other than GET is POST. `idempotency_token` is for a request that a later process may repeat.
        Raises `WebhookError`.
        """
        run = _Fetch(self, session, Overrides.parse(url), pairs(params), idempotency_token)
        return await run.run(url, "GET" if method.upper() == "GET" else "POST")

    async def aclose(self) -> None:
        """Close the pooled connections."""
        await self.transport.aclose()


@dataclass(slots=True)
class _Answer:
    response: httpx.Response
    body: bytes


@dataclass(slots=True)
class _Stopwatch:
    """The phases of one request: when each ended, and which limit is running."""

    monotonic: Callable[[], float]
    limits: Overrides
    total_at: float  # on the loop's clock
    wire: bool  # whether the transport reports its phases; a test's has no connect phase
    started: float = field(init=False)
    connected: float | None = None
    first_byte: float | None = None
    reused: bool = True
    stream: Any = None  # the TCP connection, while TLS is not on it yet

    def __post_init__(self) -> None:
        self.started = self.monotonic()

    def ms(self, moment: float | None) -> float | None:
        return None if moment is None else round((moment - self.started) * 1000, 3)

    def deadline(self) -> float:
        limit = self.limits.connect_s if self.connected is None else self.limits.read_s
        return min(asyncio.get_running_loop().time() + limit, self.total_at)

    def tracer(self, scope: asyncio.Timeout) -> Callable[[str, Mapping[str, Any]], Awaitable[None]]:
        async def trace(event: str, info: Mapping[str, Any]) -> None:
            if event == "connection.connect_tcp.complete":
                self.stream = info["return_value"]
            elif event == "connection.connect_tcp.started":
                self.reused = False
            elif event == "http11.send_request_headers.started":
                self.connected = self.monotonic()
                scope.reschedule(self.deadline())

        return trace

    def expired(self) -> RequestError:
        if asyncio.get_running_loop().time() >= self.total_at:
            return RequestError(11203, "The total time for the request ran out", self._phase())
        if self.connected is None:
            return RequestError(11201, "The connection was not established in time", "ct")
        return RequestError(11200, "The app did not answer in time", "rt")

    def _phase(self) -> Kind:
        return "ct" if self.connected is None else "rt"

    def failed(self, error: Exception) -> RequestError:
        if isinstance(error, (httpx.ConnectTimeout, httpx.PoolTimeout)):
            return RequestError(11201, "The connection was not established in time", "ct")
        if isinstance(error, httpx.TimeoutException):
            return RequestError(11200, "The app did not answer in time", "rt")
        if isinstance(error, httpx.ConnectError) or (self.wire and self.connected is None):
            return RequestError(*connect_failure(error), "ct")
        if self.wire and self.reused and self.first_byte is None:
            # the app closed a kept connection as the request left: it never saw it
            return RequestError(11205, "The app closed the connection", "ct")
        if isinstance(error, httpx.LocalProtocolError) or is_malformed(error):
            return RequestError(11206, "The app's answer is not HTTP")
        return RequestError(11200, "The connection broke before the answer was complete", "rt")


@dataclass(slots=True)
class _Fetch:
    """One `fetch` under way: its attempts, the retries and the time it has left."""

    client: WebhookClient
    session: WebhookSession
    limits: Overrides
    params: list[tuple[str, str]]
    idempotency_token: str | None
    attempts: list[Attempt] = field(default_factory=list)
    retries: int = field(init=False)
    total_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.retries = self.limits.retries
        self.total_at = asyncio.get_running_loop().time() + self.limits.total_s

    async def run(self, url: str, method: str) -> WebhookReply:
        params = self.params
        for _ in range(MAX_REDIRECTS + 1):
            target = self._target(url)
            self.session.learn(target)
            answer = await self._hop(target, method, params)
            status = answer.response.status_code
            if status < 300:
                return self._reply(answer, target)
            location = answer.response.headers.get("location", "")
            if status not in _REDIRECTS or not location:
                raise self._error(
                    11216, f"The app answered {status}, which is no redirect to follow", target.url
                )
            url = resolve(target.url, location)
            method = method if status == 307 else "GET"
            # what the redirect's author already put there stays; an app behind it still learns which call it is
            params = self.params if method == "POST" else missing(url.partition("#")[0], self.params)
        raise self._error(11215, f"More than {MAX_REDIRECTS} redirects", target.url)

    def _target(self, url: str) -> Target:
        try:
            return Target.parse(url)
        except (ValueError, httpx.InvalidURL) as error:
            code = 11216 if self.attempts else 11100
            raise self._error(code, "This is not a valid http or https URL", shown(url)) from error

    async def _hop(self, target: Target, method: str, params: list[tuple[str, str]]) -> _Answer:
        """One URL: repeated for retries and, once, for a login. Raises `WebhookError`."""
        token = self.idempotency_token or str(uuid.UUID(hex=self.client.ids.hex(32), version=4))
        url = target.url if method == "POST" else with_query(target.url, params)
        form = params if method == "POST" else []
        if len(url) > MAX_URL:
            raise self._error(
                11100, f"The URL with its parameters is longer than {MAX_URL} bytes", target.url
            )
        authorization, challenged = None, False
        while True:
            request = self._request(target, method, url, form, token)
            authorization = authorization or self.session.authorization(request, target.origin)
            if authorization:
                request.headers["Authorization"] = authorization
            try:
                answer = await self._send(request, target)
                if answer.response.status_code == 401 and not challenged:
                    challenged = True
                    authorization = self.session.answer(answer.response, target.origin)
                    if authorization:
                        continue
                _check_status(answer.response.status_code)
                return answer
            except RequestError as failure:
                if not self.limits.covers(failure.kind) or self.retries == 0 or failure.code == 11203:
                    raise self._error(failure.code, failure.message, target.url) from failure
                self.retries -= 1
                authorization = None

    def _request(
        self, target: Target, method: str, url: str, form: list[tuple[str, str]], token: str
    ) -> httpx.Request:
        headers = {
            "Host": target.host,
            "User-Agent": "TwilioProxy/1.1",
            "Accept": "*/*",
            "Accept-Encoding": "gzip",
            "X-Twilio-Signature": sign(url, form, self.client.token()),
            "I-Twilio-Idempotency-Token": token,
        }
        if method == "POST":
            headers["Content-Type"] = "application/x-www-form-urlencoded; charset=utf-8"
        content = urlencode(form).encode("ascii") if method == "POST" else None
        request = httpx.Request(method, target.origin, headers=headers, content=content)
        request.url = WireUrl(url)  # set here, because the constructor would copy it into a plain URL
        self.session.cookies.set_cookie_header(request)
        return request

    async def _send(self, request: httpx.Request, target: Target) -> _Answer:
        """One request on the wire, recorded as an `Attempt`. Raises `RequestError`."""
        wire = isinstance(self.client.transport, httpx.AsyncHTTPTransport)
        watch = _Stopwatch(self.client.monotonic, self.limits, self.total_at, wire)
        if not wire:
            watch.connected = watch.started
        status: int | None = None
        error: str | None = None
        response: httpx.Response | None = None
        try:
            async with asyncio.timeout_at(watch.deadline()) as scope:
                request.extensions = {"trace": watch.tracer(scope)}
                response = await self.client.transport.handle_async_request(request)
                response.request = request
                status, watch.first_byte = response.status_code, self.client.monotonic()
                self.session.keep_cookies(response)
                return _Answer(response, await self._body(response, watch, scope))
        except Exception as raised:
            failure = _failure(raised, watch, status)
            error = failure.message
            raise failure from raised
        finally:
            if watch.stream is not None and watch.connected is None:
                await watch.stream.aclose()  # httpcore forgets the socket of a handshake that was cancelled
            if response is not None:
                await response.stream.aclose()  # type: ignore[union-attr]
            times = watch.ms(watch.connected), watch.ms(watch.first_byte), watch.ms(self.client.monotonic())
            self.attempts.append(Attempt(target.url, status, error, times[0], times[1], times[2] or 0.0))

    async def _body(self, response: httpx.Response, watch: _Stopwatch, scope: asyncio.Timeout) -> bytes:
        if not 200 <= response.status_code < 300:
            return b""  # nobody reads an error's page; the connection is closed instead
        reader = BodyReader(response.headers)
        scope.reschedule(watch.deadline())
        async for chunk in response.stream:  # type: ignore[union-attr]
            scope.reschedule(watch.deadline())  # the read limit holds between packets, not for the whole
            reader.feed(chunk)
        return reader.end()

    def _reply(self, answer: _Answer, target: Target) -> WebhookReply:
        headers = answer.response.headers
        return WebhookReply(
            status=answer.response.status_code,
            content_type=headers.get("content-type", "").partition(";")[0].strip().lower(),
            charset=answer.response.charset_encoding,
            body=answer.body,
            url=target.url,
            attempts=tuple(self.attempts),
        )

    def _error(self, code: int, message: str, url: str) -> WebhookError:
        return WebhookError(code, message, url, tuple(self.attempts))


def _failure(raised: Exception, watch: _Stopwatch, status: int | None) -> RequestError:
    if isinstance(raised, RequestError):
        return raised
    if isinstance(raised, TimeoutError):
        return watch.expired()
    if status is not None and isinstance(raised, ValueError):
        return RequestError(11206, f"The app's answer breaks the protocol: {raised}")
    return watch.failed(raised)


def _check_status(status: int) -> None:
    if 400 <= status < 600:
        raise RequestError(11200, f"The app answered {status}", "4xx" if status < 500 else "5xx")
    if not 200 <= status < 400:
        raise RequestError(11217, f"The app answered {status}, which is no HTTP status")
