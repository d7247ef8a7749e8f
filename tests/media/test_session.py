"""A leg as call control sees it, over a link that only remembers what it was told."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import MediaError
from engine.media import protocol as p
from engine.media.pool import MediaPool
from engine.media.session import PIECE_SAMPLES, PIECES_PER_MESSAGE, MediaSession
from engine.sip.offer import Negotiated
from engine.sip.sdp import Codec, parse_sdp
from speech.base import Segment

SDP = parse_sdp(
    b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    b"m=audio 4000 RTP/AVP 97\r\na=rtpmap:97 PCMA/8000\r\n"
)


class FakeLink:
    """Answers `Open` at once; everything else is for the test to answer."""

    def __init__(self, *, opens: bool = True) -> None:
        self.on_event: Callable[[p.Event], None] = lambda event: None
        self.on_lost: Callable[[str], None] = lambda reason: None
        self.opens = opens
        self.dead = False
        self.is_up = True
        self.sent: list[p.Command] = []

    async def start(self) -> None:
        """Nothing to start."""

    async def stop(self) -> None:
        """Nothing to stop."""

    def send(self, command: p.Command) -> None:
        if self.dead:
            raise MediaError("dead")
        self.sent.append(command)
        if isinstance(command, p.Open) and self.opens:
            self.on_event(p.Opened(command.leg, 20000))

    def of(self, kind: type[p.Command]) -> list[p.Command]:
        return [command for command in self.sent if isinstance(command, kind)]


def opened(events: list[p.Event] | None = None) -> tuple[FakeLink, MediaSession]:
    link = FakeLink()
    session = MediaSession(link, 5, (events if events is not None else []).append)
    link.on_event = session.take
    return link, session


async def stretches(*parts: p.Clip | Segment) -> AsyncIterator[p.Clip | Segment]:
    for part in parts:
        yield part


async def until(condition: Callable[[], object]) -> None:
    """Let the other tasks run until something is true; nothing here waits for time, so a few turns are enough."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    pytest.fail("it never became true")


def played(link: FakeLink) -> list[p.Clip]:
    return [clip for each in link.of(p.Extend) if isinstance(each, p.Extend) for clip in each.clips]


def is_last(link: FakeLink) -> bool:
    return any(isinstance(each, p.Extend) and each.last for each in link.sent)


async def play_out(*parts: p.Clip | Segment) -> FakeLink:
    link, session = opened()
    playing = asyncio.create_task(session.play(stretches(*parts)))
    await until(lambda: is_last(link))
    session.take(p.PlayDone(5, 1, True, 1))
    assert (await playing).completed
    return link


async def test_a_long_clip_goes_in_pieces_and_messages_of_bounded_size() -> None:
    samples = PIECE_SAMPLES * PIECES_PER_MESSAGE + 7
    link = await play_out(p.Clip("/" + "x" * 200, 3, samples))
    extends = [each for each in link.of(p.Extend) if isinstance(each, p.Extend)]
    assert all(
        len(each.clips) <= PIECES_PER_MESSAGE and len(p.encode(each)) < p.MAX_MESSAGE for each in extends
    )
    clips = played(link)
    assert [clip.start for clip in clips[1:]] == [clip.start + clip.samples for clip in clips[:-1]]
    assert (clips[0].start, sum(clip.samples for clip in clips)) == (3, samples)
    assert [each.last for each in extends] == [False] * (len(extends) - 1) + [True]


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 700), st.sampled_from([0, 0, 0, 5])), max_size=12
    )
)
def test_stretches_are_joined_to_whole_frames(parts: list[tuple[str, int, int]]) -> None:
    given_, ends = [], {"a": 0, "b": 1000}
    for path, samples, gap in parts:
        given_.append(Segment(path, ends[path] + gap, samples))
        ends[path] += gap + samples
    clips = played(asyncio.run(play_out(*given_)))
    wanted = [(each.path, each.start + n) for each in given_ for n in range(each.samples)]
    assert [(clip.path, clip.start + n) for clip in clips for n in range(clip.samples)] == wanted
    for clip, following in itertools.pairwise(clips):
        contiguous = (clip.path, clip.start + clip.samples) == (following.path, following.start)
        assert clip.samples % p.FRAME_SAMPLES == 0 or not contiguous
    assert all(clip.samples for clip in clips)


