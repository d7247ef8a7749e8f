"""What Linux knows about processes and sockets, read from /proc (proc(5)): CPU, memory, and who holds a port."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
TCP_LISTEN = "0A"

Protocol: TypeAlias = Literal["udp", "tcp"]
IPAddress: TypeAlias = IPv4Address | IPv6Address


class Usage(NamedTuple):
    """A process tree's CPU seconds (user and system, those of reaped children too) and resident octets."""

    cpu_seconds: float
    resident: int


@dataclass(frozen=True, slots=True)
class _Stat:
    parent: int
    cpu_seconds: float
    resident: int


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that has a port; `pid` is None when it is another user's and we may not look."""

    pid: int | None
    command: str

    def __str__(self) -> str:
        return f"{self.command} (process {self.pid})" if self.pid is not None else self.command


def usage(pid: int) -> Usage | None:
    """What `pid` and all its descendants have used so far; None when there is no such process."""
    stats = {number: stat for number in _pids() if (stat := _stat(number)) is not None}
    if pid not in stats:
        return None
    tree = [stats[number] for number in _tree(pid, stats)]
    return Usage(sum(stat.cpu_seconds for stat in tree), sum(stat.resident for stat in tree))


def usage_alone(pid: int) -> Usage | None:
    """The same of one process without its children."""
    stat = _stat(pid)
    return None if stat is None else Usage(stat.cpu_seconds, stat.resident)


def holder(protocol: Protocol, host: str, port: int) -> Holder | None:
    """Who is bound to this address, or to all addresses at this port; None when nobody is."""
    inodes = set(_inodes(protocol, host, port))
    if not inodes:
        return None
    for pid in _pids():
        if inodes & _socket_inodes(pid):
            return Holder(pid, _command(pid))
    return Holder(None, "another user's process")


def opener(path: Path) -> int | None:
    """A process that has this file open, where we may see it."""
    try:
        wanted = path.stat()
    except OSError:
        return None
    return next((pid for pid in _pids() if _has_open(pid, (wanted.st_dev, wanted.st_ino))), None)


def _pids() -> list[int]:
    return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]


def _stat(pid: int) -> _Stat | None:
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:  # it ended while we looked
        return None
    # The command in parentheses may hold blanks and parentheses itself; the fields after it do not.
    fields = text.rpartition(")")[2].split()
    return _Stat(int(fields[1]), sum(map(int, fields[11:15])) / TICKS, int(fields[21]) * PAGE)


def _tree(root: int, stats: dict[int, _Stat]) -> Iterator[int]:
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        yield pid
        waiting += [number for number, stat in stats.items() if stat.parent == pid]


def _inodes(protocol: Protocol, host: str, port: int) -> Iterator[str]:
    wanted = ip_address(host)
    for table in (protocol, f"{protocol}6"):
        for fields in _rows(PROC / "net" / table):
            address, _, number = fields[1].partition(":")
            if int(number, 16) != port or (protocol == "tcp" and fields[3] != TCP_LISTEN):
                continue
            bound = _address(address)
            if bound == wanted or bound.is_unspecified or wanted.is_unspecified:
                yield fields[9]


def _rows(table: Path) -> list[list[str]]:
    try:
        return [line.split() for line in table.read_text().splitlines()[1:]]
    except OSError:  # no IPv6 in this kernel
        return []


def _address(text: str) -> IPAddress:
    # 32-bit words in the machine's byte order, each spelled as one hexadecimal number
    words = [int(text[start : start + 8], 16).to_bytes(4, sys.byteorder) for start in range(0, len(text), 8)]
    return ip_address(b"".join(words))


def _socket_inodes(pid: int) -> set[str]:
    names = (os.fspath(target) for entry in _descriptors(pid) if (target := _target(entry)) is not None)
    return {name[8:-1] for name in names if name.startswith("socket:[")}


def _has_open(pid: int, file: tuple[int, int]) -> bool:
    found = (_followed(entry) for entry in _descriptors(pid))
    return any(each is not None and (each.st_dev, each.st_ino) == file for each in found)


def _descriptors(pid: int) -> list[Path]:
    try:
        return list((PROC / str(pid) / "fd").iterdir())
    except OSError:  # another user's, or gone
        return []


def _target(entry: Path) -> Path | None:
    try:
        return entry.readlink()
    except OSError:  # closed meanwhile, as the one that listed this folder
        return None


def _followed(entry: Path) -> os.stat_result | None:
    try:
        return entry.stat()
    except OSError:
        return None


def _command(pid: int) -> str:
    try:
        return (PROC / str(pid) / "comm").read_text().strip()
    except OSError:
        return "a process that has just ended"
