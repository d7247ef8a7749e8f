"""The webhook client: through a mock transport for the rules, through raw sockets for what is on the wire."""

from __future__ import annotations

import asyncio
import base64
import gzip
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import parse_qsl

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twilio.request_validator import RequestValidator

from engine.ids import SeededIds
from engine.webhook import (
    MAX_BODY,
    MAX_COOKIES,
    Overrides,
    WebhookClient,
    WebhookError,
    WebhookReply,
    WebhookSession,
    resolve,
)

TOKEN = "12345"
PARAMS = [("CallSid", "CA1"), ("From", "+15551230001"), ("Name", "Zoë & co")]
Handler = Callable[[httpx.Request], httpx.Response]
XML = {"content-type": "text/xml"}


def app(*answers: httpx.Response | Exception) -> tuple[WebhookClient, list[httpx.Request]]:
    """A client whose app gives these answers in turn, and the requests it got."""
    seen: list[httpx.Request] = []
    queue = list(answers)

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        answer = queue.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return WebhookClient(TOKEN, SeededIds(), transport=httpx.MockTransport(handle)), seen


def is_signed(request: httpx.Request) -> bool:
    """What an app's validator says, from nothing but the request."""
    url = f"{request.url.scheme}://{request.headers['host']}{request.url.raw_path.decode()}"
    form = dict(parse_qsl(request.content.decode(), keep_blank_values=True))
    return RequestValidator(TOKEN).validate(url, form, request.headers["x-twilio-signature"])


async def fails(
    client: WebhookClient, url: str, code: int, session: WebhookSession | None = None
) -> WebhookError:
    with pytest.raises(WebhookError) as caught:
        await client.fetch(session or WebhookSession(), url, "POST", PARAMS)
    assert caught.value.code == code, caught.value
    return caught.value


async def test_a_post_carries_the_vendors_headers_and_form() -> None:
    client, seen = app(
        httpx.Response(200, headers={"content-type": 'Text/XML; charset="UTF-8"'}, content=b"<Response/>")
    )
    reply = await client.fetch(WebhookSession(), "http://app.test:5000/voice?x=%2f#rc=0", "post", PARAMS)
    (request,) = seen
    assert request.method == "POST"
    assert request.url.raw_path == b"/voice?x=%2f"
    assert parse_qsl(request.content.decode()) == PARAMS
    wanted = {
        "host": "app.test:5000",
        "user-agent": "TwilioProxy/1.1",
        "accept": "*/*",
        "accept-encoding": "gzip",
        "content-type": "application/x-www-form-urlencoded; charset=utf-8",
    }
    assert {name: request.headers[name] for name in wanted} == wanted
    assert len(request.headers["i-twilio-idempotency-token"]) == 36
    assert "authorization" not in request.headers
    assert is_signed(request)
    assert (reply.status, reply.content_type, reply.charset, reply.body) == (
        200,
        "text/xml",
        "utf-8",
        b"<Response/>",
    )
    assert reply.url == "http://app.test:5000/voice?x=%2f"


async def test_a_get_appends_its_parameters_and_has_no_body() -> None:
    client, seen = app(httpx.Response(200), httpx.Response(200))
    reply = await client.fetch(WebhookSession(), "http://app.test/voice?a=1", "GET", PARAMS)
    await client.fetch(WebhookSession(), "http://app.test/voice?", "GET", dict(PARAMS))
    assert seen[0].url.raw_path.startswith(b"/voice?a=1&CallSid=CA1&From=%2B15551230001&Name=")
    assert seen[1].url.raw_path.startswith(b"/voice?CallSid=CA1&")
    assert [request.content for request in seen] == [b"", b""]
    assert all(is_signed(request) for request in seen)
    assert reply.url == "http://app.test/voice?a=1"
    assert reply.content_type == ""


