"""Imports point down: the picture in docs/architecture.md, enforced."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# What each room may import of ours. A file is in the room with the longest matching name.
ALLOWED: dict[str, set[str]] = {
    "markup": {"markup"},
    "speech": {"speech"},
    "engine.errors": set(),
    "engine.clock": set(),
    "engine.ids": set(),
    "engine.sip": {"engine.sip", "engine.errors", "engine.ids"},
    "engine.media.protocol": set(),
    "engine.media.worker": {"engine.media.worker", "engine.media.protocol", "engine.errors", "engine.ids"},
    "engine.media.audio": {"engine.errors", "speech.base"},
    "engine.media.fetch": {"engine.media.audio", "speech.cache", "speech.base"},
    "engine.media.link": {"engine.media.protocol", "engine.errors"},
    "engine.media.session": {
        "engine.media.link",
        "engine.media.protocol",
        "engine.errors",
        "engine.sip.offer",
    },
    "engine.media.pool": {
        "engine.media.link",
        "engine.media.session",
        "engine.media.protocol",
        "engine.errors",
    },
    "engine.net": {"engine.net", "engine.sip", "engine.clock", "engine.errors"},
    "engine.schema": {"engine.errors"},
    "engine.writer": {"engine.schema"},
    "engine.store": {"engine.schema", "engine.writer", "engine.signature", "engine.clock", "engine.ids"},
    "engine.signature": set(),
    "engine.webhook": {"engine.webhook", "engine.signature", "engine.errors", "engine.ids"},
    "engine.callbacks": {"engine.webhook", "engine.store", "engine.clock", "engine.ids"},
    "engine.call": {
        "engine.call",
        "engine.sip",
        "engine.media",
        "engine.schema",
        "engine.signature",
        "engine.store",
        "engine.webhook",
        "engine.callbacks",
        "engine.clock",
        "engine.ids",
        "engine.errors",
        "markup",
        "speech.cache",
    },
    "engine.verbs": {
        "engine.verbs",
        "engine.call",
        "engine.media.protocol",
        "engine.media.audio",
        "engine.signature",
        "markup",
        "speech",
    },
    "engine.metrics": {"engine.sip.stack", "engine.media.pool"},
    "engine.api": {"engine.api", "engine.errors", "engine.store", "engine.call"},
}
TOP = ("engine",)  # app, cli, config, console, softphone, load, doctor: the composition may see everything


def room_of(module: str) -> str | None:
    rooms = [room for room in ALLOWED if module == room or module.startswith(room + ".")]
    return max(rooms, key=len, default=None)


def modules() -> list[tuple[str, Path]]:
    found = []
    for package in ("engine", "markup", "speech"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.append((".".join(parts).removesuffix(".__init__"), path))
    return found


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {
        name for name in names if name.split(".")[0] in ("engine", "markup", "speech", "samples", "tests")
    }


@pytest.mark.parametrize(("module", "path"), [pytest.param(*each, id=each[0]) for each in modules()])
def test_imports_point_down(module: str, path: Path) -> None:
    room = room_of(module)
    if room is None:
        assert not any(name.startswith(("samples", "tests")) for name in imports(path))
        return
    allowed = ALLOWED[room]
    for name in imports(path):
        if name in ("engine", "engine.media", "engine.sip") or (
            room_of(name) is None and name.count(".") > 1
        ):
            continue  # `from engine.media import protocol`: the full name is in the set too
        assert any(name == each or name.startswith(each + ".") for each in allowed), (
            f"{module} imports {name}"
        )


def test_every_room_exists() -> None:
    known = {module for module, _ in modules()}
    assert set(ALLOWED) <= known


def test_no_module_below_net_asks_for_time_or_sockets() -> None:
    for module, path in modules():
        if module.startswith("engine.sip"):
            tree = ast.parse(path.read_text())
            names = {
                alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
            }
            assert not names & {"socket", "time", "asyncio", "random", "secrets"}, module