async def test_loops_and_keys_are_told_to_the_worker() -> None:
    link, session = opened()
    playing = asyncio.create_task(session.play(stretches(), loops=3, interrupt_on="12"))
    await until(lambda: is_last(link))
    assert link.sent[0] == p.Play(5, 1, (), False, 3, "12")
    session.take(p.PlayDone(5, 1, True, 0))
    await playing
    assert link.of(p.Stop) == []


class Render:
    """A prompt that never finishes rendering, and knows who reads it."""

    def __init__(self) -> None:
        self.readers = 0

    async def segments(self) -> AsyncGenerator[Segment, None]:
        self.readers += 1
        try:
            yield Segment("a", 0, 1000)
            await asyncio.Event().wait()
        finally:
            self.readers -= 1


async def test_a_key_ends_a_playout_whose_render_hangs() -> None:
    link, session = opened()
    render = Render()
    playing = asyncio.create_task(session.play(render.segments()))
    await until(lambda: played(link))
    session.take(p.PlayDone(5, 1, False, 800))
    done = await playing
    assert (done.completed, done.samples, render.readers) == (False, 800, 0)
    assert link.of(p.Stop) == []


async def test_cancelling_silences_the_leg() -> None:
    link, session = opened()
    render = Render()
    playing = asyncio.create_task(session.play(render.segments()))
    await until(lambda: played(link))
    playing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await playing
    assert link.sent[-1] == p.Stop(5, 1)
    assert render.readers == 0
    session.take(p.PlayDone(5, 1, False, 160))  # its answer finds nobody waiting


async def test_cancelling_after_the_last_clip_silences_the_leg_too() -> None:
    link, session = opened()
    playing = asyncio.create_task(session.play(stretches(p.Clip("a", 0, 160))))
    keys = asyncio.create_task(session.send_digits("123"))
    await until(lambda: is_last(link))
    for task in (playing, keys):
        task.cancel()
    await asyncio.gather(playing, keys, return_exceptions=True)
    assert sorted(link.of(p.Stop), key=str) == [p.Stop(5, 1), p.Stop(5, 2)]


async def test_a_failed_render_silences_and_raises() -> None:
    async def failing() -> AsyncIterator[p.Clip]:
        yield p.Clip("a", 0, 160)
        raise RuntimeError("no voice")

    link, session = opened()
    with pytest.raises(RuntimeError, match="no voice"):
        await session.play(failing())
    assert link.sent[-1] == p.Stop(5, 1)


async def test_a_lost_worker_ends_what_waits() -> None:
    _, session = opened()
    playing = asyncio.create_task(session.play(Render().segments()))
    keys = asyncio.create_task(session.send_digits("1"))
    await asyncio.sleep(0)
    session.lost("killed")
    for task in (playing, keys):
        with pytest.raises(MediaError, match="killed"):
            await task
    assert await session.close() == p.Quality()


async def test_events_of_the_call_are_passed_on() -> None:
    events: list[p.Event] = []
    _, session = opened(events)
    session.take(p.Digit(5, "1"))
    session.take(p.MediaTimeout(5, 2.0))
    session.take(p.PlayDone(5, 99, True, 0))
    assert events == [p.Digit(5, "1"), p.MediaTimeout(5, 2.0)]


async def test_close_brings_the_quality() -> None:
    link, session = opened()
    closing = asyncio.create_task(session.close())
    await until(lambda: link.of(p.Close))
    session.take(p.Closed(5, p.Quality(packets_sent=7)))
    assert (await closing).packets_sent == 7
    link.dead = True
    assert (await session.close()).packets_sent == 7


