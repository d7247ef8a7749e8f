"""What an app sees of the engine, and what a caller hears when the app fails: whole calls, real HTTP."""

from __future__ import annotations

import asyncio
import base64
import time
from pathlib import Path

import pytest
from starlette.responses import RedirectResponse, Response
from twilio.request_validator import RequestValidator  # type: ignore[import-untyped]

from engine.config import AppConfig, Config
from engine.softphone import CallPlan, CallReport, Softphone
from engine.verbs.interpreter import APOLOGY
from markup import Say
from tests.e2e.audio import assert_played, correlate, prompt_pcm, read_wav
from tests.e2e.conftest import VOICE, AppServer, EngineFactory, Running
from tests.e2e.script import Ask, Page, Script, in_turn, xml
from tests.e2e.sipp import free_port

HANGUP = "<Hangup/>"
TEXT = Say("This page is not markup.")
STANDARD = {
    *("CallSid", "AccountSid", "From", "To", "Caller", "Called", "CallStatus", "ApiVersion", "Direction"),
    *(
        f"{who}{place}"
        for who in ("From", "To", "Caller", "Called")
        for place in ("City", "State", "Zip", "Country")
    ),
}
SIP_LEG = {"SipDomain", "SipCallId", "SipSourceIp"}


def check_signatures(running: Running, asks: list[Ask]) -> None:
    """Every request is one that the official SDK lets in."""
    validator = RequestValidator(running.engine.account.token)
    for ask in asks:
        assert validator.validate(ask.url, dict(ask.form), ask.headers["X-Twilio-Signature"]), ask.url


async def test_the_parameters_and_their_signature_are_the_clouds(
    engine_factory: EngineFactory, softphone: Softphone
) -> None:
    script = Script(
        "<Redirect>/next?a=b%20c&amp;d=</Redirect>",
        next='<Redirect method="GET">last?x=1</Redirect>',
        last=HANGUP,
    )
    running = await engine_factory(script)
    headers = (("X-Account", "42 ü"), ("X-Empty", ""))
    await softphone.call(CallPlan(running.target("+14155550100"), caller="+14155550199", headers=headers))
    check_signatures(running, script.asks)
    first, second, third = script.asks
    row = await running.row()
    assert first.params.keys() == STANDARD | SIP_LEG | {"SipHeader_X-Account", "SipHeader_X-Empty"}
    expected = {
        "CallSid": row.sid,
        "AccountSid": running.engine.account.sid,
        "From": "+14155550199",
        "Caller": "+14155550199",
        "To": "+14155550100",
        "CallStatus": "ringing",
        "Direction": "inbound",
        "ApiVersion": "2010-04-01",
        "SipHeader_X-Account": "42 ü",
        "SipSourceIp": "127.0.0.1",
        "SipCallId": row.sip_call_id,
    }
    assert expected.items() <= first.params.items()
    assert first.headers["content-type"] == "application/x-www-form-urlencoded; charset=utf-8"
    assert first.headers["user-agent"] == "TwilioProxy/1.1"
    assert second.params["a"] == "b c"
    assert (third.method, third.path, third.form, third.params["x"]) == ("GET", "/last", {}, "1")
    assert third.params["CallSid"] == row.sid
    tokens = [ask.headers["I-Twilio-Idempotency-Token"] for ask in script.asks]
    assert len(set(tokens)) == 3


async def test_call_status_follows_the_call(engine_factory: EngineFactory, softphone: Softphone) -> None:
    script = Script("<Redirect>/still</Redirect>", still="<Say>Hi.</Say><Redirect>/up</Redirect>", up=HANGUP)
    running = await engine_factory(script)
    await softphone.call(CallPlan(running.target()))
    assert [ask.params["CallStatus"] for ask in script.asks] == ["ringing", "ringing", "in-progress"]


async def test_cookies_are_kept_for_the_call_and_no_longer(
    engine_factory: EngineFactory, softphone: Softphone
) -> None:
    def first(ask: Ask) -> Response:
        answer = Response(xml("<Redirect>/deeper/next</Redirect>"), media_type="text/xml")
        answer.set_cookie("session", "s1")
        answer.set_cookie("narrow", "n1", path="/elsewhere")
        return answer

    script = Script(first, **{"deeper/next": HANGUP})
    running = await engine_factory(script)
    for _ in range(2):
        await softphone.call(CallPlan(running.target()))
    assert [ask.headers.get("cookie") for ask in script.asks] == [None, "session=s1"] * 2


