"""Barge-in, measured where the caller is: from the first packet of a key to the last packet with sound in it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import statistics

import numpy as np
import soundfile
from starlette.responses import Response

from engine.media.worker import g711
from engine.softphone import CallPlan, Softphone
from tests.e2e.audio import RATE
from tests.e2e.conftest import EngineFactory
from tests.e2e.relay import CallRelay, UdpRelay
from tests.e2e.script import Script

HEADER = 12  # octets of an RTP header without extensions, as both ends send it
PCMU = 0
AUDIBLE = 60.0  # RMS; companded silence is 0 to 8
SECONDS = 0.040  # two frames: the one that is on its way, and the one of the tick that sees the key
PROMPT = (
    '<Gather numDigits="1" action="/quiet"><Play loop="0">/tone.wav</Play></Gather>'  # never takes a breath
)


def tone() -> Response:
    """A second of 400 Hz as a WAV file."""
    file = io.BytesIO()
    wave = 8000 * np.sin(2 * np.pi * 400 * np.arange(RATE) / RATE)
    soundfile.write(file, wave.astype(np.int16), RATE, format="WAV")
    return Response(file.getvalue(), media_type="audio/wav")


def payload_type(packet: bytes) -> int:
    return packet[1] & 0x7F


def is_audible(packet: bytes) -> bool:
    codes = np.frombuffer(packet, np.uint8, offset=HEADER)
    pcm = g711.DECODE[g711.MU_LAW, codes].astype(np.float64)
    return float(np.sqrt((pcm**2).mean())) > AUDIBLE


def silence_after(audio: UdpRelay) -> float:
    """Seconds from the key's first packet, sent by the caller, to the last audible one that came to the caller."""
    key = next(at for at, packet in audio.near.seen if payload_type(packet) != PCMU)
    heard = [at for at, packet in audio.far.seen if payload_type(packet) == PCMU and is_audible(packet)]
    assert any(key - 2 * SECONDS < at < key for at in heard), "nothing was to be heard when the key came"
    return max(heard) - key


async def test_a_key_silences_the_prompt_within_two_frames(
    engine_factory: EngineFactory, softphone: Softphone
) -> None:
    script = Script(PROMPT, quiet='<Pause length="1"/>', **{"tone.wav": tone()})
    running = await engine_factory(script)
    async with contextlib.AsyncExitStack() as stack:
        relays = [CallRelay(running.engine.sip_addresses[0]) for _ in range(5)]
        for relay in relays:
            await stack.enter_async_context(relay)
        keys = ("W5", "Ww5", "WW5", "WWw5", "WWW5")
        plans = [CallPlan(relay.target(), digits=key) for relay, key in zip(relays, keys, strict=True)]
        await asyncio.gather(*(softphone.call(plan) for plan in plans))
        took = [silence_after(relay.audio) for relay in relays]
    assert len(running.notes.of("gather", digits="5")) == len(relays)
    # one busy moment of this machine may delay one call's packets; it does not delay half of them
    assert statistics.median(took) <= SECONDS, took
    assert max(took) <= 3 * SECONDS, took
