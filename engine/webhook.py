"""The HTTP client that asks an app what to do: signed, bounded in time and size, and as strict as the cloud's.

One `fetch` is one question. It may take several requests (a retry, a login, redirects), each signed for its own
URL, and all of them share one time limit, because a caller is listening to silence meanwhile.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
import uuid
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qsl, quote, unquote, urlencode, urljoin

import httpx

from engine.errors import SwitchhookError
from engine.ids import Ids
from engine.signature import Params, bare_url, pairs, sign

MAX_BODY = 64 * 1024  # what the cloud takes (error 11750); a document that a person hears is far smaller
MAX_URL = 16 * 1024  # with parameters; servers refuse longer request lines, most at 8 kB
MAX_REDIRECTS = 10
MAX_COOKIES = 50  # per call, as browsers keep per site
MAX_COOKIE_BYTES = 4096  # longer ones are ignored, as by browsers
CONNECT_S, READ_S, TOTAL_S = 5.0, 15.0, 15.0
KEEPALIVE_S = (
    4.0  # below the 5 s after which the common app servers close, so that few requests meet a dead one
)
KEPT_CONNECTIONS = 200

_REDIRECTS = frozenset({301, 302, 303, 307})
_RETRY_KINDS = frozenset({"4xx", "5xx", "ct", "rt", "all"})
_Kind = Literal["4xx", "5xx", "ct", "rt", "other"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request on the wire. Times in ms from its start; None for what did not happen."""

    url: str
    status: int | None
    error: str | None
    connect_ms: float | None
    first_byte_ms: float | None
    total_ms: float


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


class WebhookError(SwitchhookError):
    """No usable answer. `code` is from the vendor's error dictionary; no text here holds credentials."""

    def __init__(self, code: int, message: str, url: str, attempts: tuple[Attempt, ...] = ()) -> None:
        super().__init__(f"{code}: {message} ({url})")
        self.code = code
        self.message = message
        self.url = url
        self.attempts = attempts

    @property
    def status(self) -> int | None:
        """The HTTP status of the last request, None if it got no answer."""
        return self.attempts[-1].status if self.attempts else None


@dataclass(frozen=True, slots=True)
class Overrides:
    """Limits of one request chain, as the URL's fragment sets them: `#ct=2000&rc=2&rp=ct,rt`."""

    connect_s: float = CONNECT_S
    read_s: float = READ_S
    total_s: float = TOTAL_S
    retries: int = 1
    retry_on: frozenset[str] = frozenset({"ct"})

    @classmethod
    def parse(cls, url: str) -> Overrides:
        """Read ct, rt, tt (ms), rc and rp; numbers out of range are clamped, other keys (sni, e) have no use here.

        Raises `WebhookError` 11243 for an unknown word in rp.
        """
        given = dict(parse_qsl(url.partition("#")[2]))
        retry_on = frozenset(given.get("rp", "ct").lower().replace(" ", "").split(","))
        if not retry_on <= _RETRY_KINDS:
            raise WebhookError(11243, "The URL's rp= may hold 4xx, 5xx, ct, rt and all only", _shown(url))
        return cls(
            connect_s=_clamped(given.get("ct"), 100, 10_000, CONNECT_S * 1000) / 1000,
            read_s=_clamped(given.get("rt"), 100, 15_000, READ_S * 1000) / 1000,
            total_s=_clamped(given.get("tt"), 100, 15_000, TOTAL_S * 1000) / 1000,
            retries=int(_clamped(given.get("rc"), 0, 5, 1)),
            retry_on=retry_on,
        )

    def covers(self, kind: _Kind) -> bool:
        """Whether a failure of this kind is worth another try."""
        return "all" in self.retry_on or kind in self.retry_on


def _clamped(text: str | None, low: int, high: int, default: float) -> float:
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 9:
        return default
    return float(max(low, min(int(text), high)))


def resolve(base: str, reference: str) -> str:
    """The absolute URL of a TwiML attribute's value; "" is the document's own URL (RFC 3986 §5).

    An absolute reference is returned byte for byte, since it will be signed.
    """
    reference = reference.strip()
    if not reference:
        return base
    if "://" in reference.partition("?")[0].partition("#")[0]:
        return reference
    try:
        return urljoin(base, reference)
    except ValueError:
        return reference  # nothing that can be fetched: `fetch` says so with a code