async def test_basic_auth_comes_after_401_and_stays(
    engine_factory: EngineFactory, app_server: AppServer, softphone: Softphone
) -> None:
    login = "Basic " + base64.b64encode(b"us er:p@ss").decode()

    def guarded(page: str) -> Page:
        def answer(ask: Ask) -> Response:
            if ask.headers.get("authorization") == login:
                return Response(xml(page), media_type="text/xml")
            return Response("", 401, {"WWW-Authenticate": 'Basic realm="calls"'})

        return answer

    script = Script(guarded("<Redirect>/next</Redirect>"), next=guarded(HANGUP))
    served = await app_server(script)
    running = await engine_factory(served.url.replace("http://", "http://us%20er:p%40ss@") + VOICE)
    await softphone.call(CallPlan(running.target()))
    sent = [(ask.path, ask.headers.get("authorization")) for ask in script.asks]
    assert sent == [(VOICE, None), (VOICE, login), ("/next", login)]
    check_signatures(running, script.asks)
    assert not [note for note in running.notes.all if "p%40ss" in str(note.data)], (
        "no timeline holds a password"
    )


async def test_a_redirect_after_post_is_followed_with_get(
    engine_factory: EngineFactory, softphone: Softphone
) -> None:
    moved = RedirectResponse("/folder/moved?k=v", 302)
    script = Script(moved, **{"folder/moved": "<Redirect>beside</Redirect>", "folder/beside": HANGUP})
    running = await engine_factory(script)
    await softphone.call(CallPlan(running.target()))
    assert [(ask.method, ask.path) for ask in script.asks] == [
        ("POST", VOICE),
        ("GET", "/folder/moved"),
        ("POST", "/folder/beside"),  # relative to the page that answered
    ]
    assert script.asks[1].params["k"] == "v"
    check_signatures(running, script.asks)


async def with_fallback(
    engine_factory: EngineFactory,
    app_server: AppServer,
    softphone: Softphone,
    voice: Page,
    fragment: str = "",
) -> tuple[Running, Script]:
    """A call to an app whose first page is `voice`, and which has a fallback."""
    script = Script(voice, fallback="<Say>Plan B.</Say>", next=HANGUP)
    served = await app_server(script)
    app = AppConfig(voice_url=served.url + VOICE + fragment, fallback_url=served.url + "/fallback")
    running = await engine_factory(app.voice_url, config=Config(app=app))
    await softphone.call(CallPlan(running.target()))
    return running, script


async def slow(ask: Ask) -> str:
    await asyncio.sleep(1)  # the limit of the test is 0.3
    return "<Say>Too late.</Say>"


BAD_XML = Response("<Response>\n  <Say>Hello</Sey>\n</Response>", media_type="text/xml")


@pytest.mark.parametrize(
    ("voice", "fragment", "code"),
    [
        (Response("broken", 500), "", "11200"),
        (slow, "#rt=300&rc=0", "11200"),
        (BAD_XML, "", "12100"),
        (Response("<Voice/>", media_type="text/xml"), "", "12102"),
        (Response("{}", media_type="application/json"), "", "12300"),
        (Response(xml(f"<Say>{'x' * 70_000}</Say>"), media_type="text/xml"), "", "11750"),
    ],
    ids=["500", "timeout", "bad XML", "wrong root", "wrong type", "too long"],
)
async def test_the_fallback_is_told_what_went_wrong(
    engine_factory: EngineFactory,
    app_server: AppServer,
    softphone: Softphone,
    voice: Page,
    fragment: str,
    code: str,
) -> None:
    running, script = await with_fallback(engine_factory, app_server, softphone, voice, fragment)
    assert [ask.path for ask in script.asks] == [VOICE, "/fallback"]
    told = script.asks[1].params
    assert told["ErrorCode"] == code
    assert told["ErrorUrl"].endswith(VOICE), "without the fragment"
    assert told.keys() == script.asks[0].params.keys() | {"ErrorCode", "ErrorUrl"}
    check_signatures(running, script.asks)
    assert [note.data["text"] for note in running.notes.of("say")] == ["Plan B."]
    assert (await running.row()).status == "completed"


async def test_bad_xml_is_shown_with_its_place(
    engine_factory: EngineFactory, app_server: AppServer, softphone: Softphone
) -> None:
    running, _ = await with_fallback(engine_factory, app_server, softphone, BAD_XML)
    error = running.notes.of("error")[0].data
    assert (error["code"], error["line"]) == (12100, 2)
    assert error["column"] > 10


