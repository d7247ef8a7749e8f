"""The heap of deadlines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.sip.timers import SWEEP, Timers


class Holder:
    def __init__(self) -> None:
        self.timers: dict[str, float] = {}


def test_earliest_first_and_none_before_its_time() -> None:
    timers, one, other = Timers(), Holder(), Holder()
    timers.set(one, "B", 3.0)
    timers.set(other, "A", 1.0)
    timers.set(one, "A", 2.0)
    assert timers.next_deadline() == 1.0
    assert list(timers.due(0.999)) == []
    assert list(timers.due(2.0)) == [(other, "A"), (one, "A")]
    assert one.timers == {"B": 3.0}
    assert timers.next_deadline() == 3.0


def test_a_timer_set_again_fires_once_at_its_new_time() -> None:
    timers, owner = Timers(), Holder()
    timers.set(owner, "A", 1.0)
    timers.set(owner, "A", 5.0)
    assert list(timers.due(4.0)) == []
    assert list(timers.due(5.0)) == [(owner, "A")]


def test_set_cancelled_and_set_to_the_same_time_fires_once() -> None:
    timers, owner = Timers(), Holder()
    timers.set(owner, "A", 1.0)
    timers.cancel(owner, "A", "never set")
    timers.set(owner, "A", 1.0)
    assert list(timers.due(1.0)) == [(owner, "A")]
    assert timers.next_deadline() is None


def test_a_timer_set_while_others_fire_is_seen() -> None:
    timers, owner = Timers(), Holder()
    timers.set(owner, "A", 1.0)
    fired = []
    for _, name in timers.due(2.0):
        fired.append(name)
        if name == "A":
            timers.set(owner, "B", 1.5)
    assert fired == ["A", "B"]


def test_cancelled_timers_do_not_pile_up() -> None:
    timers = Timers()
    for number in range(50 * SWEEP):
        owner = Holder()
        timers.set(owner, "F", 32.0 + number)
        owner.timers.clear()
    assert len(timers) <= SWEEP


def test_the_sweep_keeps_what_runs() -> None:
    timers, owners = Timers(), [Holder() for _ in range(3 * SWEEP)]
    for number, owner in enumerate(owners):
        timers.set(owner, "F", float(number))
        if number % 3:
            timers.cancel(owner, "F")
    assert [owner for owner, _ in timers.due(1e9)] == owners[::3]


@given(st.lists(st.tuples(st.sampled_from("ABC"), st.none() | st.integers(0, 20)), max_size=40))
def test_what_fires_is_what_was_set_last(script: list[tuple[str, int | None]]) -> None:
    timers, owner = Timers(), Holder()
    expected: dict[str, int] = {}
    for name, deadline in script:
        if deadline is None:
            timers.cancel(owner, name)
            expected.pop(name, None)
        else:
            timers.set(owner, name, deadline)
            expected[name] = deadline
    assert timers.next_deadline() == min(expected.values(), default=None)
    assert {name for _, name in timers.due(10)} == {name for name, at in expected.items() if at <= 10}
    assert owner.timers == {name: at for name, at in expected.items() if at > 10}