@pytest.mark.parametrize(("status", "method"), [(301, "GET"), (302, "GET"), (303, "GET"), (307, "POST")])
async def test_redirects_change_the_method_and_are_signed_anew(status: int, method: str) -> None:
    client, seen = app(
        httpx.Response(status, headers={"location": "../next?CallSid=mine#x"}),
        httpx.Response(200, headers=XML),
    )
    reply = await client.fetch(WebhookSession(), "https://app.test:8443/a/b/voice", "POST", PARAMS)
    assert reply.url == "https://app.test:8443/a/next?CallSid=mine"
    assert seen[1].method == method
    query = parse_qsl(seen[1].url.raw_path.decode().partition("?")[2])
    form = parse_qsl(seen[1].content.decode())
    if method == "GET":
        assert (query, form) == ([("CallSid", "mine"), *PARAMS[1:]], [])
    else:
        assert (query, form) == ([("CallSid", "mine")], PARAMS)
    assert all(is_signed(request) for request in seen)
    assert seen[0].headers["i-twilio-idempotency-token"] != seen[1].headers["i-twilio-idempotency-token"]
    assert [attempt.status for attempt in reply.attempts] == [status, 200]


async def test_ten_redirects_are_followed_and_not_eleven() -> None:
    client, seen = app(*[httpx.Response(302, headers={"location": "/again"})] * 10, httpx.Response(200))
    reply = await client.fetch(WebhookSession(), "http://app.test/", "POST", PARAMS)
    assert len(reply.attempts) == len(seen) == 11
    client, seen = app(*[httpx.Response(302, headers={"location": "/again"})] * 12)
    await fails(client, "http://app.test/", 11215)
    assert len(seen) == 11


@pytest.mark.parametrize(
    ("status", "location"),
    [
        (302, ""),
        (304, "/x"),
        (308, "/x"),
        (300, "/x"),
        (302, "ftp://h/"),
        (302, "file:///etc/passwd"),
        (302, "//["),
    ],
)
async def test_other_redirects_are_refused(status: int, location: str) -> None:
    client, _ = app(httpx.Response(status, headers={"location": location} if location else {}))
    await fails(client, "http://app.test/", 11216)


async def test_cookies_last_as_long_as_the_call() -> None:
    session = WebhookSession()
    first = httpx.Response(
        302, headers=[("location", "/b"), ("set-cookie", "id=7; Path=/"), ("set-cookie", "p=1; Path=/x")]
    )
    client, seen = app(
        first, httpx.Response(200), httpx.Response(200), httpx.Response(200), httpx.Response(200)
    )
    await client.fetch(session, "http://app.test/a")
    await client.fetch(session, "http://app.test/x/y")
    await client.fetch(session, "http://other.test/")
    await client.fetch(WebhookSession(), "http://app.test/b")
    assert [request.headers.get("cookie") for request in seen] == [None, "id=7", "p=1; id=7", None, None]


@pytest.mark.parametrize("cookie", ["=x", "novalue", "  =x; Path=/"])
async def test_a_bad_cookie_is_a_protocol_violation(cookie: str) -> None:
    client, _ = app(httpx.Response(200, headers={"set-cookie": cookie}))
    error = await fails(client, "http://app.test/", 11206)
    assert error.status == 200


async def test_cookies_are_bounded() -> None:
    session = WebhookSession()
    many = [("set-cookie", f"c{number}=x") for number in range(40)]
    client, _ = app(*[httpx.Response(200, headers=[("set-cookie", "big=" + "x" * 5000), *many])] * 1)
    await client.fetch(session, "http://app.test/")
    assert {cookie.name for cookie in session.cookies.jar} == {f"c{number}" for number in range(40)}
    client, _ = app(*[httpx.Response(200, headers={"set-cookie": f"d{number}=x"}) for number in range(30)])
    for _ in range(30):
        await client.fetch(session, "http://app.test/")
    assert len(session.cookies.jar) == MAX_COOKIES


