"""A network that loses and reorders one packet in twenty: keys stay whole, and speech stays speech."""

from __future__ import annotations

import asyncio
from pathlib import Path

from engine.softphone import CallPlan, Softphone
from markup import Say
from tests.e2e.audio import correlate, prompt_pcm, read_wav
from tests.e2e.conftest import EngineFactory
from tests.e2e.relay import CallRelay, Lossy
from tests.e2e.script import Script

KEYS = "1122334455#0099*"  # pairs, because a doubled key looks like one of them, and a lost one like a single
LOSS, REORDER = 0.05, 0.05
PROMPT = Say("This sentence crosses a network that loses one packet in twenty.")


async def test_keys_are_neither_lost_nor_doubled(engine_factory: EngineFactory, softphone: Softphone) -> None:
    document = f'<Gather finishOnKey="" numDigits="{len(KEYS)}" timeout="10" action="/keys"/>'
    script = Script(document, keys="<Hangup/>")
    running = await engine_factory(script)
    losses = [Lossy(seed, LOSS, REORDER) for seed in range(1, 5)]

    async def press(loss: Lossy) -> None:
        async with CallRelay(running.engine.sip_addresses[0], to_server=loss) as relay:
            await softphone.call(CallPlan(relay.target(), digits=KEYS, ring_seconds=10))

    await asyncio.gather(*map(press, losses))
    assert all(loss.lost and loss.reordered for loss in losses), "every call met loss and reordering"
    assert sum(loss.lost for loss in losses) > 20
    assert [ask.params["Digits"] for ask in script.of("/keys")] == [KEYS] * len(losses)


async def test_speech_still_correlates_with_what_was_said(
    engine_factory: EngineFactory, softphone: Softphone, tmp_path: Path
) -> None:
    running = await engine_factory(Script(f"<Say>{PROMPT.text}</Say>"))
    wanted = await prompt_pcm(running.engine, PROMPT)
    loss = Lossy(7, LOSS, REORDER)
    async with CallRelay(running.engine.sip_addresses[0], to_client=loss) as relay:
        report = await softphone.call(CallPlan(relay.target(), record=tmp_path / "heard.wav"))
    assert loss.lost > 5
    assert report.quality.packets_lost >= loss.lost - 2  # losses after the last packet heard cannot be known
    assert correlate(read_wav(tmp_path / "heard.wav"), wanted).score > 0.8


async def test_our_keys_reach_the_telephone_whole(
    engine_factory: EngineFactory, softphone: Softphone
) -> None:
    running = await engine_factory(Script(f'<Play digits="{KEYS}"/>'))
    losses = [Lossy(seed, LOSS, REORDER) for seed in range(11, 15)]

    async def listen(loss: Lossy) -> str:
        async with CallRelay(running.engine.sip_addresses[0], to_client=loss) as relay:
            return (await softphone.call(CallPlan(relay.target()))).digits_heard

    assert await asyncio.gather(*map(listen, losses)) == [KEYS] * len(losses)
    assert all(loss.lost and loss.reordered for loss in losses)
