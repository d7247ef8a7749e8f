"""The four machines: every state times every input, and the schedules of RFC 3261 §17 to the tick."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.sip.message import Request, Response, response_to
from engine.sip.parse import parse_datagram
from engine.sip.timers import Timers
from engine.sip.transaction import (
    Action,
    ClientInvite,
    ClientNonInvite,
    Deliver,
    Failed,
    ServerInvite,
    ServerNonInvite,
    State,
    Transaction,
    Transmit,
)

STATUSES = (100, 180, 200, 404, 600)
LONGEST = 200.0  # no machine lives longer after its last input: 32 s, and once more


def request(method: str) -> Request:
    text = (
        f"{method} sip:bob@192.0.2.2 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1;rport\r\n"
        f"Max-Forwards: 69\r\nRoute: <sip:p1.example.com;lr>, <sip:p2.example.com;lr>\r\n"
        f"From: <sip:alice@192.0.2.1>;tag=a\r\nTo: <sip:bob@192.0.2.2>\r\nCall-ID: c1\r\nCSeq: 9 {method}\r\n\r\n"
    )
    message = parse_datagram(text.encode())
    assert isinstance(message, Request)
    return message


def response(status: int, method: str = "INVITE") -> Response:
    return response_to(request(method), status, to_tag="b")


@dataclass
class Run:
    """One machine with its clock; `log` is every action with its time."""

    machine: Transaction
    clock: Timers
    now: float = 0.0
    log: list[tuple[float, Action]] = field(default_factory=list)

    def act(self, action: Callable[[float], object]) -> list[Action]:
        action(self.now)
        return self.collect()

    def collect(self) -> list[Action]:
        actions, self.machine.actions = self.machine.actions, []
        self.log += [(self.now, action) for action in actions]
        if self.machine.state is State.TERMINATED:
            assert self.machine.timers == {}, "a terminated machine keeps no timer"
        return actions

    def until(self, time: float) -> None:
        while (due := self.clock.next_deadline()) is not None and due <= time:
            self.now = due
            for _, name in self.clock.due(due):
                self.machine.fire(name, due)
                self.collect()
        self.now = time

    def state(self) -> State:
        """A call, for a type checker would remember an attribute's last comparison."""
        return self.machine.state

    def sent(self) -> list[float]:
        return [time for time, action in self.log if isinstance(action, Transmit)]

    def failures(self) -> list[tuple[float, int]]:
        return [(time, action.status) for time, action in self.log if isinstance(action, Failed)]


def client(method: str, *, reliable: bool = False) -> Run:
    clock = Timers()
    machine = (ClientInvite if method == "INVITE" else ClientNonInvite)(
        request(method), clock, reliable=reliable
    )
    run = Run(machine, clock)
    run.act(machine.start)
    return run


def server(method: str, *, reliable: bool = False) -> Run:
    clock = Timers()
    machine = (ServerInvite if method == "INVITE" else ServerNonInvite)(
        request(method), clock, reliable=reliable
    )
    return Run(machine, clock)


def feed(run: Run, message: Request | Response) -> list[Action]:
    assert isinstance(run.machine, ClientInvite | ClientNonInvite | ServerInvite | ServerNonInvite)
    machine = run.machine
    return run.act(lambda now: machine.receive(message, now))  # type: ignore[arg-type]


def respond(run: Run, status: int) -> list[Action]:
    assert isinstance(run.machine, ServerInvite | ServerNonInvite)
    machine = run.machine
    return run.act(lambda now: machine.respond(response(status, machine.request.method), now))


# --- schedules ---------------------------------------------------------------------------------------------------


def test_invite_repeats_by_doubling_until_timer_b() -> None:
    run = client("INVITE")
    run.until(LONGEST)
    assert run.sent() == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    assert run.failures() == [(32.0, 408)]


