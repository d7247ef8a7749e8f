"""The sample menu: its hours, its every path, its signature check; and all three forms as whole calls."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import httpx
import numpy as np
import pytest
from freezegun import freeze_time
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette

from engine.call.callback import CallRequest
from engine.call.timeline import Note
from engine.signature import sign
from engine.softphone import CallPlan, PhoneCall, Softphone
from markup import Gather, Hangup, Redirect, Say, Verb, build, parse
from samples.voice_menu import callback, menu, webhook
from samples.voice_menu.demo import ALWAYS_OPEN, KEYS, expected_words, said
from samples.voice_menu.heard import ALIKE, correlate, find
from samples.voice_menu.signature import is_signed
from tests.e2e.audio import Pcm, assert_in_order, assert_played, prompt_pcm, read_wav
from tests.e2e.conftest import AppServer, EngineFactory, Running

SAMPLE = Path(menu.__file__).parent
TOP = menu.menu(menu.TOP).prompt
SALES, SUPPORT = menu.menu("sales").prompt, menu.menu("support").prompt
TOKEN = "0123456789abcdef"
COMPARED = 7200  # samples of each prompt, 0.9 s: keys below are pressed one and a half seconds into it
BUSY_FRAMES = 3  # a jitter buffer may skip so many of 20 ms when the machine is busy
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def words(name: str) -> str:
    step = menu.STEPS[name]
    assert isinstance(step, menu.Announcement)
    return step.words


# --- hours -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("utc", "is_open"),
    [
        ("2025-03-04 08:59:59", False),
        ("2025-03-04 09:00:00", True),
        ("2025-03-04 16:59:59.999999", True),
        ("2025-03-04 17:00:00", False),
        ("2025-03-08 09:59:59", False),  # Saturday
        ("2025-03-08 10:00:00", True),
        ("2025-03-08 13:59:59", True),
        ("2025-03-08 14:00:00", False),
        ("2025-03-09 12:00:00", False),  # Sunday
        ("2025-07-01 07:59:59", False),  # summer time: an hour earlier by UTC
        ("2025-07-01 08:00:00", True),
        ("2025-07-01 16:00:00", False),
        ("2025-03-28 08:30:00", False),  # the Friday before the clocks change, and the Monday after
        ("2025-03-31 08:30:00", True),
    ],
)
def test_hours_by_the_companys_clock(utc: str, is_open: bool) -> None:
    with freeze_time(utc):
        verbs = menu.answer("", "", menu.utc_now())
    assert said(verbs)[0] == (menu.GREETING if is_open else menu.CLOSED)
    assert isinstance(verbs[-1], Redirect if is_open else Hangup)


def test_the_zone_of_the_given_time_does_not_matter() -> None:
    early = datetime(2025, 3, 4, 4, 30, tzinfo=timezone(timedelta(hours=-5)))  # 09:30 in London
    assert menu.is_open(early)
    assert not menu.is_open(early.replace(tzinfo=UTC))


def test_a_time_without_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="zone"):
        menu.is_open(datetime(2025, 3, 4, 12))


def test_closed_says_the_hours_and_hangs_up() -> None:
    sunday = datetime(2025, 3, 9, 12, tzinfo=UTC)
    assert said(menu.answer("", "", sunday)) == [menu.CLOSED, menu.OPENING_HOURS, menu.GOODBYE]


def test_a_caller_who_is_in_is_not_thrown_out_at_closing_time() -> None:
    after = datetime(2025, 3, 4, 17, 0, tzinfo=UTC)
    assert said(menu.answer("welcome", "1", after)) == [SALES]


# --- paths -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "key", "heard"),
    [
        ("welcome", "1", [SALES]),
        ("welcome", "2", [SUPPORT]),
        ("welcome", "3", [menu.OPENING_HOURS, TOP]),
        ("welcome", "9", [TOP]),
        ("welcome", "4", [menu.NOT_VALID, TOP]),
        ("welcome", "*", [menu.NOT_VALID, TOP]),
        ("sales", "1", [words("new-order"), menu.GOODBYE]),
        ("sales", "2", [words("existing-order"), menu.GOODBYE]),
        ("sales", "3", [menu.NOT_VALID, SALES]),
        ("support", "1", [words("hardware"), menu.GOODBYE]),
        ("support", "2", [words("software"), menu.GOODBYE]),
        ("support", "9", [SUPPORT]),
        ("support?silences=1", "2", [words("software"), menu.GOODBYE]),
        ("support?silences=1", "", [menu.NO_KEY, SUPPORT]),
    ],
)
def test_what_a_key_does(action: str, key: str, heard: list[str]) -> None:
    assert said(menu.answer(action, key, ALWAYS_OPEN)) == heard


def test_silence_is_asked_again_twice_and_then_ends() -> None:
    verbs, asked = menu.answer("", "", ALWAYS_OPEN), []
    while isinstance(verbs[-1], Redirect):
        asked.append(said(verbs))
        verbs = menu.answer(verbs[-1].url, "", ALWAYS_OPEN)
    assert asked == [[menu.GREETING, TOP], [menu.NO_KEY, TOP]]
    assert said(verbs) == [menu.NO_KEY, TOP]
    assert verbs[1:] == [Say(menu.GOODBYE), Hangup()]


def test_every_path_is_a_document_that_leads_on_or_ends() -> None:
    reached, waiting = set(), [("", "")]
    while waiting:
        if (state := waiting.pop()) in reached:
            continue
        reached.add(state)
        verbs = menu.answer(*state, ALWAYS_OPEN)
        document = parse(build(*verbs))
        assert (list(document.verbs), document.problems) == (verbs, ())
        waiting += next_states(verbs)
    assert {action for action, _ in reached} == {""} | {
        name + silence
        for name in ("welcome", "sales", "support")
        for silence in ("", "?silences=1", "?silences=2")
    } - {f"{name}?silences=0" for name in menu.STEPS}


def next_states(verbs: Sequence[Verb]) -> list[tuple[str, str]]:
    states: list[tuple[str, str]] = []
    for verb in verbs:
        if isinstance(verb, Gather):
            assert verb.action
            assert verb.num_digits == 1
            states += [(verb.action, key) for key in "0123456789*#"]
        elif isinstance(verb, Redirect):
            states.append((verb.url, ""))
    assert states or isinstance(verbs[-1], Hangup)
    return states


@given(st.one_of(st.text(), st.builds("welcome?silences={}".format, st.text())), st.text())
def test_an_action_that_nobody_wrote_is_refused_or_answered(action: str, digits: str) -> None:
    try:
        verbs = menu.answer(action, digits, ALWAYS_OPEN)
    except (LookupError, ValueError):
        return
    assert parse(build(*verbs)).problems == ()


# --- the web app -----------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(st.lists(st.tuples(TEXT, TEXT), max_size=6), TEXT.filter(bool))
def test_the_check_by_hand_agrees_with_the_engine(form: list[tuple[str, str]], token: str) -> None:
    url = "http://127.0.0.1:5000/sales?silences=1"
    assert is_signed(token, url, form, sign(url, form, token))
    assert not is_signed(token, url, [*form, ("Digits", "new")], sign(url, form, token))
    assert not is_signed(token + "x", url, form, sign(url, form, token))
    assert not is_signed(token, url, form, "é")


async def ask(app: Starlette, path: str, body: bytes, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://menu") as client:
        return await client.post(path, content=body, headers=FORM | headers)


async def test_the_app_answers_only_what_is_signed() -> None:
    app = webhook.create_app(lambda: ALWAYS_OPEN, TOKEN)
    signature = {"X-Twilio-Signature": sign("http://menu/sales?silences=1", {"Digits": "2"}, TOKEN)}
    good = await ask(app, "/sales?silences=1", b"Digits=2", **signature)
    assert (good.status_code, good.headers["content-type"]) == (200, "text/xml; charset=utf-8")
    assert said(parse(good.content).verbs) == [words("existing-order"), menu.GOODBYE]
    assert (await ask(app, "/sales?silences=1", b"Digits=1", **signature)).status_code == 403
    assert (await ask(app, "/sales", b"Digits=2", **signature)).status_code == 403
    assert (await ask(app, "/sales?silences=1", b"Digits=2")).status_code == 403


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/voice", b"", 200),
        ("/nothing", b"", 404),
        ("/hours", b"Digits=1", 404),
        ("/sales?silences=many", b"", 404),
        ("/voice", b"a=1&" * 201, 400),
        ("/voice", b"\xff=1", 400),
        ("/voice", b"x" * 65_537, 413),
    ],
)
async def test_what_the_app_refuses(path: str, body: bytes, status: int) -> None:
    assert (await ask(webhook.create_app(), path, body)).status_code == status


async def test_the_callback_asks_its_own_clock() -> None:
    with freeze_time("2025-03-09 12:00", real_asyncio=True):
        assert said(await callback.answer(CallRequest({}))) == [menu.CLOSED, menu.OPENING_HOURS, menu.GOODBYE]
    with freeze_time("2025-03-10 12:00", real_asyncio=True):
        assert said(await callback.answer(CallRequest({}))) == [menu.GREETING, TOP]


# --- static files ----------------------------------------------------------------------------------------------


def test_the_files_lead_only_to_each_other_and_say_the_menus_words() -> None:
    reached, waiting = set[str](), ["menu.xml"]
    spoken: list[str] = []
    while waiting:
        if (name := waiting.pop()) in reached:
            continue
        reached.add(name)
        document = parse((SAMPLE / name).read_bytes())
        assert document.problems == ()
        for verb in document.verbs:
            match verb:
                case Gather(action=str(action), num_digits=1):
                    waiting.append(action)
                case Redirect(url=url):
                    waiting.append(url)
                case Say(text=text):
                    spoken.append(text)
    assert reached == {path.name for path in SAMPLE.glob("*.xml")}
    announcements = [step.words for step in menu.STEPS.values() if isinstance(step, menu.Announcement)]
    assert {menu.GREETING, menu.NO_KEY, menu.GOODBYE, *announcements} <= set(spoken)
    assert set(spoken) - {menu.GREETING, menu.NO_KEY, menu.GOODBYE, *announcements} == {"Sales.", "Support."}


# --- whole calls -----------------------------------------------------------------------------------------------


class Fingers:
    """Presses keys when words begin to be said: `(words, keys), …`, one after the other; W waits a second, w half."""

    def __init__(self, *script: tuple[str, str]) -> None:
        self._script = list(script)
        self._call: PhoneCall | None = None
        self._tasks: list[asyncio.Task[object]] = []

    def take(self, call: PhoneCall) -> None:
        self._call = call

    def __call__(self, note: Note) -> None:
        if note.kind == "say" and self._script and note.data["text"] == self._script[0][0]:
            assert self._call is not None
            keys = self._script.pop(0)[1]
            self._tasks.append(asyncio.ensure_future(self._call.leg_alive.media.send_digits(keys)))

    def check(self) -> None:
        """All was pressed. (A key's last packets may find the call over: that is no failure.)"""
        assert not self._script


async def call(running: Running, phone: Softphone, fingers: Fingers, wav: Path, texts: Sequence[str]) -> Pcm:
    """One call with these fingers, and what it sounded like. `texts` are rendered before, so they have no gaps."""
    for text in texts:
        await prompt_pcm(running.engine, Say(text))
    plan = CallPlan(running.target(), record=wav, duration=40)
    report = await phone.call(plan, fingers.take)
    fingers.check()
    row = await running.row()
    assert (row.status, row.ended_by, row.sip_status) == ("completed", "app", 200), row.end_reason
    assert report.ended_by == "far end"
    assert report.quality.packets_lost == 0
    return await asyncio.to_thread(read_wav, wav)


async def assert_heard(running: Running, recording: Pcm, texts: Sequence[str]) -> None:
    prompts = [(await prompt_pcm(running.engine, Say(text)))[:COMPARED] for text in texts]
    assert_in_order(recording, prompts)


async def test_a_call_to_the_web_app(
    engine_factory: EngineFactory, softphone: Softphone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWITCHHOOK_AUTH_TOKEN", TOKEN)
    fingers = Fingers((TOP, "Ww2"), (SUPPORT, "Ww2"))
    running = await engine_factory(webhook.create_app(lambda: ALWAYS_OPEN, TOKEN), watchers=(fingers,))
    heard = (menu.GREETING, TOP, SUPPORT, words("software"), menu.GOODBYE)
    recording = await call(running, softphone, fingers, tmp_path / "heard.wav", heard)
    assert running.served is not None
    asked = [(request.path, request.params.get("Digits")) for request in running.served.requests]
    assert asked == [("/voice", None), ("/welcome", "2"), ("/support", "2")]
    await assert_heard(running, recording, heard)
    for text in (menu.GREETING, words("software"), menu.GOODBYE):  # no key cut these off
        assert_played(recording, await prompt_pcm(running.engine, Say(text)), lost=BUSY_FRAMES)
    with pytest.raises(AssertionError):
        assert_played(recording, await prompt_pcm(running.engine, Say(words("hardware"))), lost=BUSY_FRAMES)


async def test_a_call_to_the_callback(
    engine_factory: EngineFactory, softphone: Softphone, tmp_path: Path
) -> None:
    fingers = Fingers((TOP, "Ww7"), (TOP, "Ww1"), (SALES, "Ww2"))
    answer = callback.create_callback(lambda: ALWAYS_OPEN)
    running = await engine_factory(callback=answer, watchers=(fingers,))
    heard = (menu.GREETING, TOP, menu.NOT_VALID, TOP, SALES, words("existing-order"), menu.GOODBYE)
    recording = await call(running, softphone, fingers, tmp_path / "heard.wav", heard)
    asked = [note.data["action"] for note in running.notes.of("callback", error=None)]
    assert asked == ["", "welcome", "welcome", "sales"]
    await assert_heard(running, recording, heard)


async def test_a_call_to_the_files(
    engine_factory: EngineFactory, softphone: Softphone, tmp_path: Path
) -> None:
    offers = [f"For {what}, press any key now." for what in ("sales", "support", "hardware")]
    fingers = Fingers((offers[1], "Ww5"), (offers[2], "Ww8"))
    running = await engine_factory(SAMPLE / "menu.xml", watchers=(fingers,))
    heard = (menu.GREETING, offers[0], offers[1], "Support.", offers[2], words("hardware"), menu.GOODBYE)
    recording = await call(running, softphone, fingers, tmp_path / "heard.wav", heard)
    assert [note.data["digits"] for note in running.notes.of("gather")] == ["", "5", "8"]
    await assert_heard(running, recording, heard)


def test_the_named_callback_is_the_one_that_serve_loads() -> None:
    from engine.call.callback import load

    assert load("samples.voice_menu.callback:answer").name == "samples.voice_menu.callback:answer"


async def test_the_web_app_is_found_by_uvicorns_name(app_server: AppServer) -> None:
    served = await app_server(webhook.app)
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"{served.url}/voice")).status_code == 405
    assert served.paths() == ["/voice"]


