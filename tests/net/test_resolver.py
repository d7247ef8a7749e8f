"""Names on the way out: one look-up for many messages, remembered, bounded, and never anybody else's thread."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import pytest

from engine.net.resolver import KEEP_S, MAX_KNOWN, MAX_LOOKUPS, THREADS, Resolver
from engine.sip.layer import Flow, Outgoing
from engine.sip.message import Request
from engine.sip.uri import SipUri

LOCAL = ("127.0.0.1", 5060)
PATIENCE = 5.0


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def monotonic(self) -> float:
        return self.time

    def now(self) -> datetime:
        return datetime(2026, 1, 5, tzinfo=UTC)


class NameServer:
    """In place of the system's: knows every name that does not begin with "no", and answers while `open`."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.threads: set[str] = set()
        self.open = threading.Event()
        self.open.set()

    def __call__(self, host: str, port: object, family: int = 0, kind: int = 0) -> list[tuple[object, ...]]:
        self.asked.append((host, family))
        self.threads.add(threading.current_thread().name)
        assert self.open.wait(PATIENCE)
        if host.startswith("no"):
            raise socket.gaierror(-2, "Name or service not known")
        return [(family, kind, 17, "", ("::7" if family == socket.AF_INET6 else "192.0.2.7", 0))]


class Bench:
    def __init__(self) -> None:
        self.clock = Clock()
        self.found: list[tuple[Outgoing, str]] = []
        self.failed: list[Outgoing] = []
        self._settled = asyncio.Event()
        self.resolver = Resolver(self.clock, self._found, self._failed)

    def _found(self, outgoing: Outgoing, address: str) -> None:
        self.found.append((outgoing, address))
        self._settled.set()

    def _failed(self, outgoing: Outgoing) -> None:
        self.failed.append(outgoing)
        self._settled.set()

    async def until(self, settled: int) -> None:
        """Until so many messages came out, one way or the other."""
        async with asyncio.timeout(PATIENCE):
            while len(self.found) + len(self.failed) < settled:
                self._settled.clear()
                await self._settled.wait()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    server = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", server)
    yield server
    server.open.set()


@pytest.fixture
async def bench(names: NameServer) -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    bench.resolver.close()


def to(host: str, local: tuple[str, int] = LOCAL) -> Outgoing:
    return Outgoing(Flow(local, (host, 5060)), Request("BYE", SipUri("sip", None, None, host, None)))


async def test_many_messages_to_one_host_are_one_look_up(bench: Bench, names: NameServer) -> None:
    messages = [to("pbx.example"), to("PBX.example"), to("pbx.example")]
    for message in messages:
        bench.resolver.send(message)
    await bench.until(3)
    assert [(id(outgoing), address) for outgoing, address in bench.found] == [
        (id(message), "192.0.2.7") for message in messages
    ]
    assert names.asked == [("pbx.example", socket.AF_INET)]


async def test_a_repeat_waits_once(bench: Bench, names: NameServer) -> None:
    names.open.clear()
    message = to("pbx.example")
    for _ in range(5):
        bench.resolver.send(message)
    names.open.set()
    await bench.until(1)
    await asyncio.sleep(0)
    assert len(bench.found) == 1


@pytest.mark.parametrize("host", ["pbx.example", "nobody.example"])
async def test_an_answer_is_kept_for_a_while(bench: Bench, names: NameServer, host: str) -> None:
    bench.resolver.send(to(host))
    await bench.until(1)
    bench.clock.time += KEEP_S - 1
    bench.resolver.send(to(host))
    await bench.until(2)
    assert len(names.asked) == 1
    bench.clock.time += 2
    bench.resolver.send(to(host))
    await bench.until(3)
    assert len(names.asked) == 2
    assert len(bench.failed) == (3 if host.startswith("no") else 0)


async def test_each_ip_version_is_asked_for_by_itself(bench: Bench) -> None:
    bench.resolver.send(to("pbx.example", ("::1", 5060)))
    bench.resolver.send(to("pbx.example"))
    await bench.until(2)
    assert sorted(address for _, address in bench.found) == ["192.0.2.7", "::7"]


async def test_a_failure_is_never_told_from_within_send(bench: Bench) -> None:
    bench.resolver.send(to("nobody.example"))
    await bench.until(1)
    bench.resolver.send(to("nobody.example"))
    assert len(bench.failed) == 1  # the stack is still at work on this message
    await bench.until(2)


async def test_a_flood_of_names_fails_at_once_and_takes_no_other_thread(
    bench: Bench, names: NameServer
) -> None:
    names.open.clear()
    flood = [to(f"evil{n}.example") for n in range(MAX_LOOKUPS + 50)]
    for message in flood:
        bench.resolver.send(message)
    await bench.until(50)
    assert bench.failed == flood[MAX_LOOKUPS:]
    assert bench.found == []
    async with asyncio.timeout(PATIENCE):
        await asyncio.to_thread(lambda: None)  # the default executor is nobody's hostage
    assert len(names.asked) <= THREADS
    names.open.set()
    await bench.until(len(flood))
    assert len(bench.found) == MAX_LOOKUPS
    assert all(name.startswith("resolver") for name in names.threads)
    assert len(names.threads) <= THREADS


async def test_what_is_remembered_is_bounded(bench: Bench, names: NameServer) -> None:
    for n in range(MAX_KNOWN + 10):
        bench.resolver.send(to(f"host{n}.example"))
        await bench.until(n + 1)
    assert len(bench.resolver._known) == MAX_KNOWN
    assert (f"host{MAX_KNOWN + 9}.example", socket.AF_INET) in bench.resolver._known


@pytest.mark.parametrize("host", ["a\0b", "x" * 300, "..", "ü" * 70])
async def test_no_name_at_all(bench: Bench, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.undo()  # the system's own refusals
    bench.resolver.send(Outgoing(Flow(LOCAL, (host, 5060)), to("x").message))
    await bench.until(1)
    assert len(bench.failed) == 1


async def test_after_the_end_nothing_is_heard(bench: Bench, names: NameServer) -> None:
    names.open.clear()
    bench.resolver.send(to("pbx.example"))
    await asyncio.sleep(0)
    bench.resolver.close()
    bench.resolver.send(to("other.example"))
    names.open.set()
    await asyncio.to_thread(lambda: None)
    await asyncio.sleep(0)
    assert (bench.found, bench.failed) == ([], [])