class WebhookSession:
    """What the client remembers for the life of one call: cookies, and logins per origin."""

    def __init__(self) -> None:
        self.cookies = httpx.Cookies()
        self._credentials: dict[str, tuple[str, str]] = {}
        self._logins: dict[str, httpx.Auth] = {}

    def learn(self, target: _Target) -> None:
        """Keep a URL's credentials for its origin, so that relative URLs there need not repeat them."""
        if target.userinfo:
            user, _, password = target.userinfo.partition(":")
            self._credentials[target.origin] = (unquote(user), unquote(password))

    def authorization(self, request: httpx.Request, origin: str) -> str | None:
        """The Authorization header of a request to an origin where the call has logged in before."""
        login = self._logins.get(origin)
        return next(login.auth_flow(request)).headers.get("Authorization") if login else None

    def answer(self, response: httpx.Response, origin: str) -> str | None:
        """The Authorization header that a 401 asks for; None if there is no (other) answer to it."""
        known, login = self._credentials.get(origin), self._logins.get(origin)
        challenges = [value.lower() for value in response.headers.get_list("www-authenticate")]
        if known is None or isinstance(login, httpx.BasicAuth):
            return None  # nothing to offer, or it was just refused
        if any(challenge.startswith("digest ") for challenge in challenges):
            return self._answer_digest(response, origin, httpx.DigestAuth(*known))
        if any(challenge.startswith("basic") for challenge in challenges):
            self._logins[origin] = httpx.BasicAuth(*known)
            return self.authorization(_blank(response.request), origin)
        return None

    def _answer_digest(self, response: httpx.Response, origin: str, login: httpx.DigestAuth) -> str | None:
        flow = login.auth_flow(_blank(response.request))
        try:
            next(flow)
            header = str(flow.send(response).headers["Authorization"])
        except (httpx.HTTPError, NotImplementedError, LookupError, ValueError):
            return None  # a challenge that cannot be read or met stays the 401 it is
        self._logins[origin] = login
        return header

    def keep_cookies(self, response: httpx.Response) -> None:
        """Take the answer's cookies; raises `ValueError` for one no browser would understand."""
        accepted = []
        for value in response.headers.get_list("set-cookie"):
            name, separator, _ = value.partition(";")[0].partition("=")
            if not separator or not name.strip() or not value.replace("\t", " ").isprintable():
                raise ValueError("a cookie with an empty name or a control character")
            if len(value) <= MAX_COOKIE_BYTES and len(self.cookies.jar) < MAX_COOKIES:
                accepted.append(("set-cookie", value))
        if accepted:
            self.cookies.extract_cookies(httpx.Response(200, headers=accepted, request=response.request))


def _blank(request: httpx.Request) -> httpx.Request:
    # a login is computed over method and target, and written into the request it is given
    blank = httpx.Request(request.method, "http://login.invalid/")
    blank.url = request.url
    return blank


