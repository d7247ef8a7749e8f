"""The same call over IPv6: addresses in Via, Contact and SDP, and the sockets behind them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from engine.config import Config, SipConfig
from engine.softphone import CallPlan, Softphone
from markup import Say
from tests.e2e.audio import assert_played, prompt_pcm, read_wav
from tests.e2e.conftest import EngineFactory
from tests.e2e.script import Script


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
async def test_a_call_over_ipv6(engine_factory: EngineFactory, tmp_path: Path) -> None:
    script = Script('<Say>Six.</Say><Gather numDigits="1" action="/key"/>', key="<Hangup/>")
    running = await engine_factory(script, config=Config(sip=SipConfig(("udp:[::1]:0",))))
    wanted = await prompt_pcm(running.engine, Say("Six."))
    port = running.engine.sip_addresses[0][1]
    async with Softphone("::1") as phone:
        plan = CallPlan(f"sip:1000@[::1]:{port}", digits="W6", record=tmp_path / "heard.wav")
        report = await phone.call(plan)
    assert (report.status, report.ended_by) == (200, "far end")
    assert_played(read_wav(tmp_path / "heard.wav"), wanted)
    assert [ask.params["Digits"] for ask in script.of("/key")] == ["6"]
    first = script.asks[0].params
    assert (first["To"], first["SipSourceIp"]) == ("sip:1000@[::1]", "::1")
