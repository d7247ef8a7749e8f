"""<Say>: speak text to the caller."""

from __future__ import annotations

from engine.verbs.base import NEXT, Call, Outcome
from engine.verbs.prompts import play_prompt, say_prompt
from markup import Say
from speech.base import SpeechError


async def run(say: Say, call: Call, interrupt_on: str = "") -> Outcome:
    """Speak it `loop` times. Without words it is a warning; a broken synthesizer costs the words, not the call."""
    if not say.text:
        call.note("warning", code=13520, text="nothing to say", line=say.line, verb="Say")
        return NEXT
    call.note("say", text=say.text[:200], language=say.language)
    try:
        await play_prompt(call, say_prompt(say, call), say.loop, interrupt_on)
    except SpeechError as error:
        call.note("error", code=12400, text=str(error), line=say.line, verb="Say")
    return NEXT