class _WireUrl(httpx.URL):
    """A URL whose request target is what was signed; httpx would re-encode it and remove dot segments."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        rest = url.partition("://")[2]
        self._target = rest[rest.index("/") :].encode("ascii")

    @property
    def raw_path(self) -> bytes:
        return self._target


@dataclass(frozen=True, slots=True)
class _Target:
    """Where one hop goes: the URL in wire form, without fragment and userinfo."""

    url: str
    origin: str
    host: str  # as the Host header has it: the port is there unless it is the scheme's own
    userinfo: str

    @classmethod
    def parse(cls, url: str) -> _Target:
        """Raises `ValueError` for what is no http(s) URL."""
        bare = bare_url(url)
        scheme, _, rest = bare.partition("://")
        scheme = scheme.lower()
        if scheme not in ("http", "https") or len(url) > MAX_URL or not url.replace(" ", "").isprintable():
            raise ValueError("not an http or https URL")
        authority, slash, path = rest.partition("/")
        parsed = httpx.URL(f"{scheme}://{authority}/")
        if not parsed.host or not 0 < (parsed.port or 80) < 65536 or any(c in authority for c in ' \\<>"'):
            raise ValueError("no host")
        userinfo = (
            url.partition("#")[0].partition("://")[2].partition("/")[0].partition("?")[0].rpartition("@")[0]
        )
        if "\\" in userinfo:
            raise ValueError("browsers and RFC 3986 disagree about which host that is")
        shown = authority if authority.isascii() else parsed.netloc.decode("ascii")
        default = ":443" if scheme == "https" else ":80"
        return cls(
            url=f"{scheme}://{shown}{slash}{_wire_path(path)}",
            origin=f"{scheme}://{parsed.netloc.decode('ascii')}",
            host=shown.removesuffix(default),
            userinfo=userinfo,
        )


def _wire_path(path: str) -> str:
    # only what HTTP cannot carry is escaped; an app's own %2f, %7E, "+" and ".." must stay as they are
    return "".join(char if "!" <= char <= "~" else quote(char, safe="", errors="replace") for char in path)


def _with_query(url: str, params: list[tuple[str, str]]) -> str:
    if not params:
        return url
    return f"{url}{'&' if '?' in url else '?'}{urlencode(params)}"


def _missing(url: str, params: list[tuple[str, str]]) -> list[tuple[str, str]]:
    present = {name for name, _ in parse_qsl(url.partition("?")[2], keep_blank_values=True)}
    return [(name, value) for name, value in params if name not in present]


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


class _RequestError(Exception):
    """Why one request gave no answer; becomes a `WebhookError` unless it is tried again."""

    def __init__(self, code: int, message: str, kind: _Kind = "other") -> None:
        super().__init__(message)
        self.code, self.message, self.kind = code, message, kind


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

    def expired(self) -> _RequestError:
        if asyncio.get_running_loop().time() >= self.total_at:
            return _RequestError(11203, "The total time for the request ran out", self._phase())
        if self.connected is None:
            return _RequestError(11201, "The connection was not established in time", "ct")
        return _RequestError(11200, "The app did not answer in time", "rt")

    def _phase(self) -> _Kind:
        return "ct" if self.connected is None else "rt"

    def failed(self, error: Exception) -> _RequestError:
        if isinstance(error, (httpx.ConnectTimeout, httpx.PoolTimeout)):
            return _RequestError(11201, "The connection was not established in time", "ct")
        if isinstance(error, httpx.TimeoutException):
            return _RequestError(11200, "The app did not answer in time", "rt")
        if isinstance(error, httpx.ConnectError) or (self.wire and self.connected is None):
            return _RequestError(*_connect_failure(error), "ct")
        if self.wire and self.reused and self.first_byte is None:
            # the app closed a kept connection as the request left: it never saw it
            return _RequestError(11205, "The app closed the connection", "ct")
        if isinstance(error, httpx.LocalProtocolError) or _is_malformed(error):
            return _RequestError(11206, "The app's answer is not HTTP")
        return _RequestError(11200, "The connection broke before the answer was complete", "rt")


def _is_malformed(error: Exception) -> bool:
    # a peer that merely hung up raises bare; what the HTTP parser (h11) refused has its error behind it
    refused = any(type(cause).__module__.startswith("h11") for cause in _causes(error))
    return refused and isinstance(error, httpx.RemoteProtocolError)


def _connect_failure(error: Exception) -> tuple[int, str]:
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _CERTIFICATE.get(
                cause.verify_code, (11237, "The certificate is not signed by a trusted CA")
            )
        if isinstance(cause, ssl.SSLError):
            return 11220, "The TLS handshake failed"
        if isinstance(cause, (socket.gaierror, UnicodeError)):
            return 11210, "The host name does not resolve"
        if isinstance(cause, ConnectionRefusedError):
            return 11202, "The connection was refused"
    return 11205, "The connection failed"


_CERTIFICATE = {
    10: (11236, "The certificate has expired"),
    62: (11235, "The certificate is for another host name"),
    64: (11235, "The certificate is for another address"),
}


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for inner in error.exceptions:
                yield from _causes(inner)
        error = error.__cause__ or error.__context__


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
            params = self.params if method == "POST" else _missing(url.partition("#")[0], self.params)
        raise self._error(11215, f"More than {MAX_REDIRECTS} redirects", target.url)

    def _target(self, url: str) -> _Target:
        try:
            return _Target.parse(url)
        except (ValueError, httpx.InvalidURL) as error:
            code = 11216 if self.attempts else 11100
            raise self._error(code, "This is not a valid http or https URL", _shown(url)) from error

    async def _hop(self, target: _Target, method: str, params: list[tuple[str, str]]) -> _Answer:
        """One URL: repeated for retries and, once, for a login. Raises `WebhookError`."""
        token = self.idempotency_token or str(uuid.UUID(hex=self.client.ids.hex(32), version=4))
        url = target.url if method == "POST" else _with_query(target.url, params)
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
            except _RequestError as failure:
                if not self.limits.covers(failure.kind) or self.retries == 0 or failure.code == 11203:
                    raise self._error(failure.code, failure.message, target.url) from failure
                self.retries -= 1
                authorization = None

    def _request(
        self, target: _Target, method: str, url: str, form: list[tuple[str, str]], token: str
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
        request.url = _WireUrl(url)  # set here, because the constructor would copy it into a plain URL
        self.session.cookies.set_cookie_header(request)
        return request

    async def _send(self, request: httpx.Request, target: _Target) -> _Answer:
        """One request on the wire, recorded as an `Attempt`. Raises `_RequestError`."""
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
        reader = _BodyReader(response.headers)
        scope.reschedule(watch.deadline())
        async for chunk in response.stream:  # type: ignore[union-attr]
            scope.reschedule(watch.deadline())  # the read limit holds between packets, not for the whole
            reader.feed(chunk)
        return reader.end()

    def _reply(self, answer: _Answer, target: _Target) -> WebhookReply:
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


def _failure(raised: Exception, watch: _Stopwatch, status: int | None) -> _RequestError:
    if isinstance(raised, _RequestError):
        return raised
    if isinstance(raised, TimeoutError):
        return watch.expired()
    if status is not None and isinstance(raised, ValueError):
        return _RequestError(11206, f"The app's answer breaks the protocol: {raised}")
    return watch.failed(raised)


def _check_status(status: int) -> None:
    if 400 <= status < 600:
        raise _RequestError(11200, f"The app answered {status}", "4xx" if status < 500 else "5xx")
    if not 200 <= status < 400:
        raise _RequestError(11217, f"The app answered {status}, which is no HTTP status")


def _shown(url: str) -> str:
    # what is not a URL may still hold a password, and control characters that would forge log lines
    return "".join(char if char.isprintable() else "?" for char in bare_url(url)[:200]).rpartition("@")[2]


class _BodyReader:
    """An answer's body, decoded and bounded, whatever it claims about its size."""

    def __init__(self, headers: httpx.Headers) -> None:
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", "", "gzip", "x-gzip"):
            raise _RequestError(11206, "The app's answer is encoded in a way that was not asked for")
        self._inflate = zlib.decompressobj(16 + zlib.MAX_WBITS) if "gzip" in encoding else None
        self._chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        self._received = 0
        self._body = bytearray()

    def feed(self, chunk: bytes) -> None:
        """Take a packet; raises `_RequestError` 11750 above `MAX_BODY`, before or after decoding."""
        self._received += len(chunk)
        if self._inflate is None:
            self._body += chunk
        else:
            try:  # never more than one byte beyond the limit: a kilobyte of gzip can hold a megabyte
                self._body += self._inflate.decompress(chunk, MAX_BODY + 1 - len(self._body))
            except zlib.error as error:
                raise _RequestError(11206, "The app's answer is not the gzip it claims to be") from error
        if max(self._received, len(self._body)) > MAX_BODY:
            raise _RequestError(11750, f"The app's answer is larger than {MAX_BODY} bytes")

    def end(self) -> bytes:
        """The whole body; raises `_RequestError` if it is cut off, or empty and chunked (11770)."""
        if self._inflate is not None and self._received and not self._inflate.eof:
            raise _RequestError(11206, "The app's gzip answer is cut off")
        if self._chunked and not self._body:
            raise _RequestError(11770, "The app's answer is chunked and empty")
        return bytes(self._body)
