"""Play URLs through a scripted web server: caching, limits, errors."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile

from engine.media.audio import AudioError
from engine.media.fetch import MediaFetcher
from speech.base import SpeechError
from speech.cache import Prompt, PromptCache
from tests.speech.conftest import Scripted, pcm_of

URL = "https://media.example.com/hello.wav"


def wav(value: int, samples: int = 400) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.full(samples, value, np.int16), 8000, subtype="PCM_16", format="WAV")
    return file.getvalue()


class Web:
    """A web server: `reply` answers, `requests` remembers."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self.reply: Callable[[httpx.Request], httpx.Response] = lambda request: httpx.Response(404)
        self.asked = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    def serve(self, value: int, **headers: str) -> None:
        names = {name.replace("_", "-"): text for name, text in headers.items()}
        content = {"content-type": "audio/wav", **names}
        self.reply = lambda request: httpx.Response(200, content=wav(value), headers=content)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.asked.set()
        await self.gate.wait()
        return self.reply(request)


class Clock:
    seconds = 50.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def web() -> Web:
    return Web()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def cache(tmp_path: Path) -> AsyncIterator[PromptCache]:
    cache = PromptCache(tmp_path / "prompts", 1 << 20, Scripted())
    yield cache
    await cache.close()


@pytest.fixture
async def client(web: Web) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.MockTransport(web)) as client:
        yield client


@pytest.fixture
async def fetcher(cache: PromptCache, client: httpx.AsyncClient, clock: Clock) -> AsyncIterator[MediaFetcher]:
    fetcher = MediaFetcher(cache, client, clock=clock)
    yield fetcher
    await fetcher.close()


async def value(prompt: Prompt) -> int:
    """The one sample value of which the file consists."""
    segments = [segment async for segment in prompt.segments()]
    data = b"".join(pcm_of(segment) for segment in segments)
    (found,) = set(np.frombuffer(data, np.int16).tolist())
    assert len(data) == 800
    return int(found)


async def test_file_is_fetched_without_webhook_parameters(fetcher: MediaFetcher, web: Web) -> None:
    web.serve(7)
    assert await value(await fetcher.prompt(f"{URL}?a=b#rc=2&ct=100")) == 7
    (request,) = web.requests
    assert (request.method, str(request.url), request.content) == ("GET", f"{URL}?a=b", b"")
    assert not [name for name in request.headers if name.startswith("x-twilio")]


async def test_max_age_then_etag_then_new_file(fetcher: MediaFetcher, web: Web, clock: Clock) -> None:
    web.serve(1, cache_control="public, max-age=60", etag='"one"')
    first = await fetcher.prompt(URL)
    clock.seconds += 59
    assert await fetcher.prompt(URL) is first
    assert len(web.requests) == 1

    web.reply = lambda request: httpx.Response(304, headers={"cache-control": "max-age=10"})
    clock.seconds += 2
    assert await fetcher.prompt(URL) is first
    assert web.requests[1].headers["if-none-match"] == '"one"'
    clock.seconds += 9
    assert await fetcher.prompt(URL) is first
    assert len(web.requests) == 2  # the 304 renewed it for ten seconds

    web.serve(2, etag='"two"')
    clock.seconds += 2
    assert await value(await fetcher.prompt(URL)) == 2
    assert web.requests[2].headers["if-none-match"] == '"one"'
    assert await value(first) == 1  # still playable by the call that has it


async def test_last_modified_is_asked_each_time(fetcher: MediaFetcher, web: Web) -> None:
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    web.serve(1, last_modified=date)
    first = await fetcher.prompt(URL)
    web.reply = lambda request: httpx.Response(304)
    for _ in range(2):
        assert await fetcher.prompt(URL) is first
    assert [request.headers.get("if-modified-since") for request in web.requests] == [None, date, date]


async def test_no_cache_revalidates_in_spite_of_max_age(fetcher: MediaFetcher, web: Web) -> None:
    web.serve(1, cache_control="no-cache, max-age=600", etag='"one"')
    await fetcher.prompt(URL)
    web.serve(2)
    assert await value(await fetcher.prompt(URL)) == 2
    assert web.requests[1].headers["if-none-match"] == '"one"'