@pytest.mark.parametrize(
    ("direction", "held", "send", "receive", "timeout"),
    [
        ("sendrecv", False, True, True, 9.0),
        ("sendonly", False, True, False, 0.0),
        ("recvonly", False, False, True, 9.0),
        ("inactive", False, False, False, 0.0),
        ("sendrecv", True, False, True, 0.0),
    ],
)
async def test_aim(direction: str, held: bool, send: bool, receive: bool, timeout: float) -> None:
    link, session = opened()
    settled = Negotiated(
        local=SDP,
        codec=Codec(99, "PCMA", 8000),
        dtmf=Codec(96, "telephone-event", 8000),
        remote_address="192.0.2.7",
        remote_port=4000,
        rtcp_address="192.0.2.8",
        rtcp_port=None,
        direction=direction,
        ptime=20,
        remote_hold=held,
    )
    session.aim(settled, 9.0)
    (aim,) = link.sent
    assert isinstance(aim, p.Aim)
    assert (aim.host, aim.port, aim.rtcp_host, aim.rtcp_port) == ("192.0.2.7", 4000, "192.0.2.8", 4001)
    assert (aim.codec, aim.payload_type, aim.receive_type) == (p.PCMA, 99, 97)
    assert (aim.send, aim.receive, aim.timeout) == (send, receive, timeout)
    assert (aim.dtmf_payload_type, aim.dtmf_receive_type) == (96, 96)


# --- the pool ------------------------------------------------------------------------------------------------


async def test_the_least_loaded_worker_gets_the_leg_and_a_death_ends_only_its_own() -> None:
    links = [FakeLink(), FakeLink()]
    pool = MediaPool(links)
    lost: list[tuple[int, str]] = []

    def note(number: int, reason: str) -> None:
        lost.append((number, reason))

    sessions = [await pool.open("127.0.0.1", lambda event: None, partial(note, n)) for n in range(4)]
    assert [len(link.of(p.Open)) for link in links] == [2, 2]
    links[0].on_lost("died")
    assert lost == [(0, "died"), (2, "died")]
    assert pool.session_count == 2
    closing = asyncio.create_task(pool.close(sessions[1]))
    await until(lambda: links[1].of(p.Close))
    links[1].on_event(p.Closed(sessions[1].leg, p.Quality(packets_received=3)))
    assert (await closing).packets_received == 3
    assert pool.session_count == 1
    links[1].on_event(p.Digit(sessions[1].leg, "1"))  # late: nobody's


async def test_a_leg_that_cannot_open_is_forgotten() -> None:
    link = FakeLink(opens=False)
    pool = MediaPool([link])
    opening = asyncio.create_task(pool.open("127.0.0.1", lambda event: None, lambda reason: None))
    await until(lambda: link.sent)
    link.on_event(p.OpenFailed(1, "no free RTP port"))
    with pytest.raises(MediaError, match="no free RTP port"):
        await opening
    assert pool.session_count == 0


async def test_giving_up_on_a_leg_gives_its_ports_back() -> None:
    link = FakeLink(opens=False)
    pool = MediaPool([link])
    opening = asyncio.create_task(pool.open("127.0.0.1", lambda event: None, lambda reason: None))
    await until(lambda: link.sent)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert link.sent[-1] == p.Close(1)
    assert pool.session_count == 0


async def test_reports_are_kept_by_worker() -> None:
    links = [FakeLink(), FakeLink()]
    pool = MediaPool(links)
    report = p.WorkerReport(1, 2, 3, 4, 5.0, 6.0, 7, 8, 9)
    links[1].on_event(report)
    assert pool.reports == {1: report}


def test_a_pool_needs_a_worker() -> None:
    with pytest.raises(MediaError):
        MediaPool([])
