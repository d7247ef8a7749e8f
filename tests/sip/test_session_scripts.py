"""Random calls: whatever both ends do, on whatever network, nothing is left behind and nobody hears of two ends."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.sip import events as ev
from tests.sip.ends import ANSWER, HOLD, OFFER, End, assert_clean, pair
from tests.wire import Wire

ACTIONS = ("ring", "answer", "refuse", "hang_up", "offer", "info", "accept_offer", "refuse_offer")


def act(end: End, action: str) -> None:
    """Do it to every session the end has heard of, whether it makes sense now or not."""
    now = end.wire.now
    does: dict[str, Callable[..., object]] = {
        "ring": lambda s: s.ring(now),
        "answer": lambda s: s.answer(now, ANSWER),
        "refuse": lambda s: s.refuse(now, 486),
        "hang_up": lambda s: s.hang_up(now),
        "offer": lambda s: s.offer(now, HOLD),
        "info": lambda s: s.info(now, "application/dtmf-relay", b"Signal=1"),
        "accept_offer": lambda s: s.accept_offer(now, ANSWER),
        "refuse_offer": lambda s: s.refuse_offer(now, 488),
    }
    for session in {event.session for event in end.events}:
        does[action](session)


STEPS = st.tuples(
    st.integers(0, 1), st.sampled_from(ACTIONS), st.sampled_from((0.0, 0.01, 0.1, 0.6, 5.0, 33.0))
)


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    loss=st.sampled_from((0.0, 0.2, 0.5)),
    jitter=st.sampled_from((0.0, 0.2, 2.0)),
    duplicates=st.sampled_from((0.0, 0.5)),
    script=st.lists(STEPS, max_size=12),
)
def test_no_script_leaves_anything(
    seed: int, loss: float, jitter: float, duplicates: float, script: list[tuple[int, str, float]]
) -> None:
    wire = Wire(seed, loss=loss, jitter=jitter, duplicates=duplicates)
    ends = pair(wire)
    call = ends[0].call(ends[1].uri, OFFER)
    for who, action, pause in script:
        act(ends[who], action)
        wire.run(pause)
    call.hang_up(wire.now)
    act(ends[1], "hang_up")
    ends[1].react[ev.Invited] = lambda e: e.session.refuse(wire.now, 480)  # it may only arrive now
    assert_clean(*ends)
    for end in ends:
        finals = [e for e in end.events if isinstance(e, ev.Refused | ev.Cancelled | ev.Ended)]
        assert len(finals) <= 1, finals
        assert not finals or end.events[-1] is finals[0], "nothing is told of a call after its end"
    assert len(ends[0].of(ev.Answered)) <= 1
    assert len(ends[1].of(ev.Invited)) <= 1