@pytest.mark.parametrize("control", ["no-store, max-age=600", "No-Store"])
async def test_no_store_is_fetched_anew(fetcher: MediaFetcher, web: Web, control: str) -> None:
    web.serve(1, cache_control=control, etag='"one"')
    await fetcher.prompt(URL)
    web.serve(2)
    assert await value(await fetcher.prompt(URL)) == 2
    assert "if-none-match" not in web.requests[1].headers


@pytest.mark.parametrize("control", ["max-age=-1", "max-age=x", "max-age", "", 'max-age="0"'])
async def test_without_a_usable_age_nothing_is_fresh(fetcher: MediaFetcher, web: Web, control: str) -> None:
    web.serve(1, cache_control=control)
    await fetcher.prompt(URL)
    web.serve(2)
    assert await value(await fetcher.prompt(URL)) == 2


async def test_evicted_prompt_is_fetched_whole(fetcher: MediaFetcher, web: Web) -> None:
    web.serve(1, cache_control="max-age=600", etag='"one"')
    prompt = await fetcher.prompt(URL)
    await value(prompt)
    prompt.path.unlink()
    assert await value(await fetcher.prompt(URL)) == 1
    assert "if-none-match" not in web.requests[1].headers


async def test_calls_at_once_share_a_fetch_and_survive_a_hang_up(fetcher: MediaFetcher, web: Web) -> None:
    web.serve(1)
    web.gate.clear()
    callers = [asyncio.ensure_future(fetcher.prompt(URL)) for _ in range(5)]
    await web.asked.wait()
    callers[0].cancel()
    web.gate.set()
    first, *rest = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(first, asyncio.CancelledError)
    assert len({id(prompt) for prompt in rest}) == 1
    assert isinstance(rest[0], Prompt)
    assert len(web.requests) == 1


async def test_redirect_is_followed(fetcher: MediaFetcher, web: Web) -> None:
    def reply(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/hello.wav":
            return httpx.Response(302, headers={"location": "/moved.ul"})
        return httpx.Response(200, content=b"\xff" * 400, headers={"content-type": "audio/basic"})

    web.reply = reply
    assert await value(await fetcher.prompt(URL)) == 0  # mu-law 0xff is silence


@pytest.mark.parametrize(
    ("reply", "code", "text"),
    [
        (httpx.Response(404), 11200, "answered with HTTP status 404"),
        (httpx.Response(503), 11200, "answered with HTTP status 503"),
        (httpx.Response(304), 11200, "answered with HTTP status 304"),
        (
            httpx.Response(200, text="<html>", headers={"content-type": "text/html"}),
            13420,
            "which is no audio",
        ),
        (httpx.Response(200, text="???", headers={"content-type": "audio/wav"}), 13420, "cannot be decoded"),
        (httpx.Response(302, headers={"location": "/hello.wav"}), 11215, "maximum allowed redirects"),
    ],
)
async def test_bad_answers(
    fetcher: MediaFetcher, web: Web, reply: httpx.Response, code: int, text: str
) -> None:
    web.reply = lambda request: reply
    with pytest.raises(AudioError, match=text) as caught:
        await fetcher.prompt("https://user:secret@media.example.com/hello.wav")
    assert caught.value.code == code
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (httpx.ConnectError("Connection refused"), 11205),
        (httpx.ConnectTimeout("slow"), 11201),
        (httpx.ReadError(""), 11200),
        (httpx.TooManyRedirects("too many"), 11215),
    ],
)
async def test_failures_of_the_network(fetcher: MediaFetcher, web: Web, error: Exception, code: int) -> None:
    def reply(request: httpx.Request) -> httpx.Response:
        raise error

    web.reply = reply
    with pytest.raises(AudioError, match="could not be loaded") as caught:
        await fetcher.prompt(URL)
    assert caught.value.code == code
    web.serve(3)
    assert await value(await fetcher.prompt(URL)) == 3  # a failure is not remembered


