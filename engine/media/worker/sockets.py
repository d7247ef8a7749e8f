"""A worker's sockets: RTP in batches with one `recv` and one `send` a packet, RTCP beside it.

Rows are legs throughout. Before a leg has heard anybody its socket is open to all. The first plausible packet
from where the SDP says, or a second of them from elsewhere (symmetric RTP), connects it to where it came from, so a
stranger's packets die in the kernel from then on.
"""

from __future__ import annotations

import ctypes
import select
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.errors import MediaError
from engine.media.worker import rtp

ROW_OCTETS = 640  # 60 ms of G.711 (480), header, extension; a longer datagram is not ours and is dropped
BATCH = 512  # packets taken from the kernel at once
PROBATION = 50  # packets (a second) from elsewhere than the SDP says before that is where the far end is
RECEIVE_BUFFER = (
    64 << 10
)  # 200 ms of packets and their bookkeeping: a stalled worker finds them on its return
EXPEDITED = 46 << 2  # DSCP EF, RFC 4594 §4.1: voice

Address = tuple[str, int]


@dataclass(slots=True)
class Batch:
    """Packets as a matrix: row i has `lengths[i]` octets and came in on leg `legs[i]`."""

    rows: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((BATCH, ROW_OCTETS), np.uint8))
    lengths: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BATCH, np.int64))
    legs: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BATCH, np.int64))
    count: int = 0


class PacketIo(Protocol):
    """What the tick needs of a network; the simulator's wire implements it as well as the kernel's sockets."""

    dropped: int

    def open(self, leg: int, host: str) -> int:
        """Bind an even port and the odd one above it for RTCP; returns the even one. Raises `MediaError`."""
        ...

    def aim(self, leg: int, rtp: Address | None, rtcp: Address | None) -> None:
        """Send here until a source is locked; to a name nothing is sent before. Lifts the lock when the address
        is another one."""
        ...

    def source(self, leg: int) -> Address | None:
        """The locked source."""
        ...

    def receive(self, batch: Batch) -> None:
        """Fill the batch with what has arrived, at most `BATCH` packets and one per leg and call."""
        ...

    def receive_rtcp(self) -> list[tuple[int, bytes]]: ...

    def locked(self) -> list[tuple[int, Address]]:
        """Sources locked since the last call."""
        ...

    def send(self, legs: NDArray[np.int64], packets: NDArray[np.void]) -> None:
        """Send packet i from leg `legs[i]`: (n,) of `rtp.FRAME`."""
        ...

    def send_one(self, leg: int, packet: bytes) -> None: ...

    def send_rtcp(self, leg: int, packet: bytes) -> None: ...

    def close(self, leg: int) -> None: ...


@dataclass(slots=True)
class _Pair:
    """One leg's sockets, and where they send."""

    rtp: socket.socket
    rtcp: socket.socket
    target: Address | None = None
    sends_unlocked: bool = False  # `target` is numeric: a name would be looked up in the middle of the tick
    rtcp_target: Address | None = None
    source: Address | None = None  # the locked source
    candidate: Address | None = None  # who sends from elsewhere than the SDP says, and how often in a row
    heard: int = 0


