"""The kernel's sockets: port pairs, symmetric RTP, strangers, transfers, both IP versions."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator

import numpy as np
import pytest

from engine.errors import MediaError
from engine.media.worker import rtp
from engine.media.worker.sockets import PROBATION, ROW_OCTETS, Batch, SocketIo
from tests.media.fake_io import audio_packet

HOSTS = ["127.0.0.1", "::1"]
DEADLINE = 5.0


def free_range(pairs: int) -> tuple[int, int]:
    """A stretch of ports that nobody uses, found by asking the kernel for one that is free."""
    for _ in range(200):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            first = probe.getsockname()[1] & ~1
        with contextlib.ExitStack() as bound:
            try:
                for port in range(first, first + 2 * pairs):
                    sock = bound.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                    sock.bind(("127.0.0.1", port))
            except (OSError, OverflowError):
                continue
        return first, first + 2 * pairs
    raise AssertionError("no free ports")


class Phone:
    """A far end with one UDP socket on a port of its own."""

    def __init__(self, host: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.bind((host, 0))
        self.socket.settimeout(DEADLINE)
        self.address: tuple[str, int] = self.socket.getsockname()[:2]
        self.sequence = 0

    def send(self, to: tuple[str, int], payload: bytes = bytes(160)) -> None:
        self.sequence += 1
        self.socket.sendto(audio_packet(self.sequence, 160 * self.sequence, payload), to)


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> str:
    host: str = request.param
    try:
        Phone(host).socket.close()
    except OSError:
        pytest.skip(f"this machine has no {host}")
    return host


@pytest.fixture
def phones(host: str) -> Iterator[list[Phone]]:
    phones = [Phone(host) for _ in range(3)]
    yield phones
    for phone in phones:
        phone.socket.close()


@pytest.fixture
def io() -> Iterator[SocketIo]:
    io = SocketIo(*free_range(4))
    yield io
    for leg in list(io._pairs):
        io.close(leg)
    io._epoll.close()
    io._rtcp_epoll.close()


def receive(io: SocketIo) -> list[tuple[int, bytes]]:
    """The next packets once something is there: the loopback delivers at once, but not before it delivers."""
    assert select.select([io._epoll], [], [], DEADLINE)[0], "nothing arrived"
    return take(io)


def take(io: SocketIo) -> list[tuple[int, bytes]]:
    batch = Batch()
    io.receive(batch)
    return [(int(batch.legs[i]), batch.rows[i, : batch.lengths[i]].tobytes()) for i in range(batch.count)]


def frames(*payloads: int) -> np.ndarray:
    packets = np.zeros(len(payloads), rtp.FRAME)
    packets["first"] = 0x80
    packets["payload"] = np.array(payloads)[:, None]
    return packets


def test_port_pairs_are_even_and_given_back(io: SocketIo, host: str) -> None:
    ports = [io.open(leg, host) for leg in range(4)]
    assert all(port % 2 == 0 for port in ports)
    assert len(set(ports)) == 4
    with pytest.raises(MediaError, match="no free RTP port"):
        io.open(4, host)
    io.close(2)
    assert io.open(5, host) == ports[2]


def test_a_taken_rtcp_port_spoils_the_pair(io: SocketIo) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", io._ports[0] + 1))
        assert io.open(0, "127.0.0.1") == io._ports[1]


def test_a_name_is_no_address_to_bind(io: SocketIo) -> None:
    with pytest.raises(MediaError, match="not an IP address"):
        io.open(0, "localhost")


def test_a_name_is_never_looked_up_but_answered_where_it_sends_from(
    io: SocketIo, host: str, phones: list[Phone]
) -> None:
    phone = phones[0]
    here = (host, io.open(7, host))
    io.aim(7, ("localhost", phone.address[1]), None)
    io.send(np.array([7]), frames(1))
    assert (io.source(7), io.dropped) == (None, 0)
    phone.send(here)
    assert [leg for leg, _ in receive(io)] == [7]
    assert io.source(7) == phone.address
    io.send(np.array([7]), frames(2))
    assert phone.socket.recv(2048) == frames(2).tobytes()  # the first went nowhere
    io.aim(7, ("localhost", phone.address[1]), None)
    assert io.source(7) == phone.address
    io.aim(7, ("elsewhere.example", phone.address[1]), None)
    assert io.source(7) is None


def test_symmetric_rtp_and_strangers(io: SocketIo, host: str, phones: list[Phone]) -> None:
    announced, behind_nat, stranger = phones
    here = (host, io.open(7, host))
    io.aim(7, announced.address, None)
    io.send(np.array([7]), frames(1))
    assert announced.socket.recv(2048) == frames(1).tobytes()  # nobody was heard yet: the SDP's address

    for _ in range(PROBATION - 1):  # another port on the SDP's own host: it may be a stranger
        behind_nat.send(here)
        assert receive(io) == []
    io.send(np.array([7]), frames(1))
    assert announced.socket.recv(2048) == frames(1).tobytes()
    behind_nat.send(here)
    assert [leg for leg, _ in receive(io)] == [7]
    assert io.locked() == [(7, behind_nat.address)]
    assert io.locked() == []
    io.send(np.array([7]), frames(2))
    io.send_one(7, b"one")
    assert behind_nat.socket.recv(2048) == frames(2).tobytes()
    assert behind_nat.socket.recv(2048) == b"one"

    stranger.send(here)
    announced.send(here)
    behind_nat.send(here, b"me")
    assert [packet[12:] for _, packet in receive(io)] == [b"me"]
    assert take(io) == []


def test_the_last_call_of_a_port_does_not_get_the_next_ones_audio(
    io: SocketIo, host: str, phones: list[Phone]
) -> None:
    announced, left_over, _ = phones
    here = (host, io.open(7, host))
    io.aim(7, announced.address, None)
    for _ in range(10):
        left_over.send(here)  # it sends on and on: its engine was killed, and it never heard a BYE
    announced.send(here, b"new")
    heard = [packet[12:] for _, packet in receive(io)]
    while not heard:
        heard = [packet[12:] for _, packet in receive(io)]
    assert heard == [b"new"]
    assert io.locked() == [(7, announced.address)]


def test_a_phone_behind_a_nat_is_heard_and_spoken_to_at_once(io: SocketIo, phones: list[Phone]) -> None:
    behind_nat = Phone("127.0.0.1")
    here = ("127.0.0.1", io.open(7, "127.0.0.1"))
    io.aim(7, ("192.0.2.1", 4000), None)  # the private address of its SDP, as seen from here
    behind_nat.send(here, b"at once")
    assert [packet[12:] for _, packet in receive(io)] == [b"at once"]
    assert io.locked() == []
    io.send(np.array([7]), frames(2))
    assert behind_nat.socket.recv(2048) == frames(2).tobytes()
    for _ in range(PROBATION):
        behind_nat.send(here)
        receive(io)
    assert io.locked() == [(7, behind_nat.address)]
    behind_nat.socket.close()


def test_nobody_is_heard_before_the_offer_is_answered(io: SocketIo, host: str, phones: list[Phone]) -> None:
    here = (host, io.open(1, host))
    phones[0].send(here)
    assert receive(io) == []
    assert (io.locked(), io.dropped) == ([], 1)


def test_what_is_no_rtp_does_not_lock(io: SocketIo, host: str, phones: list[Phone]) -> None:
    here = (host, io.open(1, host))
    io.aim(1, phones[0].address, None)
    for rubbish in (b"", b"x", bytes(200), b"\x80\xc8" + bytes(30), b"\x80" * 11):
        phones[1].socket.sendto(rubbish, here)
        assert receive(io) == []
    assert io.locked() == []
    phones[0].socket.sendto(b"\x80\0" + bytes(ROW_OCTETS), here)  # longer than anything we take
    assert receive(io) == []
    phones[0].send(here)
    assert len(receive(io)) == 1


def test_a_transfer_lifts_the_lock_and_the_old_source_does_not_win_it_again(
    io: SocketIo, host: str, phones: list[Phone]
) -> None:
    old, new, _ = phones
    here = (host, io.open(1, host))
    io.aim(1, old.address, None)
    old.send(here)
    receive(io)
    io.aim(1, new.address, None)
    io.send(np.array([1]), frames(3))
    assert new.socket.recv(2048) == frames(3).tobytes()
    old.send(here)
    assert receive(io) == []
    new.send(here)
    assert len(receive(io)) == 1
    assert io.locked() == [(1, old.address), (1, new.address)]


def test_a_relay_that_only_changed_its_description_is_heard_again(
    io: SocketIo, host: str, phones: list[Phone]
) -> None:
    relay, described, _ = phones
    here = (host, io.open(1, host))
    io.aim(1, described.address, None)
    for _ in range(PROBATION):
        relay.send(here)
        receive(io)
    assert io.source(1) == relay.address
    io.aim(1, phones[2].address, None)
    for _ in range(PROBATION - 1):
        relay.send(here)
        assert receive(io) == []
    relay.send(here)
    assert len(receive(io)) == 1


def test_the_same_address_again_keeps_the_lock(io: SocketIo, host: str, phones: list[Phone]) -> None:
    here = (host, io.open(1, host))
    io.aim(1, phones[0].address, None)
    for _ in range(PROBATION):
        phones[1].send(here)
        receive(io)
    io.aim(1, phones[0].address, None)
    io.send(np.array([1]), frames(4))
    assert phones[1].socket.recv(2048) == frames(4).tobytes()


def test_many_legs_in_one_batch(io: SocketIo, host: str, phones: list[Phone]) -> None:
    ports = [io.open(leg, host) for leg in range(3)]
    for leg, phone in enumerate(phones):
        io.aim(leg, phone.address, None)
        phone.send((host, ports[leg]), bytes([leg]) * 160)
    heard: dict[int, bytes] = {}
    while len(heard) < 3:
        heard |= {leg: packet[12:] for leg, packet in receive(io)}
    assert heard == {leg: bytes([leg]) * 160 for leg in range(3)}
    io.send(np.array([2, 0, 1]), frames(22, 20, 21))
    for leg, phone in enumerate(phones):
        assert phone.socket.recv(2048)[12:] == bytes([20 + leg]) * 160


def test_rtcp_beside(io: SocketIo, host: str, phones: list[Phone]) -> None:
    port = io.open(1, host)
    io.send_rtcp(1, b"nowhere yet")
    io.aim(1, phones[0].address, phones[1].address)
    io.send_rtcp(1, b"report")
    assert phones[1].socket.recv(2048) == b"report"
    phones[1].socket.sendto(b"answer", (host, port + 1))
    assert select.select([io._rtcp_epoll], [], [], DEADLINE)[0]
    assert io.receive_rtcp() == [(1, b"answer")]
    assert io.receive_rtcp() == []


def test_a_far_end_that_is_gone_is_counted_not_raised(io: SocketIo, host: str, phones: list[Phone]) -> None:
    here = (host, io.open(1, host))
    io.aim(1, phones[0].address, None)
    phones[0].send(here)
    receive(io)
    phones[0].socket.close()
    for _ in range(3):  # the port's ICMP refusal comes back as an error of the next call
        io.send(np.array([1]), frames(1))
        take(io)
    assert io._pairs[1].source == phones[0].address
