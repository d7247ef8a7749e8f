"""Status callbacks of whole calls: which, in what order, with what in them, and through an app that is down."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import pytest
from starlette.responses import Response
from twilio.request_validator import RequestValidator  # type: ignore[import-untyped]

from engine.config import AppConfig, Config
from engine.softphone import CallPlan, Softphone
from tests.e2e.conftest import VOICE, AppServer, EngineFactory, Running
from tests.e2e.script import Ask, Page, Script, in_turn
from tests.e2e.test_webhooks import STANDARD

ALWAYS = STANDARD | {"Timestamp", "CallbackSource", "SequenceNumber"}
AT_THE_END = {"CallDuration", "Duration", "SipResponseCode"}
DATE = re.compile(r"[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} \+0000")
OK = Response("", 204)


async def with_callbacks(
    engine_factory: EngineFactory, app_server: AppServer, script: Script, **app: object
) -> Running:
    served = await app_server(script)
    config = AppConfig(voice_url=served.url + VOICE, status_callback=served.url + "/status", **app)  # type: ignore[arg-type]
    return await engine_factory(config.voice_url, config=Config(app=config))


def statuses(asks: list[Ask]) -> list[str]:
    return [ask.params["CallStatus"] for ask in asks]


async def test_four_callbacks_in_order_with_the_parameters_of_the_cloud(
    engine_factory: EngineFactory, app_server: AppServer, softphone: Softphone
) -> None:
    script = Script("<Say>Hello.</Say>", status=OK)
    running = await with_callbacks(engine_factory, app_server, script)
    began = datetime.now(UTC).replace(microsecond=0)
    await softphone.call(CallPlan(running.target("+14155550100"), caller="+14155550199"))
    asks = await script.asked("/status", 4)
    assert statuses(asks) == ["initiated", "ringing", "in-progress", "completed"]
    assert [ask.params["SequenceNumber"] for ask in asks] == ["0", "1", "2", "3"]
    assert [ask.params.keys() for ask in asks] == [ALWAYS] * 3 + [ALWAYS | AT_THE_END]
    row = await running.row()
    for ask in asks:
        assert ask.method == "POST"
        assert (ask.params["CallSid"], ask.params["From"], ask.params["To"]) == (
            row.sid,
            "+14155550199",
            "+14155550100",
        )
        assert ask.params["CallbackSource"] == "call-progress-events"
        assert DATE.fullmatch(ask.params["Timestamp"])
        assert began <= parsedate_to_datetime(ask.params["Timestamp"]) <= began + timedelta(seconds=20)
        validator = RequestValidator(running.engine.account.token)
        assert validator.validate(ask.url, dict(ask.form), ask.headers["X-Twilio-Signature"])
    end = asks[-1].params
    assert (end["CallDuration"], end["Duration"], end["SipResponseCode"]) == (str(row.duration), "1", "200")


@pytest.mark.parametrize(
    ("verb", "status", "code"),
    [('<Reject reason="busy"/>', "busy", "486"), ("<Reject/>", "no-answer", "404")],
)
async def test_a_refused_call_completes_with_its_status(
    engine_factory: EngineFactory,
    app_server: AppServer,
    softphone: Softphone,
    verb: str,
    status: str,
    code: str,
) -> None:
    script = Script(verb, status=OK)
    running = await with_callbacks(engine_factory, app_server, script, status_callback_event=("completed",))
    report = await softphone.call(CallPlan(running.target()))
    assert report.status == int(code)
    (ask,) = await script.asked("/status")
    assert (ask.params["CallStatus"], ask.params["SipResponseCode"], ask.params["CallDuration"]) == (
        status,
        code,
        "0",
    )


async def test_get_callbacks_carry_the_parameters_in_the_query(
    engine_factory: EngineFactory, app_server: AppServer, softphone: Softphone
) -> None:
    script = Script("<Hangup/>", status=OK)
    running = await with_callbacks(engine_factory, app_server, script, status_callback_method="GET")
    await softphone.call(CallPlan(running.target()))
    asks = await script.asked("/status", 4)
    assert {(ask.method, len(ask.form)) for ask in asks} == {("GET", 0)}
    assert statuses(asks)[-1] == "completed"


async def test_an_app_that_is_down_for_a_while_gets_them_all_in_order(
    engine_factory: EngineFactory, app_server: AppServer, softphone: Softphone
) -> None:
    down = Response("", 500)
    page: Page = in_turn(down, OK, down, OK)
    script = Script("<Hangup/>", status=page)
    running = await with_callbacks(engine_factory, app_server, script)
    await softphone.call(CallPlan(running.target()))
    asks = await script.asked("/status", 6)
    assert statuses(asks) == ["initiated", "initiated", "ringing", "ringing", "in-progress", "completed"]
    tokens = [ask.headers["I-Twilio-Idempotency-Token"] for ask in asks]
    assert tokens[0] == tokens[1]
    assert tokens[2] == tokens[3]
    assert len(set(tokens)) == 4
    assert 1.0 <= asks[1].at - asks[0].at < 3.0, "the first retry comes after a second"
    assert asks[4].params["Timestamp"] <= asks[5].params["Timestamp"]
