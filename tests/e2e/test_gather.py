"""Every attribute of <Gather> for keys, each through a call of its own: real telephone events, real webhooks.

The calls run side by side on one engine; the dialled name says which document a call gets.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TypeAlias

import pytest

from engine.softphone import CallPlan, Softphone
from tests.e2e.conftest import VOICE, EngineFactory
from tests.e2e.script import Ask, Page, Script, in_turn

ELSE = "<Redirect>/else</Redirect>"
# Say answers; the key comes while it waits for something else than a Gather
BUSY = '<Say>Wait.</Say><Pause length="2"/>'

Question: TypeAlias = tuple[str, str, str | None, str | None]  # method, path, Digits, FinishedOnKey


@dataclass(frozen=True, slots=True)
class Case:
    """A document, the keys pressed once it is answered, and what the app must be asked after it."""

    document: str
    keys: str
    questions: tuple[Question, ...]


def post(path: str, digits: str | None, finished: str | None = "") -> Question:
    return "POST", path, digits, finished


NOTHING = post("/else", None, None)
CASES = {
    "number_of_digits": Case('<Gather action="/a" numDigits="3"/>', "123", (post("/a", "123"),)),
    "hash_finishes": Case('<Gather action="/a"/>', "12#", (post("/a", "12", "#"),)),
    "another_key_finishes": Case('<Gather action="/a" finishOnKey="*"/>', "1#2*", (post("/a", "1#2", "*"),)),
    "a_digit_finishes": Case('<Gather action="/a" finishOnKey="7"/>', "127", (post("/a", "12", "7"),)),
    "no_key_finishes": Case('<Gather action="/a" finishOnKey="" timeout="1"/>', "1#*", (post("/a", "1#*"),)),
    "finished_at_once": Case(f'<Gather action="/a"/>{ELSE}', "#", (NOTHING,)),
    "finished_at_once_is_told": Case(
        f'<Gather action="/a" actionOnEmptyResult="true"/>{ELSE}', "#", (post("/a", "", "#"),)
    ),
    "silence": Case(f'<Gather action="/a" timeout="1"/>{ELSE}', "", (NOTHING,)),
    "silence_is_told": Case(
        f'<Gather action="/a" timeout="1" actionOnEmptyResult="true"/>{ELSE}', "", (post("/a", ""),)
    ),
    "timeout_after_a_key": Case(f'<Gather action="/a" timeout="1"/>{ELSE}', "1", (post("/a", "1"),)),
    "timeout_restarts": Case('<Gather action="/a" timeout="1"/>', "1w2w3w4", (post("/a", "1234"),)),
    "timeout_between_keys": Case('<Gather action="/a" timeout="1"/>', "1WW2", (post("/a", "1"),)),
    "timeout_waits_for_prompts": Case(
        f'<Gather action="/a" numDigits="1" timeout="1"><Pause length="2"/></Gather>{ELSE}',
        "WWw5",
        (post("/a", "5"),),
    ),
    "method_get": Case(
        '<Gather action="/a?x=1" method="GET" numDigits="1"/>', "8", (("GET", "/a", "8", ""),)
    ),
    "no_action": Case('<Gather numDigits="2"/>', "12", (post(VOICE, "12"),)),
    "no_action_after_a_redirect": Case(
        "<Redirect>/second</Redirect>", "34", (post("/second", None, None), post("/second", "34"))
    ),
    "keys_ahead_wait_for_the_next_gather": Case(
        '<Gather action="/again" numDigits="2"/>', "123", (post("/again", "12"), post("/again", "3"))
    ),
    "keys_for_nobody_are_dropped": Case(f'{BUSY}<Gather action="/a" timeout="1"/>{ELSE}', "5", (NOTHING,)),
    "letters": Case('<Gather action="/a" numDigits="4"/>', "ABCD", (post("/a", "ABCD"),)),
    "unknown_attribute": Case('<Gather action="/a" numdigits="1"/>', "12#", (post("/a", "12", "#"),)),
}
PAGES: dict[str, Page] = {
    "a": "<Hangup/>",
    "else": "<Hangup/>",
    "second": in_turn('<Gather numDigits="2"/>', "<Hangup/>"),
    "again": in_turn('<Gather action="/again" numDigits="1"/>', "<Hangup/>"),
}


def first_document(ask: Ask) -> str:
    """A call's own document; the end once it comes back with digits."""
    return "<Hangup/>" if "Digits" in ask.params else CASES[dialled(ask)].document


def dialled(ask: Ask) -> str:
    return ask.params["To"].removeprefix("sip:").partition("@")[0]


def question(ask: Ask) -> Question:
    return ask.method, ask.path, ask.params.get("Digits"), ask.params.get("FinishedOnKey")


async def test_every_attribute_of_gather(engine_factory: EngineFactory, softphone: Softphone) -> None:
    script = Script(first_document, **PAGES)
    running = await engine_factory(script)
    plans = [CallPlan(running.target(name), digits=case.keys) for name, case in CASES.items()]
    reports = await asyncio.gather(*(softphone.call(plan) for plan in plans))
    assert {report.ended_by for report in reports} == {"far end"}

    asked = {name: tuple(question(ask) for ask in script.asks if dialled(ask) == name) for name in CASES}
    assert {name: questions[1:] for name, questions in asked.items()} == {
        name: case.questions for name, case in CASES.items()
    }
    by_get = next(ask for ask in script.asks if ask.method == "GET")
    assert by_get.form == {}
    assert by_get.params["x"] == "1"
    assert {ask.params["msg"] for ask in script.asks if "Digits" in ask.params} == {"Gather End"}
    assert [note.data["code"] for note in running.notes.of("warning")] == [12200]


async def test_timeout_runs_from_the_last_key(engine_factory: EngineFactory, softphone: Softphone) -> None:
    running = await engine_factory(Script('<Gather action="/a" timeout="1"/>', a="<Hangup/>"))
    await softphone.call(CallPlan(running.target(), digits="1w2"))
    pressed = running.notes.of("digit")
    ended = running.notes.of("gather", digits="12")[0]
    assert pressed[1].offset - pressed[0].offset > 0.5
    assert ended.offset - pressed[1].offset == pytest.approx(1.0, abs=0.15)