async def test_basic_login_waits_for_the_401_and_lasts_for_the_call() -> None:
    ask = httpx.Response(401, headers={"www-authenticate": 'Basic realm="x"'})
    session = WebhookSession()
    client, seen = app(ask, *[httpx.Response(200)] * 3)
    reply = await client.fetch(session, "http://us%3Aer:p%40w@app.test:5000/voice", "POST", PARAMS)
    await client.fetch(session, resolve(reply.url, "next"), "POST", PARAMS)
    await client.fetch(session, "http://app.test:5001/", "POST", PARAMS)
    login = "Basic " + base64.b64encode(b"us:er:p@w").decode()
    assert [request.headers.get("authorization") for request in seen] == [None, login, login, None]
    assert len({request.headers["i-twilio-idempotency-token"] for request in seen[:2]}) == 1
    assert all(is_signed(request) for request in seen)
    assert "p%40w" not in repr(reply)
    assert reply.url == "http://app.test:5000/voice"


async def test_credentials_of_the_first_url_serve_a_relative_one_later() -> None:
    session = WebhookSession()
    client, seen = app(
        httpx.Response(200), httpx.Response(401, headers={"www-authenticate": "Basic"}), httpx.Response(200)
    )
    reply = await client.fetch(session, "http://u:p@app.test/open")
    await client.fetch(session, resolve(reply.url, "/closed"))
    assert seen[2].headers["authorization"] == "Basic " + base64.b64encode(b"u:p").decode()


async def test_a_refused_login_ends_and_tells_no_secret() -> None:
    ask = httpx.Response(401, headers={"www-authenticate": 'Basic realm="x"'})
    client, seen = app(ask, ask)
    error = await fails(client, "http://user:hunter2@app.test/", 11200)
    assert len(seen) == 2
    assert error.status == 401
    assert "hunter2" not in f"{error!r} {error.url} {error.attempts}"


async def test_digest_login_is_over_the_target_on_the_wire_and_counts_its_nonce() -> None:
    challenge = 'Digest realm="r", nonce="n0", qop="auth", algorithm=SHA-256, opaque="o"'
    session = WebhookSession()
    client, seen = app(
        httpx.Response(401, headers={"www-authenticate": challenge}), *[httpx.Response(200)] * 2
    )
    for _ in range(2):
        await client.fetch(session, "http://Mufasa:Circle@app.test/a/%2e%2E/b?x=%2f", "POST", PARAMS)
    assert "authorization" not in seen[0].headers
    for count, request in enumerate(seen[1:], 1):
        header = request.headers["authorization"]
        assert 'uri="/a/%2e%2E/b?x=%2f"' in header
        assert f"nc={count:08x}" in header


@pytest.mark.parametrize(
    "challenge",
    [
        "Digest nonsense",
        'Digest realm="r"',
        'Digest realm="r", nonce="n", qop="auth-int"',
        'Digest realm="r", nonce="n", algorithm=X',
        "Bearer",
    ],
)
async def test_a_challenge_that_cannot_be_met_is_the_401_it_is(challenge: str) -> None:
    client, _ = app(httpx.Response(401, headers={"www-authenticate": challenge}))
    assert (await fails(client, "http://u:p@app.test/", 11200)).status == 401


@pytest.mark.parametrize("status", [400, 404, 500, 503])
async def test_an_error_status_is_an_error(status: int) -> None:
    client, seen = app(httpx.Response(status, content=b"x" * (MAX_BODY + 1)))
    error = await fails(client, "http://app.test/", 11200)
    assert (error.status, len(seen), str(status) in error.message) == (status, 1, True)


