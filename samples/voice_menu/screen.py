"""What `make run` shows: calm lines, the phone's and the engine's side told apart, and a verdict at the end."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from engine.call.timeline import Note
from engine.console import line
from engine.softphone import CallReport, heard_seconds
from samples.voice_menu.heard import RATE, Heard, Pcm

PHONE, ENGINE = "yellow", "cyan"
QUIET = ("verb-end",)  # each verb's duration: `switchhook calls SID` has it, here it would only be noise

Done = Callable[[str, str], None]


class Screen:
    """Prints. `engine` and `phone` are watchers for either side's timeline."""

    def __init__(self, console: Console) -> None:
        self.serving = False
        self.sid = ""  # of the call that is being shown
        self._console = console
        self._began = 0.0
        self._showing = False

    # --- starting --------------------------------------------------------------------------------------------

    @contextmanager
    def step(self, text: str) -> Iterator[Done]:
        """Something that takes a moment; `done(name, what)` is the line that stays."""
        began = time.monotonic()

        def done(name: str, what: str) -> None:
            took = f"{1000 * (time.monotonic() - began):.0f} ms"
            self._console.print(
                Text.assemble("  ✓ ", (f"{name:<7}", "bold"), what, (f"  {took}", "dim")), soft_wrap=True
            )

        with self.working(text):
            yield done

    @contextmanager
    def working(self, text: str) -> Iterator[None]:
        with self._console.status(f"{text} …", spinner="dots"):
            yield

    # --- the call --------------------------------------------------------------------------------------------

    def begin(self, text: str) -> None:
        self._console.print(f"\n[bold]{text}[/]\n")
        self._began, self._showing = time.monotonic(), True

    def end(self) -> None:
        self._showing = False

    def engine(self, note: Note) -> None:
        if self._showing:
            self.sid = self.sid or note.call_sid
            self._show("engine", ENGINE, time.monotonic() - self._began, note)
        elif self.serving:
            self._show(f"…{note.call_sid[-5:]}", ENGINE, note.offset, note)

    def phone(self, note: Note) -> None:
        if self._showing:
            self._show("phone", PHONE, time.monotonic() - self._began, note)

    def _show(self, side: str, style: str, seconds: float, note: Note) -> None:
        if note.kind not in QUIET:
            text = Text.assemble((f"  {side:<6}", style), line(seconds, note.kind, note.data))
            self._console.print(text, soft_wrap=True)

    # --- afterwards ------------------------------------------------------------------------------------------

    def heard(self, heard: Sequence[Heard], pcm: Pcm, report: CallReport, recording: Path) -> None:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for name in ("", "at", "likeness"):
            table.add_column(name, justify="right")
        table.add_column("what the phone heard")
        for each in heard:
            mark = Text("✓", "green") if each.found else Text("✗", "bold red")
            at = f"{each.at:.2f} s" if each.found else ""
            table.add_row(
                mark, at, f"{each.likeness:.3f}", Text(f"“{each.words}”", "" if each.found else "red")
            )
        self._console.print()
        self._console.print(Padding(table, (0, 0, 0, 2)))
        rtp = report.quality
        self._console.print(
            f"\n  {len(pcm) / RATE:.1f} s on the line, {heard_seconds(pcm):.1f} s of them speech; "
            f"{rtp.packets_received} packets, {rtp.packets_lost} lost, jitter {rtp.jitter_ms:g} ms"
        )
        self._console.print(Text.assemble("  recorded in ", str(recording)), style="dim", soft_wrap=True)

    def verdict(self, reasons: Sequence[str]) -> None:
        if reasons:
            self._console.print("\n[bold red]The call did not go as it should:[/]")
        else:
            self._console.print("\n[bold green]The call was completed, and each of its prompts was heard.[/]")
        for reason in reasons:
            self._console.print(Text(f"  {reason}", "red"), soft_wrap=True)

    def invite(self, target: str, data: str) -> None:
        """What to do now."""
        self.serving = True
        command = (
            "switchhook"
            if shutil.which("switchhook")
            else _near(Path(sys.executable).with_name("switchhook"))
        )
        self._console.print(
            "\n[bold]Now it is your turn.[/] The menu goes on answering; calls are shown here.\n"
        )
        rows = {
            "from here": f"{command} call {target} --dtmf WWWWW3",
            "baresip": f"baresip -e '/dial {target}'",
            "linphone": f"call {target}",
            "look back": f"{command} calls --data {_near(Path(data))}",
        }
        for name, what in rows.items():
            self._console.print(Text.assemble((f"  {name:<10}", "dim"), what), soft_wrap=True)
        self._console.print("\n[dim]Ctrl-C ends.[/]\n")

    def failed(self, reason: str) -> None:
        """It could not even begin."""
        self._console.print(Text(f"\n{reason}", "red"), soft_wrap=True)

    def goodbye(self) -> None:
        self._console.print("\n[dim]stopped[/]")


def _near(path: Path) -> Path:
    """As short as it can be typed here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
