"""<Gather>: play prompts and collect keys until enough, the finishing key, or silence."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from engine.call.keys import Keys
from engine.verbs import pause, play, say
from engine.verbs.base import NEXT, Call, Fetch, Outcome
from markup import Gather, Pause, Play, Say

ANY_KEY = "0123456789*#ABCD"


@dataclass(frozen=True, slots=True)
class Collected:
    """What was pressed, without the finishing key; `finished_on` is that key or empty."""

    digits: str
    finished_on: str = ""


async def run(gather: Gather, call: Call) -> Outcome:
    """With input: request `action` with it. Without: go on with the next verb, unless actionOnEmptyResult."""
    await call.answer()
    if "speech" in gather.input:
        text = "no speech recognizer is configured: the caller is taken to have said nothing"
        call.note("warning", code=13326, text=text, line=gather.line)
    if "dtmf" not in gather.input:
        await _prompt(gather.verbs, call, "")
        await asyncio.sleep(gather.timeout)
        collected = Collected("")
    else:
        await (_prompt_until_key(gather, call) if gather.barge_in else _prompt(gather.verbs, call, ""))
        collected = await collect(gather, call.keys)
    call.note("gather", digits=collected.digits, finished_on=collected.finished_on)
    if not collected.digits and not gather.action_on_empty_result:
        return NEXT
    params = (
        ("Digits", collected.digits),
        ("FinishedOnKey", collected.finished_on),
        ("msg", "Gather End"),
    )
    return Fetch(gather.action or "", gather.method, params)


async def collect(gather: Gather, keys: Keys) -> Collected:
    """Read keys; `timeout` runs from now and starts again with each key."""
    digits = ""
    while gather.num_digits is None or len(digits) < gather.num_digits:
        try:
            async with asyncio.timeout(gather.timeout):
                key = await keys.get()
        except TimeoutError:
            return Collected(digits)
        if key == gather.finish_on_key:
            return Collected(digits, key)
        digits += key
    return Collected(digits)


async def _prompt_until_key(gather: Gather, call: Call) -> None:
    """Play the nested verbs; the first key ends them. The worker silences the line itself in the tick of the key."""
    prompt = asyncio.ensure_future(_prompt(gather.verbs, call, ANY_KEY))
    key = asyncio.ensure_future(call.keys.wait())
    try:
        await asyncio.wait({prompt, key}, return_when=asyncio.FIRST_COMPLETED)
        if prompt.done():
            prompt.result()
    finally:
        for task in (prompt, key):
            task.cancel()
        await asyncio.gather(prompt, key, return_exceptions=True)


async def _prompt(verbs: Sequence[Say | Play | Pause], call: Call, interrupt_on: str) -> None:
    for verb in verbs:
        match verb:
            case Say():
                await say.run(verb, call, interrupt_on)
            case Play():
                await play.run(verb, call, interrupt_on)
            case Pause():
                await pause.run(verb, call)
        if interrupt_on and len(call.keys):
            return
