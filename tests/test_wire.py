"""The fake network itself: what the tests that ride on it take for granted."""

from __future__ import annotations

import pytest

from tests.wire import Wire

A, B = ("192.0.2.1", 4000), ("192.0.2.2", 5000)


def arrivals(wire: Wire, packets: int = 500) -> list[tuple[float, bytes]]:
    """What B hears of a packet every 20 ms from A."""
    heard: list[tuple[float, bytes]] = []
    wire.attach(B, lambda payload, _source, _destination, now: heard.append((now, payload)))
    for number in range(packets):
        wire.send(A, B, number.to_bytes(2))
        wire.run(0.02)
    wire.settle()
    return heard


def test_a_perfect_wire_delays_and_nothing_else() -> None:
    heard = arrivals(Wire(delay=0.05, start=0.0))
    assert [int.from_bytes(payload) for _, payload in heard] == list(range(500))
    assert heard[100][0] == pytest.approx(100 * 0.02 + 0.05)


def test_the_same_seed_is_the_same_network() -> None:
    def make(seed: int) -> Wire:
        return Wire(seed, loss=0.1, jitter=0.1, duplicates=0.1)

    assert arrivals(make(7)) == arrivals(make(7))
    assert arrivals(make(7)) != arrivals(make(8))


def test_loss_duplicates_and_reordering_are_as_asked() -> None:
    wire = Wire(loss=0.3, duplicates=0.2, jitter=0.1)
    heard = [payload for _, payload in arrivals(wire, 2000)]
    assert 0.65 < len(set(heard)) / 2000 < 0.75
    assert 0.15 < len(heard) / len(set(heard)) - 1 < 0.25
    assert heard != sorted(heard)
    assert sum(len(each.arrivals) for each in wire.log) == len(heard)


def test_a_rule_drops_the_nth() -> None:
    wire = Wire()
    wire.drop = lambda datagram: datagram.number == 3
    assert [int.from_bytes(payload) for _, payload in arrivals(wire, 5)] == [0, 1, 3, 4]
    assert [each.number for each in wire.log if not each.arrivals] == [3]


def test_a_goal_that_is_not_reached_fails_with_the_transcript() -> None:
    wire = Wire()
    wire.send(A, B, b"hello\r\nthere")
    with pytest.raises(AssertionError, match=r"192\.0\.2\.1 → 192\.0\.2\.2 hello"):
        wire.run_until(lambda: False)


def test_time_stands_where_it_was_told_to() -> None:
    wire = Wire(start=5.0)
    happened: list[float] = []
    wire.at(5.5, lambda: happened.append(wire.now))
    wire.run(0.4)
    assert (wire.now, happened) == (5.4, [])
    wire.run_until(6.0)
    assert (wire.now, happened) == (6.0, [5.5])