def test_other_requests_repeat_up_to_t2_until_timer_f() -> None:
    run = client("BYE")
    run.until(LONGEST)
    assert run.sent() == [0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    assert run.failures() == [(32.0, 408)]


def test_other_requests_repeat_every_t2_once_there_is_a_provisional() -> None:
    run = client("BYE")
    run.until(0.6)
    feed(run, response(100, "BYE"))
    run.until(LONGEST)
    assert run.sent() == [0, 0.5, 1.5, 5.5, 9.5, 13.5, 17.5, 21.5, 25.5, 29.5]
    assert run.failures() == [(32.0, 408)]


def test_a_provisional_silences_an_invite_for_good() -> None:
    run = client("INVITE")
    run.until(0.6)
    feed(run, response(100))
    run.until(3600)
    assert run.sent() == [0, 0.5]
    assert run.state() is State.PROCEEDING


def test_a_refusal_is_repeated_until_its_ack() -> None:
    run = server("INVITE")
    respond(run, 404)
    run.until(4)
    assert run.sent() == [0, 0.5, 1.5, 3.5]
    feed(run, request("ACK"))
    assert run.state() is State.CONFIRMED
    run.until(8.9)
    assert run.state() is State.CONFIRMED
    run.until(9)
    assert run.state() is State.TERMINATED
    assert len(run.sent()) == 4
    assert run.failures() == []


def test_a_refusal_without_ack_gives_up_with_timer_h() -> None:
    run = server("INVITE")
    respond(run, 404)
    run.until(LONGEST)
    assert run.sent() == [0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    assert run.failures() == [(32.0, 408)]


@pytest.mark.parametrize(
    ("make", "steps", "lingers"),
    [
        (lambda: client("INVITE"), [(feed, response(404))], 32.0),  # D
        (lambda: client("INVITE"), [(feed, response(200))], 32.0),  # M
        (lambda: client("BYE"), [(feed, response(200, "BYE"))], 5.0),  # K
        (lambda: server("INVITE"), [(respond, 200)], 32.0),  # L
        (lambda: server("INVITE"), [(respond, 404), (feed, request("ACK"))], 5.0),  # I
        (lambda: server("BYE"), [(respond, 200)], 32.0),  # J
    ],
    ids=list("DMKLIJ"),
)
def test_how_long_a_finished_machine_absorbs_repeats(
    make: Callable[[], Run], steps: list[tuple[Callable[..., object], object]], lingers: float
) -> None:
    run = make()
    for step, argument in steps:
        step(run, argument)
    assert run.state() is not State.TERMINATED
    run.until(lingers - 0.001)
    assert run.state() is not State.TERMINATED
    run.until(lingers)
    assert run.state() is State.TERMINATED
    assert run.failures() == []


@pytest.mark.parametrize(("method", "statuses"), [("INVITE", [404]), ("BYE", [200]), ("BYE", [404])], ids=str)
def test_a_reliable_transport_repeats_nothing(method: str, statuses: list[int]) -> None:
    caller, callee = client(method, reliable=True), server(method, reliable=True)
    caller.until(20)
    assert caller.sent() == [0]
    for status in statuses:
        respond(callee, status)
        feed(caller, response(status, method))
    assert caller.state() is State.TERMINATED
    if method == "INVITE":
        callee.until(20)
        assert len(callee.sent()) == 1
        feed(callee, request("ACK"))
    assert callee.state() is State.TERMINATED


def test_accepted_lasts_on_a_reliable_transport_too() -> None:
    """RFC 6026 §8.4: a forked 2xx may come on any transport."""
    run = client("INVITE", reliable=True)
    feed(run, response(200))
    assert run.state() is State.ACCEPTED
    run.until(32)
    assert run.state() is State.TERMINATED


# --- what each machine passes on ---------------------------------------------------------------------------------


def test_the_ack_of_a_refusal() -> None:
    """§17.1.1.3: the INVITE's Via, Route, From, Call-ID and number; the response's To."""
    run = client("INVITE")
    actions = feed(run, response(404))
    ack = actions[0]
    assert isinstance(ack, Transmit)
    assert isinstance(ack.message, Request)
    assert actions[1] == Deliver(response(404))
    assert ack.message.start_line() == "ACK sip:bob@192.0.2.2 SIP/2.0"
    assert ack.message.headers.items() == [
        ("Via", "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1;rport"),
        ("From", "<sip:alice@192.0.2.1>;tag=a"),
        ("Call-ID", "c1"),
        ("Route", "<sip:p1.example.com;lr>, <sip:p2.example.com;lr>"),
        ("Max-Forwards", "69"),
        ("To", "<sip:bob@192.0.2.2>;tag=b"),
        ("CSeq", "9 ACK"),
    ]
    assert feed(run, response(404)) == [ack], "the repeat is acknowledged, and told to nobody"


@pytest.mark.parametrize(
    ("before", "then", "expected", "state"),
    [
        ([], 100, [Deliver], State.PROCEEDING),
        ([], 200, [Deliver], State.ACCEPTED),
        ([], 404, [Transmit, Deliver], State.COMPLETED),
        ([180], 180, [Deliver], State.PROCEEDING),
        ([180], 200, [Deliver], State.ACCEPTED),
        ([180], 404, [Transmit, Deliver], State.COMPLETED),
        ([200], 180, [], State.ACCEPTED),
        ([200], 200, [Deliver], State.ACCEPTED),
        ([200], 404, [], State.ACCEPTED),
        ([404], 180, [], State.COMPLETED),
        ([404], 200, [], State.COMPLETED),
        ([404], 404, [Transmit], State.COMPLETED),
    ],
)
def test_client_invite(before: list[int], then: int, expected: list[type], state: State) -> None:
    run = client("INVITE")
    for status in before:
        feed(run, response(status))
    assert [type(action) for action in feed(run, response(then))] == expected
    assert run.state() is state


@pytest.mark.parametrize(
    ("before", "then", "expected", "state"),
    [
        ([], 100, [Deliver], State.PROCEEDING),
        ([], 200, [Deliver], State.COMPLETED),
        ([], 404, [Deliver], State.COMPLETED),
        ([100], 100, [Deliver], State.PROCEEDING),
        ([100], 404, [Deliver], State.COMPLETED),
        ([200], 100, [], State.COMPLETED),
        ([200], 200, [], State.COMPLETED),
        ([404], 200, [], State.COMPLETED),
    ],
)
def test_client_non_invite(before: list[int], then: int, expected: list[type], state: State) -> None:
    run = client("INFO")
    for status in before:
        feed(run, response(status, "INFO"))
    assert [type(action) for action in feed(run, response(then, "INFO"))] == expected
    assert run.state() is state


@pytest.mark.parametrize(
    ("before", "repeat", "ack", "state"),
    [
        ([], [], [], State.PROCEEDING),
        ([100], [Transmit(response(100))], [], State.PROCEEDING),
        ([100, 180], [Transmit(response(180))], [], State.PROCEEDING),
        ([180, 404], [Transmit(response(404))], [], State.CONFIRMED),
        ([404, 200], [Transmit(response(404))], [], State.CONFIRMED),
        ([180, 200], [], [Deliver(request("ACK"))], State.ACCEPTED),
        ([200, 200], [], [Deliver(request("ACK"))], State.ACCEPTED),
        ([200, 404], [], [Deliver(request("ACK"))], State.ACCEPTED),
    ],
)
def test_server_invite(before: list[int], repeat: list[Action], ack: list[Action], state: State) -> None:
    run = server("INVITE")
    for status in before:
        respond(run, status)
    assert feed(run, request("INVITE")) == repeat
    assert feed(run, request("ACK")) == ack
    assert run.state() is state


def test_server_invite_sends_a_2xx_as_often_as_it_is_told() -> None:
    run = server("INVITE")
    assert [respond(run, status) for status in (200, 200, 404, 180)] == [
        [Transmit(response(200))],
        [Transmit(response(200))],
        [],
        [],
    ]


@pytest.mark.parametrize(
    ("before", "repeat", "state"),
    [
        ([], [], State.TRYING),
        ([100], [Transmit(response(100, "BYE"))], State.PROCEEDING),
        ([200], [Transmit(response(200, "BYE"))], State.COMPLETED),
        ([404, 200], [Transmit(response(404, "BYE"))], State.COMPLETED),
    ],
)
def test_server_non_invite(before: list[int], repeat: list[Action], state: State) -> None:
    run = server("BYE")
    for status in before:
        respond(run, status)
    assert feed(run, request("BYE")) == repeat
    assert run.state() is state


# --- giving up ---------------------------------------------------------------------------------------------------


def test_an_abandoned_invite_ends_after_32_seconds_and_is_abandoned_once() -> None:
    run = client("INVITE")
    machine = run.machine
    assert isinstance(machine, ClientInvite)
    feed(run, response(180))
    run.until(10)
    assert machine.abandon(10)
    assert not machine.abandon(11)
    run.until(41.9)
    assert machine.state is State.PROCEEDING
    run.until(42)
    assert run.failures() == [(42.0, 487)]
    assert not machine.abandon(43)


def test_an_abandoned_invite_that_is_answered_ends_like_any_other() -> None:
    run = client("INVITE")
    machine = run.machine
    assert isinstance(machine, ClientInvite)
    machine.abandon(0)
    feed(run, response(180))
    feed(run, response(487))
    run.until(LONGEST)
    assert run.failures() == []


@pytest.mark.parametrize("method", ["INVITE", "BYE"])
@pytest.mark.parametrize(("status", "failures"), [(None, 1), (100, 1), (200, 0), (404, 0)])
def test_a_transport_error_counts_until_there_is_a_final_response(
    method: str, status: int | None, failures: int
) -> None:
    run = client(method)
    if status is not None:
        feed(run, response(status, method))
    run.machine.transport_failed()
    run.collect()
    assert [code for _, code in run.failures()] == [503] * failures
    assert (run.state() is State.TERMINATED) == bool(failures)


# --- every input in every state ----------------------------------------------------------------------------------

CLIENT_INPUTS = st.lists(
    st.tuples(st.sampled_from((*STATUSES, "fail", "abandon")), st.sampled_from((0.0, 0.3, 3.0, 40.0))),
    max_size=12,
)
SERVER_INPUTS = st.lists(
    st.tuples(st.sampled_from((*STATUSES, "again", "ack")), st.sampled_from((0.0, 0.3, 3.0, 40.0))),
    max_size=12,
)


@given(st.sampled_from(("INVITE", "BYE")), st.booleans(), CLIENT_INPUTS)
def test_any_client(method: str, reliable: bool, script: list[tuple[int | str, float]]) -> None:
    run = client(method, reliable=reliable)
    machine = run.machine
    for what, pause in script:
        if isinstance(what, int):
            feed(run, response(what, method))
        elif what == "fail":
            machine.transport_failed()
        elif isinstance(machine, ClientInvite):
            machine.abandon(run.now)
        run.collect()
        run.until(run.now + pause)
    if isinstance(machine, ClientInvite):
        machine.abandon(run.now)
    run.until(run.now + LONGEST)
    assert machine.state is State.TERMINATED
    assert run.clock.next_deadline() is None
    finals = [
        a.message.status for _, a in run.log if isinstance(a, Deliver) and isinstance(a.message, Response)
    ]
    finals = [status for status in finals if status >= 200]
    assert len(run.failures()) + (len(finals) > 0) == 1, "one outcome: a final response, or a failure"
    assert len(finals) <= 1 or {status // 100 for status in finals} == {2}, "only a 2xx is told twice"


@given(st.sampled_from(("INVITE", "BYE")), st.booleans(), SERVER_INPUTS)
def test_any_server(method: str, reliable: bool, script: list[tuple[int | str, float]]) -> None:
    run = server(method, reliable=reliable)
    for what, pause in [*script, (500, 0.0)]:
        if isinstance(what, int):
            respond(run, what)
        else:
            feed(run, request("ACK" if what == "ack" and method == "INVITE" else method))
        run.until(run.now + pause)
    run.until(run.now + LONGEST)
    assert run.state() is State.TERMINATED
    assert run.clock.next_deadline() is None
    sent = [
        a.message.status for _, a in run.log if isinstance(a, Transmit) and isinstance(a.message, Response)
    ]
    finals = [status for status in sent if status >= 200]
    assert len(set(finals)) == 1, "one final answer, whatever the user says after it"
    assert sorted(sent, key=lambda status: status >= 200) == sent, "nothing provisional after it"
