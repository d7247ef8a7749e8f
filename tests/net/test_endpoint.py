"""The pump on real sockets: names to listen on, names to send to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from ipaddress import ip_address

import pytest

from engine.clock import SystemClock
from engine.errors import ConfigError
from engine.ids import SeededIds
from engine.net.endpoint import UdpEndpoint, local_address, reachable_host
from engine.sip import events as ev
from engine.sip.headers import NameAddr
from engine.sip.stack import Stack
from engine.sip.uri import SipUri

PATIENCE = 5.0


class Phone:
    """A stack on an endpoint; its events in a queue."""

    def __init__(self, seed: int) -> None:
        self.events: asyncio.Queue[ev.Event] = asyncio.Queue()
        self.endpoint = UdpEndpoint(SystemClock())
        self.stack = Stack(SeededIds(seed), send=self.endpoint.send, emit=self.events.put_nowait)
        self.endpoint.attach(self.stack)

    def call(self, host: str, port: int) -> None:
        me = NameAddr("", SipUri("sip", "me", None, "127.0.0.1", None))
        self.stack.invite(SipUri("sip", "you", None, host, port), me, b"", SystemClock().monotonic())

    async def next(self) -> ev.Event:
        async with asyncio.timeout(PATIENCE):
            return await self.events.get()


@pytest.fixture
async def phones() -> AsyncIterator[tuple[Phone, Phone]]:
    phones = Phone(1), Phone(2)
    yield phones
    for phone in phones:
        phone.endpoint.close()


async def test_a_name_to_listen_on_and_to_call(phones: tuple[Phone, Phone]) -> None:
    alice, bob = phones
    await alice.endpoint.open("127.0.0.1", 0)
    host, port = await bob.endpoint.open("localhost", 0)
    assert host == "127.0.0.1"
    alice.call("localhost", port)
    assert isinstance(await bob.next(), ev.Invited)


async def test_a_name_nobody_knows_fails_the_call_now(
    phones: tuple[Phone, Phone], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    alice, _ = phones
    await alice.endpoint.open("127.0.0.1", 0)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    for _ in range(2):  # the second from memory
        alice.call("nobody.invalid", 5060)
        refused = await alice.next()
        assert isinstance(refused, ev.Refused)
        assert refused.status == 503


async def test_listening_on_an_unknown_name_says_what_to_do(phones: tuple[Phone, Phone]) -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on 'no\.such\.host\.invalid'.*give an IP address"):
        await phones[0].endpoint.open("no.such.host.invalid", 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0", "::"])
def test_a_numeric_host_is_its_own_address(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "getaddrinfo")
    assert local_address(host) == host


def test_ipv4_before_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [
        (socket.AF_INET6, socket.SOCK_DGRAM, 17, "", ("::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
    assert local_address("localhost") == reachable_host("localhost") == "127.0.0.1"
    answers.pop()
    assert local_address("localhost") == "::1"


@pytest.mark.parametrize("host", ["", "a\0b", "x" * 300])
def test_no_name_at_all(host: str) -> None:
    with pytest.raises(ConfigError, match="no address is known"):
        local_address(host)


def test_a_wildcard_is_reached_by_a_real_address() -> None:
    assert not ip_address(reachable_host("0.0.0.0")).is_unspecified
