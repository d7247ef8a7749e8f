from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.call import callback
from engine.call.instructions import (
    InstructionError,
    Instructions,
    Sources,
    fallback_url,
    source_url,
    to_document,
)
from engine.call.routing import Route
from engine.call.timeline import Note, Timeline
from engine.clock import SystemClock
from engine.errors import ConfigError
from engine.ids import SeededIds
from engine.media.audio import AudioError
from engine.webhook import WebhookClient, WebhookReply
from markup import Document, Gather, Hangup, MarkupError, Play, Redirect, Say, build

XML = {"content-type": "text/xml"}


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


class Asker:
    """An `Instructions` with a canned web, and the notes it made."""

    def __init__(self, route: Route, threads: ThreadPoolExecutor, web: Any = None, **callbacks: Any) -> None:
        self.notes: list[Note] = []
        client = WebhookClient(
            "token", SeededIds(), transport=httpx.MockTransport(web or (lambda _: httpx.Response(404)))
        )
        loaded = {name: callback.Callback(function, name) for name, function in callbacks.items()}
        timeline = Timeline("CA1", SystemClock(), (self.notes.append,))
        self.instructions = Instructions(route, Sources(client, threads, loaded), timeline)

    def noted(self, kind: str) -> list[dict[str, Any]]:
        return [dict(note.data) for note in self.notes if note.kind == kind]


def reply(body: bytes, content_type: str = "text/xml", status: int = 200) -> WebhookReply:
    return WebhookReply(status, content_type, None, body, "http://app/voice", ())


def test_what_a_reply_means_by_its_content_type() -> None:
    document = b"<Response><Hangup/></Response>"
    for kind in ("text/xml", "application/xml", "text/html", "text/plain"):
        assert to_document(reply(document, kind)).verbs == (Hangup(),)
    assert to_document(reply(b"Hello there", "text/plain")).verbs == (Say("Hello there"), Hangup())
    assert to_document(reply(b"ID3...", "audio/mpeg")).verbs == (Play("http://app/voice"), Hangup())
    assert to_document(reply(b"", "text/xml")) == to_document(reply(b"x", "", 204)) == Document(())
    for kind in ("", "application/json"):
        with pytest.raises(MarkupError) as caught:
            to_document(reply(document, kind))
        assert caught.value.code == 12300


