"""Who calls: the C load tool where it is, else the engine's own. Both report the same figures."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.load import LoadPlan, LoadReport, run_load
from tests.bench.machine import Cores, hurry, pin
from tests.bench.peers import Peer


@dataclass(frozen=True, slots=True)
class Figures:
    """A run as its caller saw it. Times in ms, shares in percent; `sound` is whether the caller kept up itself."""

    answered: int
    failed: int
    setup_p50: float
    setup_p99: float
    first_rtp_p50: float
    first_rtp_p99: float
    loss: float
    received: float
    jitter_p99: float
    retransmits: int
    seconds: float
    sound: bool

    @classmethod
    def of_rtpload(cls, found: dict[str, Any]) -> Figures:
        rtp, setup, first = found["rtp"], found["setup_ms"], found["first_rtp_ms"]
        return cls(
            answered=found["answered"],
            failed=found["failed"],
            setup_p50=setup["p50"],
            setup_p99=setup["p99"],
            first_rtp_p50=first["p50"],
            first_rtp_p99=first["p99"],
            loss=rtp["loss_pct"],
            received=rtp["rx_pct"],
            jitter_p99=found["jitter_ms"]["p99"],
            retransmits=found["invite_retransmits"],
            seconds=found["wall_s"],
            sound=found["tool"]["tx_late_ms"]["p99"] < 5 and found["tool"]["socket_drops"] == 0,
        )

    @classmethod
    def of_load(cls, found: LoadReport, plan: LoadPlan) -> Figures:
        expected = found.packets_expected
        return cls(
            answered=found.answered,
            failed=found.attempted - found.completed,
            setup_p50=found.setup_ms.p50,
            setup_p99=found.setup_ms.p99,
            first_rtp_p50=found.first_rtp_ms.p50,
            first_rtp_p99=found.first_rtp_ms.p99,
            loss=found.loss_percent,
            received=100 * found.packets_received / expected if expected else 100.0,
            jitter_p99=found.jitter_ms.p99,
            retransmits=0,
            seconds=plan.calls / plan.rate + plan.hold,
            sound=found.tool.is_sound,
        )


@dataclass(frozen=True, slots=True)
class Caller:
    """Places calls from a core. `rtpload` None is the engine's own load tool."""

    cores: Cores
    rtpload: Path | None
    audio: Path

    def call(
        self,
        peer: Peer,
        calls: int,
        rate: float,
        hold: float,
        *,
        media: bool = True,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Figures:
        """Place `calls`; `meanwhile` runs in a thread of its own from the first INVITE on."""
        watching = threading.Thread(target=meanwhile)
        watching.start()
        try:
            if self.rtpload is None:
                return self._by_own(
                    peer, LoadPlan(f"1000@127.0.0.1:{peer.port}", calls, rate, hold, media=media)
                )
            return self._by_rtpload(peer, calls, rate, hold, media)
        finally:
            watching.join()

    def _by_own(self, peer: Peer, plan: LoadPlan) -> Figures:
        return Figures.of_load(asyncio.run(run_load(plan)), plan)

    def _by_rtpload(self, peer: Peer, calls: int, rate: float, hold: float, media: bool) -> Figures:
        assert self.rtpload is not None
        command = [str(self.rtpload), "--port", str(peer.port), "--audio", str(self.audio)]
        command += ["--calls", str(calls), "--rate", str(rate), "--hold", str(hold)]
        command += [] if media else ["--no-media"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, preexec_fn=lambda: pin(0, self.cores.other)
        ) as child:
            hurry(child.pid)
            printed, _ = child.communicate()
        return Figures.of_rtpload(json.loads(printed))
