"""Whole calls in virtual time: a phone, a lossy wire, the engine and its app, to the millisecond."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Path_

from engine.call import leg
from engine.call.callback import Callback, CallRequest
from engine.call.routing import EVENTS, Route
from engine.media.audio import load_file
from engine.media.worker import g711
from engine.softphone import CallPlan, CallReport, PhoneCall
from engine.verbs import interpreter
from markup import Say
from tests.virtual import Office, lost, run, spoken
from tests.wire import Datagram

TARGET = "sip:1000@10.0.0.1"


class App:
    """A webhook app of canned documents by path; remembers what it was asked."""

    def __init__(self, **documents: str) -> None:
        self.documents = documents
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.delay = 0.0
        self.asgi = Starlette(routes=[Path_("/{name}", self.answer, methods=["GET", "POST"])])

    async def answer(self, request: Request) -> Response:
        form = dict(await request.form()) if request.method == "POST" else dict(request.query_params)
        name = request.path_params["name"]
        self.asked.append((name, {key: str(value) for key, value in form.items()}))
        await asyncio.sleep(self.delay)
        body = self.documents.get(name)
        if body is None:
            return Response(status_code=500)
        return Response(f"<Response>{body}</Response>", media_type="text/xml")

    def params(self, name: str) -> dict[str, str]:
        return next(params for asked, params in self.asked if asked == name)

    def names(self) -> list[str]:
        return [name for name, _ in self.asked]


def place(
    app: App,
    tmp_path: Path,
    plan: CallPlan,
    route: Route | None = None,
    drop: Callable[[Datagram], bool] = lambda _: False,
    broken: Callable[[CallRequest], object] | None = None,
    **wire: float,
) -> tuple[Office, CallReport]:
    """One call from a phone to the app, from INVITE to the last callback."""

    async def flow() -> tuple[Office, CallReport]:
        office = Office(tmp_path, **wire)
        office.wire.drop = drop
        await office.open(route or Route("http://app/voice"), app.asgi)
        if broken is not None:
            office.callbacks["broken"] = Callback(broken, "broken")
        async with office.phone() as phone:
            report = await phone.call(plan)
            await asyncio.sleep(70)  # the call's own end, and then every transaction's timers
        assert office.manager.call_count == 0
        assert office.stack.session_count == office.stack.transaction_count == 0
        office.rows = await office.store.calls()
        await office.close()
        return office, report

    return run(flow)


def through_mu_law(pcm: NDArray[np.int16]) -> NDArray[np.int16]:
    return g711.decode(g711.encode(pcm, g711.MU_LAW), g711.MU_LAW)


def place_of(recording: NDArray[np.int16], frame: NDArray[np.int16], concealed: int = 0) -> int:
    """Where 160 samples stand in a recording, once; the last before a gap may be repeated to conceal it."""
    windows = np.lib.stride_tricks.sliding_window_view(recording, 160)
    starts = np.flatnonzero((windows == frame).all(axis=1))
    assert 1 <= len(starts) <= 1 + concealed, f"heard {len(starts)} times"
    return int(starts[0])


def heard(path: Path, text: str) -> int:
    """Where in a recording a text begins, in samples; every sample of it must be as it was sent."""
    recording, said = load_file(path), through_mu_law(spoken(text))
    start = place_of(recording, said[:160])
    np.testing.assert_array_equal(recording[start : start + len(said)], said)
    return start


def is_rtp(datagram: Datagram) -> bool:
    return datagram.payload[:1] == b"\x80" and len(datagram.payload) >= 16 and datagram.source[1] % 2 == 0


def test_a_menu_from_invite_to_goodbye(tmp_path: Path) -> None:
    app = App(
        voice='<Gather numDigits="1" action="choice"><Say>press one</Say></Gather><Say>nobody</Say>',
        choice="<Say>you pressed it</Say>",
    )
    record = tmp_path / "heard.wav"
    office, report = place(app, tmp_path, CallPlan(TARGET, digits="W1", record=record), delay=0.01)
    assert report.status == 200
    assert app.names() == ["voice", "choice"]
    assert app.params("choice")["Digits"] == "1"
    assert app.params("voice")["CallStatus"] == "ringing"
    assert app.params("choice")["CallStatus"] == "in-progress"
    heard(record, "you pressed it")
    row = office.rows[0]
    assert (row.status, row.ended_by, row.sip_status) == ("completed", "app", 200)
    assert report.quality.packets_lost == 0


def test_a_prompt_is_heard_sample_for_sample(tmp_path: Path) -> None:
    record = tmp_path / "heard.wav"
    place(
        App(voice="<Say>first words</Say><Say>and the last</Say>"), tmp_path, CallPlan(TARGET, record=record)
    )
    first, second = heard(record, "first words"), heard(record, "and the last")
    # Padded to whole frames and no more: a second prompt follows the first without a gap one could hear.
    assert 0 <= second - first - len(spoken("first words")) < 800


def test_gather_waits_its_timeout_from_the_last_key_and_no_longer(tmp_path: Path) -> None:
    app = App(voice='<Gather timeout="4" action="got"/><Hangup/>', got="<Hangup/>")
    office, _ = place(app, tmp_path, CallPlan(TARGET, digits="12w3"))
    digits = [note.offset for note in office.kinds("digit")]
    gathered = office.kinds("gather")[0]
    assert gathered.data["digits"] == "123"
    assert gathered.offset - digits[-1] == pytest.approx(4.0, abs=0.01)


def test_without_input_the_document_goes_on(tmp_path: Path) -> None:
    app = App(
        voice='<Gather timeout="3" action="got"><Say>hello</Say></Gather><Redirect>none</Redirect>',
        none="<Hangup/>",
    )
    office, _ = place(app, tmp_path, CallPlan(TARGET))
    assert app.names() == ["voice", "none"]
    said = len(spoken("hello")) / 8000
    took = next(note.data["total_ms"] for note in office.kinds("verb-end") if note.data["name"] == "Gather")
    assert took / 1000 == pytest.approx(3 + said, abs=0.2)


def test_a_key_silences_the_prompt_within_40_ms(tmp_path: Path) -> None:
    app = App(
        voice=f'<Gather numDigits="1" action="got"><Say>{"long " * 40}</Say></Gather>',
        got="<Pause length='2'/>",
    )
    office, _ = place(app, tmp_path, CallPlan(TARGET, digits="W5"), delay=0.0)
    log = office.wire.log
    key = next(each.time for each in log if len(each.payload) == 16 and each.source[0] != "10.0.0.1")
    sound = [
        each.time
        for each in log
        if is_rtp(each) and each.source[0] == "10.0.0.1" and set(each.payload[12:]) != {0xFF}
    ]
    assert max(sound) - key <= 0.040


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_keys_are_neither_lost_nor_doubled_on_a_lossy_wire(tmp_path: Path, share: float) -> None:
    app = App(voice='<Gather numDigits="10" action="got" timeout="8"/>', got="<Hangup/>")
    drop = lost(share, of=is_rtp)
    office, _ = place(app, tmp_path, CallPlan(TARGET, digits="1122334455"), drop=drop, jitter=0.03)
    assert app.params("got")["Digits"] == "1122334455"
    assert any(is_rtp(each) and not each.arrivals for each in office.wire.log)


def test_a_call_completes_when_a_third_of_the_signalling_is_lost(tmp_path: Path) -> None:
    app = App(voice="<Say>hello</Say>")
    drop = lost(1 / 3, of=lambda each: each.source[1] == 5060)
    office, report = place(app, tmp_path, CallPlan(TARGET), drop=drop)
    assert report.status == 200
    assert office.rows[0].status == "completed"


def test_status_callbacks_come_in_order_and_whatever_the_wire_does_once(tmp_path: Path) -> None:
    app = App(voice="<Say>hello</Say>", status="")
    route = Route("http://app/voice", status_callback="http://app/status", status_callback_event=EVENTS)
    place(app, tmp_path, CallPlan(TARGET), route, duplicates=0.5)
    told = [params for name, params in app.asked if name == "status"]
    assert [params["CallStatus"] for params in told] == ["initiated", "ringing", "in-progress", "completed"]
    assert [params["SequenceNumber"] for params in told] == ["0", "1", "2", "3"]
    assert told[-1]["CallDuration"] == "1"


def test_the_caller_gives_up_while_the_app_thinks(tmp_path: Path) -> None:
    app = App(voice="<Say>too late</Say>")
    app.delay = 10.0
    office, report = place(app, tmp_path, CallPlan(TARGET, ring_seconds=3))
    assert report.answered is False
    row = office.rows[0]
    assert (row.status, row.ended_by, row.answered_at) == ("canceled", "caller", None)
    assert "in CANCEL sip:1000@10.0.0.1" in office.sip_lines()


def test_pause_first_delays_the_answer_and_reject_refuses(tmp_path: Path) -> None:
    app = App(voice='<Pause length="3"/><Reject reason="busy"/>')
    office, report = place(app, tmp_path, CallPlan(TARGET))
    assert report.status == 486
    ended = office.kinds("state")[-1]
    assert ended.offset == pytest.approx(3.0, abs=0.05)
    assert office.rows[0].status == "busy"


def test_a_failing_app_is_apologized_for(tmp_path: Path) -> None:
    record = tmp_path / "heard.wav"
    office, report = place(App(), tmp_path, CallPlan(TARGET, record=record))
    heard(record, "We are sorry. An application error has occurred. Goodbye.")
    assert office.kinds("error")[0].data["code"] == 11200
    assert report.ended_by == "far end"


def test_the_fallback_is_asked_with_what_went_wrong(tmp_path: Path) -> None:
    app = App(spare="<Hangup/>")
    route = Route("http://app/voice", fallback_url="http://app/spare")
    place(app, tmp_path, CallPlan(TARGET), route)
    assert app.params("spare")["ErrorCode"] == "11200"
    assert app.params("spare")["ErrorUrl"] == "http://app/voice"


def test_a_circle_of_redirects_ends(tmp_path: Path) -> None:
    app = App(voice="<Redirect>voice</Redirect>")
    office, _ = place(app, tmp_path, CallPlan(TARGET))
    assert 50 < len(app.asked) < 60
    assert office.rows[0].end_reason == "application error 12400: the documents lead in a circle"


def test_a_waiting_room_is_no_circle(tmp_path: Path) -> None:
    app = App(voice='<Pause length="1"/><Redirect>voice</Redirect>')
    office, _ = place(app, tmp_path, CallPlan(TARGET, ring_seconds=300))
    assert len(app.asked) > 250
    assert office.rows[0].status == "canceled"


def test_an_error_with_line_breaks_and_quotes_ends_the_call_all_the_same(tmp_path: Path) -> None:
    def broken(request: CallRequest) -> str:
        raise ValueError('1 validation error\n  field "x" required\r\nVia: none')

    office, report = place(App(), tmp_path, CallPlan(TARGET), Route("callback:broken"), broken=broken)
    assert report.ended_by == "far end"
    row = office.rows[0]
    assert (row.status, row.ended_by) == ("completed", "engine")
    assert "field" in row.end_reason
    assert not [each for each in office.wire.log if b"validation" in each.payload], (
        "the caller is told none of it"
    )


def test_a_bug_of_ours_ends_its_call_and_is_in_the_timeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def bug(*_: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setitem(interpreter.ACTIONS, Say, bug)
    office, report = place(App(voice="<Say>x</Say>"), tmp_path, CallPlan(TARGET))
    error = office.kinds("error")[0].data
    assert "ZeroDivisionError('ours')" in error["text"]
    assert "raise ZeroDivisionError" in error["trace"]
    assert (report.status, office.rows[0].status, office.rows[0].sip_status) == (500, "failed", 500)


def test_a_phone_that_rings_is_not_taken_for_dead(tmp_path: Path) -> None:
    app = App(voice='<Pause length="45"/><Say>at last</Say>')
    office, _ = place(app, tmp_path, CallPlan(TARGET, ring_seconds=60))
    assert office.rows[0].end_reason == "the document came to its end"


def test_a_call_refused_for_its_codecs_asks_no_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = App(voice="<Say>x</Say>", status="")
    monkeypatch.setattr(leg.Leg, "take_offer", lambda *_: False)
    route = Route("http://app/voice", status_callback="http://app/status", status_callback_event=EVENTS)
    _, report = place(app, tmp_path, CallPlan(TARGET), route)
    assert report.status == 488
    assert [params["CallStatus"] for name, params in app.asked if name == "status"] == ["initiated", "failed"]
    assert "voice" not in app.names()


@pytest.mark.parametrize(("barge_in", "heard_whole"), [("true", False), ("false", True)])
def test_barge_in_can_be_forbidden(tmp_path: Path, barge_in: str, heard_whole: bool) -> None:
    text = "this is said to its very end"
    app = App(
        voice=f'<Gather numDigits="1" bargeIn="{barge_in}" action="got"><Say>{text}</Say></Gather>',
        got="<Hangup/>",
    )
    office, _ = place(app, tmp_path, CallPlan(TARGET, digits="7"))
    assert app.params("got")["Digits"] == "7"
    took = office.kinds("verb-end")[0].data["total_ms"] / 1000
    assert (took > len(spoken(text)) / 8000) is heard_whole


def test_a_key_sent_in_both_ways_is_one_key(tmp_path: Path) -> None:
    app = App(voice='<Gather numDigits="2" timeout="3" action="got"/>', got="<Hangup/>")

    async def flow() -> None:
        office = Office(tmp_path)
        await office.open(Route("http://app/voice"), app.asgi)
        async with office.phone() as phone:
            started: list[PhoneCall] = []
            calling = asyncio.create_task(phone.call(CallPlan(TARGET, digits="w7"), started.append))
            await asyncio.sleep(0.7)
            session = started[0].leg_alive.session
            assert session is not None
            session.info(
                asyncio.get_running_loop().time(), "application/dtmf-relay", b"Signal=7\r\nDuration=100\r\n"
            )
            await calling
            await asyncio.sleep(70)
        await office.close()

    run(flow)
    assert app.params("got")["Digits"] == "7"


def test_a_phone_that_vanishes_leaves_no_call(tmp_path: Path) -> None:
    app = App(voice=f"<Say loop='0'>{'music ' * 20}</Say>")
    silent_from = 1005.0

    def drop(each: Datagram) -> bool:
        return each.time > silent_from and each.source[0] != "10.0.0.1"

    office, _ = place(app, tmp_path, CallPlan(TARGET, duration=8), drop=drop)
    row = office.rows[0]
    assert row.ended_by == "engine"
    assert row.end_reason.startswith("no RTP packet for 30 s")


def test_a_held_caller_misses_nothing_and_is_not_taken_for_dead(tmp_path: Path) -> None:
    record = tmp_path / "heard.wav"
    text = "a long story that is told in pieces!"  # 90 whole frames
    app = App(voice=f"<Say>{text}</Say>")

    async def flow() -> None:
        office = Office(tmp_path)
        await office.open(Route("http://app/voice"), app.asgi)
        async with office.phone() as phone:
            started: list[PhoneCall] = []
            calling = asyncio.create_task(phone.call(CallPlan(TARGET, record=record), started.append))
            await asyncio.sleep(1)
            assert started[0].hold()
            await asyncio.sleep(60)  # twice the RTP timeout
            assert office.manager.call_count == 1
            assert started[0].resume()
            report = await calling
            assert report.ended_by == "far end"
            await asyncio.sleep(40)
        office.rows = await office.store.calls()
        await office.close()
        assert [note.data["text"] for note in office.kinds("media")][1:3] == [
            "the caller put us on hold",
            "the caller is back from hold",
        ]
        assert office.rows[0].end_reason == "the document came to its end"

    run(flow)
    recording, said = load_file(record), through_mu_law(spoken(text))
    places = [place_of(recording, frame, concealed=1) for frame in said.reshape(-1, 160)]
    assert places == sorted(places), "every frame was heard, once, in order"
    longest = max(after - before for before, after in itertools.pairwise(places))
    assert longest > 59 * 8000, "and the hold stood in between"


def test_ten_calls_at_once_do_not_mix(tmp_path: Path) -> None:
    async def answer(request: Request) -> Response:
        form = await request.form()
        caller = str(form["From"]).removeprefix("sip:").partition("@")[0]
        return Response(f"<Response><Say>hello {caller}</Say></Response>", media_type="text/xml")

    asgi = Starlette(routes=[Path_("/voice", answer, methods=["POST"])])

    async def flow() -> None:
        office = Office(tmp_path, jitter=0.01)
        await office.open(Route("http://app/voice"), asgi)
        async with office.phone() as phone:
            plans = [CallPlan(TARGET, caller=f"c{n}", record=tmp_path / f"{n}.wav") for n in range(10)]
            await asyncio.gather(*(phone.call(plan) for plan in plans))
            await asyncio.sleep(70)
        assert office.stack.session_count == office.stack.transaction_count == 0
        await office.close()

    run(flow)
    for number in range(10):
        heard(tmp_path / f"{number}.wav", f"hello c{number}")
