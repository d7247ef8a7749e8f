"""<Play>: a sound by URL, or keys."""

from __future__ import annotations

from engine.media.audio import AudioError
from engine.signature import shown
from engine.verbs.base import NEXT, Call, Outcome
from engine.verbs.prompts import play_prompt, play_prompt_of
from markup import Play
from speech.base import SpeechError


async def run(play: Play, call: Call, interrupt_on: str = "") -> Outcome:
    """Play it `loop` times. A sound that cannot be had is an error in the timeline, and the document goes on."""
    if play.digits:
        await _send_digits(play, call)
    if not play.url:
        return NEXT
    await call.answer()
    url = shown(play.url)
    call.note("play", url=url)
    try:
        prompt = await play_prompt_of(play, call)
        await play_prompt(call, prompt, play.loop, interrupt_on)
    except AudioError as error:
        call.note("error", code=error.code, text=str(error), line=play.line, verb="Play", url=url)
    except SpeechError as error:  # the prompt store could not keep it: a full disk
        call.note("error", code=12400, text=str(error), line=play.line, verb="Play", url=url)
    return NEXT


async def _send_digits(play: Play, call: Call) -> None:
    assert play.digits is not None
    call.note("play", digits=play.digits)
    for _ in range(max(play.loop, 1)):  # keys "until hang-up" make no sense to any receiver
        await call.send_digits(play.digits)
