"""What Say and Play share, alone or inside a Gather: a prompt found or made, and played so often."""

from __future__ import annotations

from collections.abc import AsyncIterator

from engine.call.call import Call
from engine.media import protocol as media
from markup import Play, Say
from speech.base import Utterance
from speech.cache import Prompt


def say_prompt(say: Say, call: Call) -> Prompt:
    """The speech of a Say, rendered or being rendered."""
    prompt = call.services.prompts.prompt(Utterance(say.text, say.ssml, say.language, say.voice))
    for warning in prompt.warnings:
        call.note("warning", code=warning.code, text=warning.text, line=say.line, verb="Say")
    return prompt


async def play_prompt_of(play: Play, call: Call) -> Prompt:
    """The sound of a Play, from the cache or fetched. Raises `AudioError`."""
    return await call.services.sounds.prompt(call.instructions.sound(play.url))


async def play_prompt(call: Call, prompt: Prompt, loops: int, interrupt_on: str = "") -> media.PlayDone:
    """Play a prompt `loops` times (0: until something stops it)."""
    return await call.play(_clips(prompt), loops=loops, interrupt_on=interrupt_on)


async def _clips(prompt: Prompt) -> AsyncIterator[media.Clip]:
    segments = prompt.segments()
    try:
        async for segment in segments:
            yield media.Clip(segment.path, segment.start, segment.samples)
    finally:
        await segments.aclose()