class SocketIo:
    """`PacketIo` on the kernel's UDP sockets and one epoll set."""

    def __init__(self, first_port: int, last_port: int) -> None:
        self._ports = range(first_port + first_port % 2, last_port, 2)
        self._next = 0
        self._pairs: dict[int, _Pair] = {}
        self._epoll = select.epoll()
        self._rtcp_epoll = select.epoll()
        self._receivers: dict[int, tuple[int, Callable[[memoryview], int]]] = {}  # by descriptor
        self._senders: dict[int, Callable[[memoryview], int]] = {}  # by leg, once it is connected
        self._rtcp_legs: dict[int, int] = {}
        self._locks: list[tuple[int, Address]] = []
        self._scratch = bytearray(2048)
        self.dropped = 0

    def open(self, leg: int, host: str) -> int:
        family = _family(host)
        for _ in range(len(self._ports)):
            port = self._ports[self._next % len(self._ports)]
            self._next += 1
            if (pair := _bind_pair(host, port, family)) is not None:
                self._register(leg, pair)
                return port
        raise MediaError(f"no free RTP port on {host} between {self._ports.start} and {self._ports.stop}")

    def aim(self, leg: int, rtp: Address | None, rtcp: Address | None) -> None:
        pair = self._pairs[leg]
        target = _normal(rtp)
        if pair.source is not None and target != pair.target:
            self._unlock(leg, pair)
        pair.target, pair.rtcp_target = target, rtcp
        pair.sends_unlocked = target is not None and is_numeric(target)

    def source(self, leg: int) -> Address | None:
        return self._pairs[leg].source

    def receive(self, batch: Batch) -> None:
        view = batch.rows.data.cast("B")
        legs, lengths, count = batch.legs, batch.lengths, 0
        receivers = self._receivers
        for descriptor, _ in self._epoll.poll(0, BATCH):
            leg, receive = receivers[descriptor]
            try:
                length = receive(view[count * ROW_OCTETS : (count + 1) * ROW_OCTETS])
            except OSError:  # nothing there after all, or an ICMP error of an earlier send
                continue
            if rtp.HEADER_OCTETS <= length < ROW_OCTETS:
                legs[count], lengths[count] = leg, length
                count += 1
            else:
                self.dropped += 1
        batch.count = count

    def receive_rtcp(self) -> list[tuple[int, bytes]]:
        packets = []
        for descriptor, _ in self._rtcp_epoll.poll(0, BATCH):
            leg = self._rtcp_legs[descriptor]
            try:
                packets.append((leg, self._pairs[leg].rtcp.recv(2048)))
            except OSError:
                continue
        return packets

    def locked(self) -> list[tuple[int, Address]]:
        locks, self._locks = self._locks, []
        return locks

    def send(self, legs: NDArray[np.int64], packets: NDArray[np.void]) -> None:
        size = packets.dtype.itemsize
        view = packets.view(np.uint8).data
        senders, start = self._senders, 0
        for leg in legs.tolist():
            try:
                senders[leg](view[start : start + size])
            except KeyError:
                self.send_one(leg, bytes(view[start : start + size]))
            except (
                OSError
            ):  # a full buffer or an ICMP refusal: RTP has no retransmission, RTCP tells the loss
                self.dropped += 1
            start += size

    def send_one(self, leg: int, packet: bytes) -> None:
        pair = self._pairs[leg]
        try:
            if pair.source is not None:
                pair.rtp.send(packet)
            elif (destination := _unlocked_destination(pair)) is not None:
                pair.rtp.sendto(packet, destination)
        except OSError:
            self.dropped += 1

    def send_rtcp(self, leg: int, packet: bytes) -> None:
        pair = self._pairs[leg]
        if pair.rtcp_target is not None:
            try:
                pair.rtcp.sendto(packet, pair.rtcp_target)
            except OSError:
                self.dropped += 1

    def close(self, leg: int) -> None:
        pair = self._pairs.pop(leg)
        self._senders.pop(leg, None)
        del self._receivers[pair.rtp.fileno()]
        del self._rtcp_legs[pair.rtcp.fileno()]
        self._epoll.unregister(pair.rtp.fileno())
        self._rtcp_epoll.unregister(pair.rtcp.fileno())
        pair.rtp.close()
        pair.rtcp.close()

    # --- source lock -----------------------------------------------------------------------------------------

    def _register(self, leg: int, pair: _Pair) -> None:
        self._pairs[leg] = pair
        self._receivers[pair.rtp.fileno()] = (leg, lambda view: self._receive_first(leg, pair, view))
        self._rtcp_legs[pair.rtcp.fileno()] = leg
        self._epoll.register(pair.rtp.fileno(), select.EPOLLIN)
        self._rtcp_epoll.register(pair.rtcp.fileno(), select.EPOLLIN)

    def _receive_first(self, leg: int, pair: _Pair, view: memoryview) -> int:
        length, source = pair.rtp.recvfrom_into(view)
        if pair.target is None or not rtp.plausible(view[:length]):
            return 0  # nobody was invited to send yet, or this is no RTP
        if pair.sends_unlocked and source[:2] != pair.target and not self._passes_probation(pair, source[:2]):
            return int(length) if _is_translated(pair) else 0
        pair.rtp.connect(source)
        pair.source = source[:2]
        self._locks.append((leg, source[:2]))
        self._receivers[pair.rtp.fileno()] = (leg, pair.rtp.recv_into)
        self._senders[leg] = pair.rtp.send
        return int(length)

    @staticmethod
    def _passes_probation(pair: _Pair, source: Address) -> bool:
        """Whether a source that the SDP does not name has sent for so long that it must be the far end.

        A port's last call may still send to it, after a crash for instance: were the first packet to decide, that
        stranger would get this call's audio. The address of the SDP needs no probation, and wins at any time.
        """
        if source != pair.candidate:
            pair.candidate, pair.heard = source, 0
        pair.heard += 1
        return pair.heard >= PROBATION

    def _unlock(self, leg: int, pair: _Pair) -> None:
        _disconnect(pair.rtp)
        pair.source = pair.candidate = None
        self._senders.pop(leg, None)
        self._receivers[pair.rtp.fileno()] = (leg, lambda view: self._receive_first(leg, pair, view))


def _is_translated(pair: _Pair) -> bool:
    """Whether the candidate looks like the far end behind a NAT: on another host than its SDP says. It is heard and
    spoken to at once; another port on the same host has to pass its probation first."""
    return pair.candidate is not None and pair.target is not None and pair.candidate[0] != pair.target[0]


def _unlocked_destination(pair: _Pair) -> Address | None:
    if not pair.sends_unlocked:
        return None
    return pair.candidate if _is_translated(pair) else pair.target


def _normal(address: Address | None) -> Address | None:
    """As the kernel will write it: one IPv6 address has many spellings."""
    if address is None or not is_numeric(address):
        return address
    return str(ip_address(address[0])), address[1]


def is_numeric(address: Address) -> bool:
    """Whether the host is an IP address and not a name."""
    try:
        ip_address(address[0])
    except ValueError:
        return False
    return True


def _bind_pair(host: str, port: int, family: int) -> _Pair | None:
    bound: list[socket.socket] = []
    try:
        for number in (port, port + 1):
            bound.append(socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
            bound[-1].bind((host, number))
    except OSError:
        for each in bound:
            each.close()
        return None
    _mark_as_voice(bound[0], family)
    return _Pair(bound[0], bound[1])


def _family(host: str) -> int:
    try:
        return socket.AF_INET6 if ip_address(host).version == 6 else socket.AF_INET
    except ValueError:
        raise MediaError(f"{host!r} is not an IP address to bind RTP ports on") from None


def _mark_as_voice(sock: socket.socket, family: int) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, EXPEDITED)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, EXPEDITED)


_libc = ctypes.CDLL(None, use_errno=True)


def _disconnect(sock: socket.socket) -> None:
    # POSIX dissolves a UDP association by connecting to AF_UNSPEC, which Python's socket cannot spell.
    unspecified = bytes(16)
    _libc.connect(sock.fileno(), unspecified, len(unspecified))