async def test_size_limit_stops_reading(cache: PromptCache, client: httpx.AsyncClient, web: Web) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1000
            yield bytes(1000)

    web.reply = lambda request: httpx.Response(200, content=endless(), headers={"content-type": "audio/ulaw"})
    with pytest.raises(AudioError, match="larger than 5000 bytes") as caught:
        await MediaFetcher(cache, client, max_bytes=5000).prompt(URL)
    assert caught.value.code == 11200
    assert sent == 6000


async def test_time_limit(cache: PromptCache, client: httpx.AsyncClient, web: Web) -> None:
    web.gate.clear()
    with pytest.raises(AudioError, match="was not loaded within") as caught:
        await MediaFetcher(cache, client, max_seconds=0.01).prompt(URL)
    assert caught.value.code == 11203


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/a.wav",
        "data:audio/wav;base64,AAAA",
        "http://[::1/a.wav",
        "http://[::1/a.wav#b",
        "http://",
        "http:///a.wav",
    ],
)
async def test_other_addresses_are_refused(fetcher: MediaFetcher, web: Web, url: str) -> None:
    web.serve(1)
    with pytest.raises(AudioError) as caught:
        await fetcher.prompt(url)
    assert caught.value.code == 11100
    assert web.requests == []


async def test_redirect_out_of_http_goes_nowhere(cache: PromptCache) -> None:
    moved = httpx.Response(302, headers={"location": "file:///etc/hostname"})
    mounts = {"https://": httpx.MockTransport(lambda request: moved)}
    async with httpx.AsyncClient(mounts=mounts, trust_env=False) as client:
        with pytest.raises(AudioError, match="could not be loaded") as caught:
            await MediaFetcher(cache, client, allow_files=True).prompt(URL)
    assert caught.value.code == 11100


async def test_files_only_where_allowed(
    tmp_path: Path, fetcher: MediaFetcher, cache: PromptCache, client: httpx.AsyncClient
) -> None:
    path = tmp_path / "my hold music.wav"
    path.write_bytes(wav(5))
    for url in (str(path), path.as_uri()):
        with pytest.raises(AudioError, match="local files are not allowed") as caught:
            await fetcher.prompt(url)
        assert caught.value.code == 11100
        assert await value(await MediaFetcher(cache, client, allow_files=True).prompt(url)) == 5


async def test_changed_file_is_decoded_again(
    tmp_path: Path, cache: PromptCache, client: httpx.AsyncClient
) -> None:
    fetcher = MediaFetcher(cache, client, allow_files=True)
    path = tmp_path / "a.wav"
    path.write_bytes(wav(5))
    first = await fetcher.prompt(str(path))
    assert await fetcher.prompt(str(path)) is first
    path.write_bytes(wav(6, 400) + b"\0")
    assert await value(await fetcher.prompt(str(path))) == 6


@pytest.mark.parametrize(
    ("name", "text"), [("none.wav", "No such file"), ("", "is no regular file"), ("\0", "null")]
)
async def test_unreadable_files(
    tmp_path: Path, cache: PromptCache, client: httpx.AsyncClient, name: str, text: str
) -> None:
    with pytest.raises(AudioError, match=text) as caught:
        await MediaFetcher(cache, client, allow_files=True).prompt(f"{tmp_path}/{name}")
    assert caught.value.code == 11200


async def test_large_file_is_refused_unread(
    tmp_path: Path, cache: PromptCache, client: httpx.AsyncClient
) -> None:
    (tmp_path / "a.wav").write_bytes(wav(1))
    with pytest.raises(AudioError, match="larger than 100 bytes"):
        await MediaFetcher(cache, client, allow_files=True, max_bytes=100).prompt(f"{tmp_path}/a.wav")


async def test_disk_failure_shows_at_the_prompt_and_heals(
    tmp_path: Path, client: httpx.AsyncClient, web: Web
) -> None:
    broken = True

    def write(file: int, data: bytes) -> int:
        if broken:
            raise OSError(28, "No space left on device")
        return os.write(file, data)

    cache = PromptCache(tmp_path / "p", 1000, Scripted(), write=write)
    fetcher = MediaFetcher(cache, client)
    web.serve(1, cache_control="max-age=600")
    with pytest.raises(SpeechError, match="is full"):
        await value(await fetcher.prompt(URL))
    broken = False
    assert await value(await fetcher.prompt(URL)) == 1
    await cache.close()