async def test_the_primary_is_asked_first_again_after_a_fallback(
    engine_factory: EngineFactory, app_server: AppServer, softphone: Softphone
) -> None:
    script = Script(Response("", 500), fallback="<Redirect>/next</Redirect>", next=HANGUP)
    served = await app_server(script)
    app = AppConfig(
        voice_url=served.url + VOICE, fallback_url=served.url + "/fallback", fallback_method="GET"
    )
    running = await engine_factory(app.voice_url, config=Config(app=app))
    await softphone.call(CallPlan(running.target()))
    assert [(ask.method, ask.path) for ask in script.asks] == [
        ("POST", VOICE),
        ("GET", "/fallback"),
        ("POST", "/next"),
    ]
    assert "ErrorCode" not in script.asks[2].params


async def recorded(running: Running, softphone: Softphone, path: Path) -> CallReport:
    return await softphone.call(CallPlan(running.target(), record=path))


async def test_without_fallback_the_caller_hears_an_apology(
    engine_factory: EngineFactory, softphone: Softphone, tmp_path: Path
) -> None:
    running = await engine_factory(Script(Response("", 503)))
    apology = await prompt_pcm(running.engine, Say(APOLOGY))
    report = await recorded(running, softphone, tmp_path / "heard.wav")
    row = await running.row()
    assert (report.ended_by, row.status, row.ended_by) == ("far end", "completed", "engine")
    assert "11200" in row.end_reason
    assert_played(read_wav(tmp_path / "heard.wav"), apology)


async def test_plain_text_is_spoken(
    engine_factory: EngineFactory, softphone: Softphone, tmp_path: Path
) -> None:
    running = await engine_factory(Script(Response(TEXT.text, media_type="text/plain")))
    wanted = await prompt_pcm(running.engine, TEXT)
    await recorded(running, softphone, tmp_path / "heard.wav")
    assert correlate(read_wav(tmp_path / "heard.wav"), wanted).score > 0.95
    assert (await running.row()).end_reason == "the app hung up"


async def test_html_and_plain_text_that_hold_markup_are_executed(
    engine_factory: EngineFactory, softphone: Softphone
) -> None:
    plain = Response(xml("<Redirect>/html</Redirect>"), media_type="text/plain")
    running = await engine_factory(Script(plain, html=Response(xml(HANGUP), media_type="text/html")))
    await softphone.call(CallPlan(running.target()))
    assert (await running.row()).end_reason == "the app hung up"
    assert not running.notes.of("say")


async def test_an_empty_answer_ends_the_call(engine_factory: EngineFactory, softphone: Softphone) -> None:
    running = await engine_factory(Script(Response(status_code=204)))
    await softphone.call(CallPlan(running.target()))
    row = await running.row()
    assert (row.status, row.end_reason) == ("completed", "the document came to its end")
    assert not running.notes.of("error")


async def test_the_fragment_says_how_often_to_try(
    engine_factory: EngineFactory, app_server: AppServer, softphone: Softphone
) -> None:
    flaky = in_turn(Response("", 503), Response("", 500), xml_page(HANGUP))
    script = Script(flaky)
    served = await app_server(script)
    running = await engine_factory(f"{served.url}{VOICE}#rc=2&rp=5xx")
    await softphone.call(CallPlan(running.target()))
    assert len(script.asks) == 3
    assert len({ask.headers["I-Twilio-Idempotency-Token"] for ask in script.asks}) == 1
    assert [note.data["status"] for note in running.notes.of("webhook")] == [503, 500, 200]
    assert (await running.row()).end_reason == "the app hung up"


async def test_a_hang_up_does_not_wait_for_a_slow_app(
    engine_factory: EngineFactory, softphone: Softphone
) -> None:
    script = Script('<Gather numDigits="1" action="/slow"/>', slow=slow)
    running = await engine_factory(script)
    calling = asyncio.create_task(softphone.call(CallPlan(running.target(), digits="1", duration=0.5)))
    (ask,) = await script.asked("/slow")
    await calling
    row = await running.row()
    assert (row.status, row.ended_by) == ("completed", "caller")
    assert time.monotonic() - ask.at < 0.9, "before the app answered"
    assert not running.notes.of("say")


def xml_page(body: str) -> Response:
    return Response(xml(body), media_type="text/xml")


async def test_an_app_that_is_not_there_is_named_in_the_timeline(
    engine_factory: EngineFactory, softphone: Softphone
) -> None:
    url = f"http://127.0.0.1:{free_port()}/voice"
    running = await engine_factory(url)
    await softphone.call(CallPlan(running.target(), duration=0.2))
    error = running.notes.of("error")[0].data
    assert (error["code"], error["url"]) == (11202, url)
    assert len(running.notes.of("webhook")) == 2, "one retry is the default for a connection that fails"
    assert [note.data["text"] for note in running.notes.of("say")] == [APOLOGY]
