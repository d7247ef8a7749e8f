"""`python -m tests.bench [--quick] [--json]`: measure, and print ratios. Never fails because something is slow."""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench import density, micro, setup
from tests.bench.caller import Caller
from tests.bench.machine import Cores, pin
from tests.bench.peers import compile_tools, engine, make_prompt, nullpeer

err = Console(stderr=True, highlight=False)
out = Console(highlight=False)

PARTS = ("micro", "density", "setup", "webhook")


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two levels only, about a minute")
    parser.add_argument("--json", action="store_true", help="everything measured, for programs")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part; may be given twice")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        found = Bench(Path(folder), options.quick).run(options.only or list(PARTS))
    if options.json:
        print(json.dumps(found, default=asdict))
    else:
        show(found)


class Bench:
    """All parts in one folder, on one choice of cores."""

    def __init__(self, folder: Path, quick: bool) -> None:
        self._folder = folder
        self._quick = quick
        self._cores = Cores.choose()
        self._prompt = make_prompt(folder)
        self._tools = compile_tools(folder)
        self._caller = Caller(self._cores, self._tools.get("rtpload"), self._prompt.ulaw)

    def run(self, parts: list[str]) -> dict[str, Any]:
        if not self._tools:
            err.print("no load tools or no C compiler here: calls come from switchhook load, without a ratio")
        return {part: getattr(self, f"measure_{part}")() for part in PARTS if part in parts}

    def measure_micro(self) -> list[micro.Micro]:
        err.print("micro …", style="dim")
        return micro.everything(self._folder)

    def measure_density(self) -> list[density.Level]:
        levels, seconds = (density.QUICK_LEVELS, 4.0) if self._quick else (density.LEVELS, 10.0)
        document = str(setup.document(self._folder, self._prompt))
        found: list[density.Level] = []
        with engine(self._folder, document, self._cores) as peer:
            for level in density.climb(peer, self._caller, levels, seconds):
                err.print(f"density {peer.name} {level.calls} …", style="dim")
                found.append(level)
        if "nullpeer" not in self._tools:
            return found
        reached = [level.calls for level in found]
        with nullpeer(self._folder, self._tools["nullpeer"], self._prompt, self._cores) as peer:
            for calls in reached:
                err.print(f"density {peer.name} {calls} …", style="dim")
                found.append(density.measure(peer, self._caller, calls, seconds))
        return found

    def measure_setup(self) -> list[setup.Rate]:
        rates = setup.QUICK_RATES if self._quick else setup.RATES
        document = str(setup.document(self._folder, self._prompt))
        found = []
        with engine(self._folder, document, self._cores) as peer:
            for rate in setup.climb(peer, self._caller, rates):
                err.print(f"set-up {rate.rate:g} a second …", style="dim")
                found.append(rate)
        return found

    def measure_webhook(self) -> setup.Reaction:
        err.print("webhook …", style="dim")
        return asyncio.run(self._webhook())

    async def _webhook(self) -> setup.Reaction:
        pin(0, self._cores.other)
        app = setup.WebhookApp(self._prompt)
        await app.server.start()
        try:
            with engine(self._folder, f"{app.server.url}/voice", self._cores) as peer:
                return await setup.reaction(peer, app, 20 if self._quick else 200, 10.0)
        finally:
            await app.server.stop()


def show(found: dict[str, Any]) -> None:
    """Each part as a table; CPU as a ratio to the cheapest peer of the same run."""
    if "density" in found:
        _show_density(found["density"])
    if "setup" in found:
        _show_setup(found["setup"])
    if "webhook" in found:
        seen: setup.Reaction = found["webhook"]
        out.print(
            f"\nwebhook reply → first RTP: p50 {seen.p50:g} ms, p99 {seen.p99:g} ms ({seen.calls} calls)"
        )
    if "micro" in found:
        table = Table("in this process", "µs", box=None, title="\nMicro")
        for each in found["micro"]:
            table.add_row(each.what, f"{each.microseconds:.1f}")
        out.print(table)


def _show_density(levels: list[density.Level]) -> None:
    null = {level.calls: level for level in levels if level.peer == "nullpeer"}
    columns = (
        "peer",
        "calls",
        "held",
        "media CPU a call",
        "÷ nullpeer",
        "all CPU a call",
        "late",
        "loss %",
        "jitter p99",
    )
    table = Table(*columns, box=None, title="Density: two-way calls, one core for the media worker")
    for level in levels:
        base = null.get(level.calls)
        ratio = f"{level.media_cpu / base.media_cpu:.2f}" if base is not None and base.media_cpu else "–"
        table.add_row(
            level.peer,
            str(level.calls),
            "yes" if level.held else "no" if level.figures.sound else "no (the caller was late)",
            f"{level.media_cpu:.5f}",
            ratio,
            f"{level.total_cpu:.5f}",
            f"{100 * level.late:.2f} %",
            f"{level.figures.loss:g}",
            f"{level.figures.jitter_p99:g} ms",
        )
    out.print(table)
    ours = [level for level in levels if level.peer != "nullpeer"]
    held = max((level.calls for level in ours if level.held), default=0)
    per_call = density.memory_per_call(ours)
    memory = "" if per_call is None else f"; {per_call / density.OCTETS_PER_KB:.0f} KiB of memory a call"
    out.print(f"held {held} calls on one core{memory}")


def _show_setup(rates: list[setup.Rate]) -> None:
    columns = ("rate", "held", "INVITE → 200 p50", "p99", "200 → first RTP p50", "p99", "failed")
    table = Table(*columns, box=None, title="\nSet-up: calls a second, RTP on every call")
    for rate in rates:
        seen = rate.figures
        table.add_row(
            f"{rate.rate:g}",
            "yes" if rate.held else "no",
            f"{seen.setup_p50:g} ms",
            f"{seen.setup_p99:g} ms",
            f"{seen.first_rtp_p50:g} ms",
            f"{seen.first_rtp_p99:g} ms",
            str(seen.failed),
        )
    out.print(table)


if __name__ == "__main__":
    main()