@pytest.mark.parametrize(
    ("fragment", "answers", "requests"),
    [
        ("", [httpx.ConnectError("refused"), httpx.Response(200)], 2),
        ("rc=2&rp=5xx", [httpx.Response(500), httpx.Response(503), httpx.Response(200)], 3),
        ("rp=4xx,rt", [httpx.ReadTimeout("slow"), httpx.Response(200)], 2),
        (
            "rc=5&rp=all",
            [*[httpx.Response(429)] * 3, httpx.ConnectError("x"), httpx.ReadError("x"), httpx.Response(200)],
            6,
        ),
    ],
)
async def test_retries_by_kind(
    fragment: str, answers: list[httpx.Response | Exception], requests: int
) -> None:
    client, seen = app(*answers)
    reply = await client.fetch(WebhookSession(), f"http://app.test/#{fragment}", "POST", PARAMS)
    assert len(seen) == len(reply.attempts) == requests
    assert len({request.headers["i-twilio-idempotency-token"] for request in seen}) == 1


@pytest.mark.parametrize(
    ("fragment", "answer", "code", "requests"),
    [
        ("", httpx.ConnectError("x"), 11205, 2),
        ("rc=0", httpx.ConnectError("x"), 11205, 1),
        ("rc=3", httpx.ConnectTimeout("x"), 11201, 4),
        ("rp=5xx", httpx.ConnectError("x"), 11205, 1),
        ("rp=ct", httpx.Response(500), 11200, 1),
        ("rp=sometimes", httpx.Response(200), 11243, 0),
    ],
)
async def test_retries_end(
    fragment: str, answer: httpx.Response | Exception, code: int, requests: int
) -> None:
    client, seen = app(*[answer] * 6)
    error = await fails(client, f"http://app.test/#{fragment}", code)
    assert len(seen) == len(error.attempts) == requests


@given(st.text("crtps0123456789=&,x-+", max_size=40))
def test_overrides_are_always_in_range(fragment: str) -> None:
    limits = Overrides.parse(f"http://h/#{fragment}&rp=ct")
    assert 0.1 <= limits.connect_s <= 10
    assert 0.1 <= limits.read_s <= 15
    assert 0.1 <= limits.total_s <= 15
    assert 0 <= limits.retries <= 5


def test_overrides_are_clamped() -> None:
    parsed = Overrides.parse("http://h/p?rc=9#ct=1&rt=99999&tt=2500&rc=7&rp=ct,%205xx&e=dublin&sni=n")
    assert parsed == Overrides(0.1, 15.0, 2.5, 5, frozenset({"ct", "5xx"}))
    assert Overrides.parse("http://h/#ct=abc&rt=-5&rc=") == Overrides()


@pytest.mark.parametrize(
    "url",
    [
        "", "voice", "/voice", "ftp://h/", "http://", "http:///p", "http://h:99999/", "http://h:x/",
        "http://h\r\nX: y/", "http://a b/", "http://h/" + "x" * 20_000, "http://[::1/", "http://h\\@evil/",
        "http://h/\x00",
    ],
)  # fmt: skip
async def test_what_is_no_url_is_11100(url: str) -> None:
    client, seen = app(httpx.Response(200))
    await fails(client, url, 11100)
    assert seen == []


@pytest.mark.parametrize(
    "url", ["user:hunter2@host", "ftp://u:hunter2@h/", "u:hunter2@h#rp=x", "http://u:hunter2@h:x/"]
)
async def test_no_error_tells_a_password(url: str) -> None:
    client, _ = app()
    with pytest.raises(WebhookError) as caught:
        await client.fetch(WebhookSession(), url)
    assert "hunter2" not in f"{caught.value} {caught.value.url}"


async def test_parameters_that_make_the_url_too_long_are_11100() -> None:
    client, _ = app(httpx.Response(200))
    with pytest.raises(WebhookError) as caught:
        await client.fetch(WebhookSession(), "http://app.test/", "GET", {"SpeechResult": "x" * 100_000})
    assert caught.value.code == 11100