# --- the demonstration's judgement -----------------------------------------------------------------------------


def test_expected_words_follow_the_menu() -> None:
    assert expected_words(KEYS) == [menu.GREETING, TOP, SALES, words("existing-order"), menu.GOODBYE]


@given(st.integers(0, 8000), st.integers(0, 2**32 - 1))
def test_find_knows_a_prompt_from_noise(place: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    prompt, other = (random.normal(0, 3000, 9600).astype(np.int16) for _ in range(2))
    recording = np.zeros(20_000, np.int16)
    recording[place : place + 9600] = prompt // 2  # quieter is the same sound
    assert find(recording, prompt)[0] == place
    assert find(recording, prompt)[1] > 0.99
    assert find(recording, other)[1] < 0.5
    assert find(np.zeros(20_000, np.int16), prompt)[1] == 0
    assert find(recording[:100], prompt)[1] == 0
    assert find(recording, np.zeros(9600, np.int16))[1] == 0


def test_find_knows_words_with_gaps_between_them() -> None:
    prompt = np.random.default_rng(1).normal(0, 3000, 9600).astype(np.int16)
    gap = np.zeros(480, np.int16)
    gapped = np.concatenate([gap, gap, prompt[:3200], gap, prompt[3200:6400], gap, prompt[6400:], gap])
    assert correlate(gapped, prompt)[1] < ALIKE < 0.99 < find(gapped, prompt)[1]
