"""A call's timeline for people: one line per note, aligned and coloured, from a live call or from the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from engine.call.timeline import Note

COLUMN = 9  # width of the kind column

Render = Callable[[Mapping[str, Any]], str]


def _sip(data: Mapping[str, Any]) -> str:
    arrow = "←" if data["direction"] == "in" else "→"
    return f"{arrow} {data['line']}  ({data['cseq']}, {data['peer']})"


def _webhook(data: Mapping[str, Any]) -> str:
    outcome = data.get("error") or data.get("status")
    times = [f"{name} {data[key]:g} ms" for name, key in _TIMES if data.get(key) is not None]
    return f"{data['method']} {data['url']} → {outcome}  ({', '.join(times)})"


_TIMES = (("connect", "connect_ms"), ("first byte", "first_byte_ms"), ("total", "total_ms"))


def _callback(data: Mapping[str, Any]) -> str:
    text = f"{data['name']}({data['action']}) {data['total_ms']:g} ms"
    return f"{text} → {data['error']}\n{data['trace']}".rstrip() if data.get("error") else text


def _problem(data: Mapping[str, Any]) -> str:
    code = f"{data['code']}: " if data.get("code") else ""
    where = f"  (line {data['line']})" if data.get("line") else ""
    return f"{code}{data['text']}{where}"


def _state(data: Mapping[str, Any]) -> str:
    detail = ", ".join(f"{name} {data[name]}" for name in ("by", "reason") if data.get(name))
    return f"{data['status']}" + (f"  ({detail})" if detail else "")


def _gather(data: Mapping[str, Any]) -> str:
    return f"digits {data['digits']!r}" + (f", ended by {data['finished_on']}" if data["finished_on"] else "")


_RENDERERS: dict[str, tuple[str, Render]] = {
    "call": ("bold", lambda data: f"{data['sid']}  {data['from']} → {data['to']}"),
    "sip": ("dim", _sip),
    "webhook": ("cyan", _webhook),
    "callback": ("cyan", _callback),
    "verb": ("bold", lambda data: f"<{data['name']}> line {data['line']}"),
    "verb-end": ("dim", lambda data: f"</{data['name']}> {data['total_ms']:g} ms"),
    "say": ("green", lambda data: f"“{data['text']}”"),
    "play": ("green", lambda data: data.get("url") or f"digits {data['digits']}"),
    "digit": ("magenta", lambda data: f"{data['digit']}  ({data['how']})"),
    "gather": ("magenta", _gather),
    "media": ("blue", lambda data: str(data["text"])),
    "warning": ("yellow", _problem),
    "error": ("bold red", _problem),
    "state": ("bold", _state),
}


def line(offset: float, kind: str, data: Mapping[str, Any]) -> Text:
    """One note as one coloured line; a kind we do not know is shown as it is stored."""
    style, render = _RENDERERS.get(kind, ("", str))
    try:
        body = render(data)
    except (KeyError, ValueError, TypeError):  # a note of another version
        body = str(dict(data))
    return Text.assemble((f"{offset:9.3f}  {kind:<{COLUMN}}", "dim"), (body, style))


class TimelinePrinter:
    """A watcher that prints every note as it happens, under a name, or under the end of each call's own SID."""

    def __init__(self, console: Console, name: str = "", *, by_call: bool = False) -> None:
        self._console = console
        self._name = name
        self._by_call = by_call

    def __call__(self, note: Note) -> None:
        text = line(note.offset, note.kind, note.data)
        name = f"…{note.call_sid[-4:]}" if self._by_call else self._name
        if name:
            text = Text.assemble((f"{name:<7}", "dim"), text)
        self._console.print(text, soft_wrap=True)


class ErrorPrinter:
    """A watcher for whoever runs the engine without a trace: what went wrong, and where to read more."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, note: Note) -> None:
        if note.kind == "error":
            text = f"{_problem(note.data)}; see: switchhook calls {note.call_sid}"
            self._console.print(text, style="red", soft_wrap=True)