async def test_a_gzip_answer_is_decoded_and_a_bomb_is_not() -> None:
    packed = {"content-encoding": "gzip"}
    bomb = gzip.compress(b"x" * 50_000_000)
    assert len(bomb) < MAX_BODY
    fits, body = gzip.compress(b"y" * MAX_BODY), b"<Response/>"
    client, _ = app(
        httpx.Response(200, headers=packed, stream=httpx.ByteStream(gzip.compress(body))),
        httpx.Response(200, headers=packed, stream=httpx.ByteStream(fits)),
        httpx.Response(200, headers=packed, stream=httpx.ByteStream(bomb)),
        httpx.Response(200, headers=packed, stream=httpx.ByteStream(fits[:-9])),
        httpx.Response(200, headers=packed, stream=httpx.ByteStream(b"plain")),
        httpx.Response(200, headers={"content-encoding": "br"}, stream=httpx.ByteStream(b"?")),
    )
    assert (await client.fetch(WebhookSession(), "http://app.test/")).body == body
    assert len((await client.fetch(WebhookSession(), "http://app.test/")).body) == MAX_BODY
    await fails(client, "http://app.test/", 11750)
    for _ in range(3):
        await fails(client, "http://app.test/", 11206)


def test_relative_urls() -> None:
    base = "http://h:5000/a/b?x=1"
    assert resolve(base, "") == base
    assert resolve(base, " c?y=2#rc=2 ") == "http://h:5000/a/c?y=2#rc=2"
    assert resolve(base, "/c") == "http://h:5000/c"
    assert resolve(base, "//other/c") == "http://other/c"
    assert resolve(base, "https://h/%7e/../x?") == "https://h/%7e/../x?"
    assert resolve("http://u:p@h/a", "b") == "http://u:p@h/b"
    assert resolve(base, "c?next=http://x/") == "http://h:5000/a/c?next=http://x/"


# -- on the wire


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        await listening.wait_closed()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = [line.split(b":")[1] for line in head.splitlines() if line.lower().startswith(b"content-length")]
    return head + await reader.readexactly(int(length[0]) if length else 0)


def answering(*answers: bytes, seen: list[bytes] | None = None) -> Serve:
    queue = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while queue:
            request = await read_request(reader)
            if seen is not None:
                seen.append(request)
            answer = queue.pop(0)
            writer.write(answer)
            await writer.drain()
            if not answer:
                return
        await reader.read()  # until the client closes

    return serve


async def fetch_wire(url: str, params: list[tuple[str, str]] = PARAMS, method: str = "POST") -> WebhookReply:
    client = WebhookClient(lambda: TOKEN, SeededIds())
    try:
        return await client.fetch(WebhookSession(), url, method, params)
    finally:
        await client.aclose()


OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: 11\r\n\r\n<Response/>"


async def test_the_request_line_is_what_was_signed() -> None:
    seen: list[bytes] = []
    path = "/a/../b//%7e%2F~'(x)|^`{}/;p?q=%20+\"<>[]&&e=@:/?ü \\"
    async with server(answering(OK, seen=seen)) as port:
        reply = await fetch_wire(f"http://user:pw@127.0.0.1:{port}{path}#rc=0")
    target = seen[0].split(b" ")[1].decode()
    assert target == path.replace("ü", "%C3%BC").replace(" ", "%20")
    lines = dict(line.split(": ", 1) for line in seen[0].decode().split("\r\n\r\n")[0].splitlines()[1:])
    assert lines["Host"] == f"127.0.0.1:{port}"
    form = dict(parse_qsl(seen[0].split(b"\r\n\r\n")[1].decode()))
    url = f"http://{lines['Host']}{target}"
    assert RequestValidator(TOKEN).compute_signature(url, form) == lines["X-Twilio-Signature"]
    assert "user" not in seen[0].decode()
    assert reply.body == b"<Response/>"
    (attempt,) = reply.attempts
    assert attempt.connect_ms is not None
    assert attempt.first_byte_ms is not None
    assert 0 < attempt.connect_ms <= attempt.first_byte_ms <= attempt.total_ms


