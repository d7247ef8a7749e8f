"""The pump between UDP sockets and the SIP stack: bytes, addresses and the time in; datagrams and a timer out."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from ipaddress import ip_address
from typing import Any

import structlog

from engine.clock import Clock
from engine.errors import AddressInUseError, ConfigError
from engine.net.resolver import Resolver
from engine.sip.layer import Address, Flow, Outgoing
from engine.sip.stack import Listener, Stack

log = structlog.get_logger(__name__)

SETTLE_STEP = 0.02
RECEIVE_BUFFER = 4 << 20  # a burst of INVITEs waits here while call control is busy
DSCP_CS3 = 24 << 2  # RFC 4594 §4.2: signalling


class UdpEndpoint:
    """Sockets, resolver and timer of one stack. Create it, build the stack on its `send`, `attach`, `open`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stack: Stack | None = None
        self._transports: dict[Address, asyncio.DatagramTransport] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for: float | None = None
        self._arming = False
        self._resolver = Resolver(clock, self._resolved, self._failed)

    def attach(self, stack: Stack) -> None:
        self._stack = stack

    async def open(self, host: str, port: int, advertised: str | None = None) -> Address:
        """Listen; port 0 picks a free one, a `host` name is looked up. Returns what was bound, numeric.
        Raises `ConfigError` with what to do."""
        sock = _bind(await asyncio.to_thread(local_address, host), port)
        bound: Address = sock.getsockname()[:2]
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Protocol(self, bound), sock=sock
        )
        self._transports[bound] = transport
        assert self._stack is not None
        self._stack.listen(Listener(bound, advertised or reachable_host(bound[0])))
        return bound

    async def settle(self, seconds: float) -> None:
        """Wait until every request of ours is answered and every 200 acknowledged, at most so long: a BYE that is
        lost after `close` is never repeated, and its call goes on at the far end."""
        deadline = self._clock.monotonic() + seconds
        while not self._is_settled(deadline):  # noqa: ASYNC110 - the stack has no event for "nothing is under way"
            await asyncio.sleep(SETTLE_STEP)

    def _is_settled(self, deadline: float) -> bool:
        return self._stack is None or self._stack.is_quiet or self._clock.monotonic() >= deadline

    def close(self) -> None:
        for transport in self._transports.values():
            transport.close()
        self._transports.clear()
        self._resolver.close()
        if self._timer is not None:
            self._timer.cancel()

    def send(self, outgoing: Outgoing) -> None:
        """The stack's way out."""
        self._arm_soon()
        try:
            ip_address(outgoing.flow.remote[0])
        except ValueError:
            self._resolver.send(outgoing)
        else:
            self._transmit(outgoing, outgoing.flow.remote)

    def received(self, data: bytes, flow: Flow) -> None:
        assert self._stack is not None
        self._stack.receive(data, flow, self._clock.monotonic())
        self._arm_soon()

    def _transmit(self, outgoing: Outgoing, remote: Address) -> None:
        transport = self._transports.get(outgoing.flow.local)
        if transport is not None:
            transport.sendto(outgoing.message.to_bytes(), remote)

    def _resolved(self, outgoing: Outgoing, address: str) -> None:
        self._transmit(outgoing, (address, outgoing.flow.remote[1]))

    def _failed(self, outgoing: Outgoing) -> None:
        assert self._stack is not None
        self._stack.send_failed(outgoing, self._clock.monotonic())
        self._arm_soon()

    # --- the timer -------------------------------------------------------------------------------------------

    def _arm_soon(self) -> None:
        # One look at the deadline after each burst of work, not one per message.
        if not self._arming:
            self._arming = True
            asyncio.get_running_loop().call_soon(self._arm)

    def _arm(self) -> None:
        self._arming = False
        assert self._stack is not None
        deadline = self._stack.next_deadline()
        if deadline == self._armed_for:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for, self._timer = deadline, None
        if deadline is not None:
            delay = max(deadline - self._clock.monotonic(), 0)
            self._timer = asyncio.get_running_loop().call_later(delay, self._fire)

    def _fire(self) -> None:
        self._armed_for = self._timer = None
        assert self._stack is not None
        self._stack.timeout(self._clock.monotonic())
        self._arm_soon()


class _Protocol(asyncio.DatagramProtocol):
    def __init__(self, endpoint: UdpEndpoint, bound: Address) -> None:
        self._endpoint = endpoint
        self._bound = bound

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self._endpoint.received(data, Flow(self._bound, addr[:2]))

    def error_received(self, exc: Exception) -> None:
        # An ICMP error of an earlier datagram; the transaction's own timer tells the user (RFC 3261 §18.4
        # would let us be quicker, but the error does not say which request it was about).
        log.debug("network error", reason=str(exc))


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, DSCP_CS3)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        kind = AddressInUseError if error.errno == errno.EADDRINUSE else ConfigError
        raise kind(
            f"cannot listen for SIP on {host}:{port} ({error.strerror}): "
            "another program may have it; choose another address, or port 0"
        ) from error
    return sock


def local_address(host: str) -> str:
    """The IP address to bind for `host`: itself, or what the name stands for, IPv4 before IPv6 (a phone that was
    told `localhost` tries that first). Blocks while a name is looked up. Raises `ConfigError` when it has none."""
    with contextlib.suppress(ValueError):
        return str(ip_address(host))
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except (OSError, ValueError) as error:  # ValueError: no name at all (IDNA, NUL)
        raise ConfigError(
            f"cannot listen on {host!r}: no address is known for that name ({error}); give an IP address of this "
            "machine, or 0.0.0.0 for all"
        ) from error
    return str(min(found, key=lambda each: each[0] != socket.AF_INET)[4][0])


def reachable_host(host: str) -> str:
    """The address others can reach: that of `host` itself, or for a wildcard the one of the default route.
    Raises `ConfigError` for a name that does not resolve."""
    host = local_address(host)
    if not ip_address(host).is_unspecified:
        return host
    family, probe = (socket.AF_INET6, "2001:db8::1") if ":" in host else (socket.AF_INET, "192.0.2.1")
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((probe, 9))  # no packet leaves: UDP connect only asks the routing table
        except OSError:
            return "::1" if ":" in host else "127.0.0.1"
        return str(sock.getsockname()[0])
