"""Calls from baresip: another implementation hears our prompts, and its keys, holds and hang-ups reach the app."""

from __future__ import annotations

from pathlib import Path

import pytest

from markup import Say
from tests.e2e.audio import FRAME, correlate, prompt_pcm
from tests.e2e.baresip import baresip, needs_baresip
from tests.e2e.conftest import EngineFactory
from tests.e2e.script import Script

pytestmark = [pytest.mark.peer, needs_baresip]

HELLO = Say("Hello baresip, this is the engine.")
AGAIN = Say("Welcome back, it was quiet without you.")
MENU = f'<Say>{HELLO.text}</Say><Gather numDigits="3" timeout="8" action="/keys"/>'
KEYS = "7#*"


@pytest.mark.parametrize("codec", ["PCMU", "PCMA"])
async def test_it_hears_the_prompt_and_its_keys_reach_the_app(
    engine_factory: EngineFactory, tmp_path: Path, codec: str
) -> None:
    script = Script(MENU.replace("<Gather", '<Gather finishOnKey=""'), keys="<Hangup/>")
    running = await engine_factory(script)
    wanted = await prompt_pcm(running.engine, HELLO)
    async with baresip(tmp_path / "phone", codec) as phone:
        await phone.command("dial", running.target())
        await phone.event("CALL_ESTABLISHED")
        await running.notes.wait("verb", name="Gather")  # the prompt is over
        for key in KEYS:
            await phone.command("sndcode", key)
        asks = await script.asked("/keys")
        await phone.event("CALL_CLOSED")  # by the engine
    assert asks[0].params["Digits"] == KEYS
    assert [note.data["how"] for note in running.notes.of("digit")] == ["rfc4733"] * 3
    heard = phone.heard()
    assert len(heard) == 1
    assert correlate(heard[0], wanted).score > 0.95
    row = await running.row()
    assert (row.status, row.ended_by) == ("completed", "app")
    assert row.quality["packets_lost"] == 0


async def test_hold_resume_and_hang_up(engine_factory: EngineFactory, tmp_path: Path) -> None:
    menu = f'<Say>{HELLO.text}</Say><Gather numDigits="1" timeout="9" action="/again"/>'
    running = await engine_factory(Script(menu, again=f'<Say>{AGAIN.text}</Say><Pause length="9"/>'))
    words = await prompt_pcm(running.engine, HELLO), await prompt_pcm(running.engine, AGAIN)
    async with baresip(tmp_path / "phone") as phone:
        await phone.command("dial", running.target())
        await running.notes.wait("verb", name="Gather")
        await phone.command("hold")
        await running.notes.wait("media", text="the caller put us on hold")
        await phone.command("resume")
        await running.notes.wait("media", text="the caller is back from hold")
        await phone.command("sndcode", "1")
        await running.notes.wait("verb-end", name="Say", count=2)
        await phone.command("hangup")
        await phone.event("CALL_CLOSED")
        row = await running.row()
    assert (row.status, row.ended_by) == ("completed", "caller")
    # its recorder stays stopped after a hold; its own count says that what we sent came, the words after it too
    assert phone.packets_received() == row.quality["packets_sent"]
    assert row.quality["packets_sent"] >= sum(len(pcm) for pcm in words) / FRAME