async def test_connections_are_kept_and_one_that_died_is_replaced() -> None:
    seen: list[bytes] = []
    connections: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        answers = [OK, OK, b""] if len(connections) == 1 else [OK]
        await answering(*answers, seen=seen)(reader, writer)

    async with server(serve) as port:
        client = WebhookClient(TOKEN, SeededIds())
        for _ in range(3):
            reply = await client.fetch(WebhookSession(), f"http://127.0.0.1:{port}/", "POST", PARAMS)
        await client.aclose()
    assert [attempt.error for attempt in reply.attempts] == ["The app closed the connection", None]
    assert (len(connections), len(seen)) == (2, 4)


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


@pytest.mark.parametrize(
    ("fragment", "code"), [("rt=100", 11200), ("tt=100", 11203), ("tt=150&rt=100", 11200)]
)
async def test_a_silent_app_runs_out_of_time(fragment: str, code: int) -> None:
    async with server(silent) as port:
        with pytest.raises(WebhookError) as caught:
            await fetch_wire(f"http://127.0.0.1:{port}/#{fragment}")
    assert caught.value.code == code
    (attempt,) = caught.value.attempts
    assert attempt.connect_ms is not None
    assert attempt.status is None
    assert attempt.total_ms >= 90


async def test_a_dripping_app_meets_the_total_limit() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")
        while not reader.at_eof():
            writer.write(b"x")
            await writer.drain()
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.02)

    async with server(drip) as port:
        with pytest.raises(WebhookError) as caught:
            await fetch_wire(f"http://127.0.0.1:{port}/#rt=100&tt=300")
    assert (caught.value.code, caught.value.status) == (11203, 200)


async def test_a_tls_handshake_that_never_comes_is_a_connect_timeout() -> None:
    async with server(silent) as port:
        with pytest.raises(WebhookError) as caught:
            await fetch_wire(f"https://127.0.0.1:{port}/#ct=100")
    assert caught.value.code == 11201
    assert [attempt.connect_ms for attempt in caught.value.attempts] == [None, None]


async def test_refused_unresolved_and_not_tls() -> None:
    async with server(silent) as port:
        pass
    for url, code in [(f"http://127.0.0.1:{port}/", 11202), ("http://nothing.invalid/", 11210)]:
        with pytest.raises(WebhookError) as caught:
            await fetch_wire(url)
        assert caught.value.code == code
        assert len(caught.value.attempts) == 2
    async with server(greeting) as plain:
        with pytest.raises(WebhookError) as caught:
            await fetch_wire(f"https://127.0.0.1:{plain}/#rc=0")
    assert caught.value.code == 11220


async def greeting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail.example.com ESMTP\r\n")
    await reader.read()


@pytest.mark.parametrize(
    ("verify_code", "code"), [(10, 11236), (62, 11235), (64, 11235), (18, 11237), (20, 11237)]
)
async def test_certificate_errors(verify_code: int, code: int) -> None:
    cause = ssl.SSLCertVerificationError()
    cause.verify_code = verify_code
    error = httpx.ConnectError("TLS")
    error.__cause__ = cause
    client, seen = app(error, error)
    await fails(client, "https://app.test/", code)
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", 11206),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort", 11206),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 11770),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 65537\r\n\r\n" + b"x" * 65537, 11750),
        (b"HTTP/1.1 700 Odd\r\nContent-Length: 0\r\n\r\n", 11217),
        (b"HTTP/1.1 200 OK\r\nSet-Cookie: a=\x01\r\n\r\n", 11206),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000, 11206),
        (b"", 11200),
    ],
)
async def test_answers_that_break_the_rules(answer: bytes, code: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)
        await writer.drain()

    async with server(serve) as port:
        with pytest.raises(WebhookError) as caught:
            await fetch_wire(f"http://127.0.0.1:{port}/")
    assert caught.value.code == code, caught.value
    assert len(caught.value.attempts) == 1