async def test_relative_urls_follow_the_document(threads: ThreadPoolExecutor) -> None:
    asked = []

    def web(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(200, headers=XML, content=build(Redirect("")))

    asker = Asker(Route("http://app/ivr/voice?a=1"), threads, web)
    await asker.instructions.first([("CallSid", "CA1")])
    await asker.instructions.next("menu", "POST", [])
    await asker.instructions.next("", "POST", [])
    await asker.instructions.next("/top", "POST", [])
    assert asked == [
        "http://app/ivr/voice?a=1",
        "http://app/ivr/menu",
        "http://app/ivr/menu",
        "http://app/top",
    ]
    assert asker.instructions.sound("a.wav") == "http://app/a.wav"


async def test_bad_xml_is_noted_with_its_place_and_asks_the_fallback(threads: ThreadPoolExecutor) -> None:
    def web(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/voice":
            return httpx.Response(200, headers=XML, content="<Response>\n<Say>Hi</Response>")
        assert b"ErrorCode=12100" in request.content
        return httpx.Response(200, headers=XML, content=build(Say("spare")))

    asker = Asker(Route("http://app/voice", fallback_url="/spare"), threads, web)
    page = await asker.instructions.first([])
    assert page.document.verbs == (Say("spare"),)
    error = asker.noted("error")[0]
    assert (error["code"], error["line"]) == (12100, 2)
    assert error["column"] > 0
    assert [note["status"] for note in asker.noted("webhook")] == [200, 200]


async def test_without_a_fallback_the_error_is_the_callers(threads: ThreadPoolExecutor) -> None:
    asker = Asker(Route("http://app/voice"), threads)
    with pytest.raises(InstructionError) as caught:
        await asker.instructions.first([])
    assert (caught.value.code, caught.value.url) == (11200, "http://app/voice")


async def test_warnings_of_the_document_are_noted(threads: ThreadPoolExecutor) -> None:
    asker = Asker(
        Route("http://app/voice"),
        threads,
        lambda _: httpx.Response(200, headers=XML, content="<Response><Gather numdigits='1'/></Response>"),
    )
    await asker.instructions.first([])
    assert [(note["code"], note["verb"]) for note in asker.noted("warning")] == [(12200, "Gather")]


async def test_files_lead_to_files_beside_them_and_nowhere_else(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    app = tmp_path / "app"
    app.mkdir()
    (app / "menu.xml").write_text(build(Gather(action="sales.xml")))
    (app / "sales.xml").write_text(build(Say("sales")))
    (tmp_path / "secret.xml").write_text(build(Say("secret")))
    asker = Asker(Route((app / "menu.xml").as_uri()), threads)
    assert isinstance((await asker.instructions.first([])).document.verbs[0], Gather)
    assert (await asker.instructions.next("sales.xml", "POST", [])).document.verbs == (Say("sales"),)
    for elsewhere in (
        "../secret.xml",
        (tmp_path / "secret.xml").as_uri(),
        "FILE:///etc/hosts",
        "file:///a%00b",
    ):
        with pytest.raises(InstructionError, match="may not lead there"):
            await asker.instructions.next(elsewhere, "POST", [])
    with pytest.raises(InstructionError, match="cannot read"):
        await asker.instructions.next("missing.xml", "POST", [])


async def test_callbacks_sync_and_async_are_asked_like_webhooks(threads: ThreadPoolExecutor) -> None:
    seen = []

    def sync(request: callback.CallRequest) -> str:
        seen.append(
            (request.action, request["CallSid"], threading.current_thread() is threading.main_thread())
        )
        return build(Say("sync"))

    async def later(request: callback.CallRequest) -> list[Any]:
        await asyncio.sleep(0)
        return [Say(request.get("Digits", "none")), Hangup()]

    asker = Asker(Route("callback:sync"), threads, sync=sync, later=later)
    assert (await asker.instructions.first([("CallSid", "CA1")])).document.verbs == (Say("sync"),)
    await asker.instructions.next("menu", "POST", [("CallSid", "CA1")])
    assert seen == [("", "CA1", False), ("menu", "CA1", False)]
    page = await asker.instructions.next("callback:later", "POST", [("Digits", "7")])
    assert page.document.verbs == (Say("7"), Hangup())


async def test_a_callback_that_raises_leaves_its_traceback_in_the_timeline(
    threads: ThreadPoolExecutor,
) -> None:
    def broken(request: callback.CallRequest) -> str:
        raise ZeroDivisionError("oops")

    asker = Asker(
        Route("callback:broken", fallback_url="callback:spare"),
        threads,
        broken=broken,
        spare=lambda _: Say("spare"),
    )
    page = await asker.instructions.first([])
    assert page.document.verbs == (Say("spare"),)
    note = asker.noted("callback")[0]
    assert "ZeroDivisionError: oops" in note["error"]
    assert "raise ZeroDivisionError" in note["trace"]


async def test_a_slow_callback_is_given_up(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callback, "SECONDS", 0.01)

    async def slow(request: callback.CallRequest) -> str:
        await asyncio.Event().wait()
        return ""

    with pytest.raises(InstructionError, match="took more than"):
        await Asker(Route("callback:slow"), threads, slow=slow).instructions.first([])


@pytest.mark.parametrize("value", [7, [Say("x"), "y"], {"a": 1}])
async def test_what_is_no_document_is_said_so(value: object, threads: ThreadPoolExecutor) -> None:
    with pytest.raises(InstructionError, match="no voice document"):
        await Asker(Route("callback:odd"), threads, odd=lambda _: value).instructions.first([])


def test_an_app_is_a_url_a_file_or_a_callable(tmp_path: Path) -> None:
    loaded: dict[str, callback.Callback] = {}
    assert source_url("https://h/voice", callback.load, loaded) == "https://h/voice"
    with pytest.raises(ConfigError, match="there is no file"):
        source_url(str(tmp_path / "menu.xml"), callback.load, loaded)
    (tmp_path / "menu.xml").write_text(build(Hangup()))
    assert source_url(str(tmp_path / "menu.xml"), callback.load, loaded) == (tmp_path / "menu.xml").as_uri()
    assert fallback_url("/spare", callback.load, loaded) == "/spare"
    assert fallback_url(str(tmp_path / "menu.xml"), callback.load, loaded) == (tmp_path / "menu.xml").as_uri()
    assert fallback_url("markup:parse", callback.load, loaded) == "callback:markup:parse"
    loaded.clear()
    assert source_url("markup:build", callback.load, loaded) == "callback:markup:build"
    assert list(loaded) == ["markup:build"]
    for bad in ("nosuchmodule:f", "markup:nothing", "markup:__all__", "just-a-word"):
        with pytest.raises(ConfigError):
            source_url(bad, callback.load, loaded)


async def test_which_sounds_a_document_may_play(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    (tmp_path / "menu.xml").write_text(build(Hangup()))
    web = Asker(Route("http://app/ivr/voice"), threads).instructions
    assert web.sound("/hold.mp3") == "http://app/hold.mp3"
    for local in ("file:///etc/passwd", "FILE:///etc/passwd", "file:/etc/passwd", " File:/etc/passwd"):
        with pytest.raises(AudioError, match="may not play"):
            web.sound(local)
    file = Asker(Route((tmp_path / "menu.xml").as_uri()), threads).instructions
    assert file.sound("hold.wav") == (tmp_path / "hold.wav").as_uri()
    assert file.sound("http://music/1.mp3") == "http://music/1.mp3"
    for outside in ("../other.wav", "/etc/passwd", "file:///etc/passwd"):
        with pytest.raises(AudioError, match="may not play"):
            file.sound(outside)
    code = Asker(Route("callback:app"), threads).instructions
    assert code.sound(str(tmp_path / "a b.wav")) == (tmp_path / "a b.wav").as_uri()
    assert code.sound("sounds/a.wav") == (Path.cwd() / "sounds/a.wav").as_uri()


async def test_a_webhook_cannot_lead_to_a_local_file(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    (tmp_path / "menu.xml").write_text(build(Say("secret")))
    asker = Asker(
        Route("http://app/voice"),
        threads,
        lambda _: httpx.Response(200, headers=XML, content=build(Hangup())),
    )
    await asker.instructions.first([])
    for local in ((tmp_path / "menu.xml").as_uri(), f"FILE:{tmp_path}/menu.xml"):
        with pytest.raises(InstructionError, match="may not lead there"):
            await asker.instructions.next(local, "POST", [])


async def test_an_app_that_exits_or_cancels_itself_ends_only_its_answer(threads: ThreadPoolExecutor) -> None:
    def leaves(request: callback.CallRequest) -> str:
        raise SystemExit(1)

    async def cancels(request: callback.CallRequest) -> str:
        inner = asyncio.ensure_future(asyncio.sleep(10))
        inner.cancel()
        await inner
        return ""

    for name, function in {"leaves": leaves, "cancels": cancels}.items():
        with pytest.raises(InstructionError, match=r"SystemExit|cancelled from within"):
            await Asker(Route(f"callback:{name}"), threads, **{name: function}).instructions.first([])
