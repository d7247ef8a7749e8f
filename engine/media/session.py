"""One leg's media as call control sees it: open, aim, play, send digits, record, close."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Sequence
from typing import Any, Protocol, TypeVar

from engine.errors import MediaError
from engine.media import protocol as p
from engine.media.link import Link
from engine.sip.offer import Negotiated

T = TypeVar("T")

PIECE_SAMPLES = 50 * p.FRAME_SAMPLES * 8  # 8 s: a worker lays a piece into its arena in a fraction of a tick
PIECES_PER_MESSAGE = 64
OPEN_SECONDS = 5.0  # a worker that takes longer to bind two ports is stuck
CLOSE_SECONDS = 2.0


class Stretch(Protocol):
    """Part of a file of line PCM, in samples: a `Clip`, or a segment of a prompt that is being rendered."""

    @property
    def path(self) -> str: ...

    @property
    def start(self) -> int: ...

    @property
    def samples(self) -> int: ...


class MediaSession:
    """A leg on a worker. Events that concern the call go to `notify`; the ends of playouts wake who waits."""

    def __init__(self, link: Link, leg: int, notify: Callable[[p.Event], None]) -> None:
        self.leg = leg
        self.port = 0
        self.quality = p.Quality()
        self._link = link
        self._notify = notify
        self._plays = itertools.count(1)
        self._playing: dict[int, asyncio.Future[p.PlayDone]] = {}
        self._interrupts: dict[int, str] = {}  # keys that end a playout in progress
        self._opened: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self, host: str) -> None:
        """Bind the leg's ports. Raises `MediaError` (no free port, no worker)."""
        self._link.send(p.Open(self.leg, host))
        try:
            self.port = await asyncio.wait_for(self._opened, OPEN_SECONDS)
        except (TimeoutError, asyncio.CancelledError) as error:
            self._tell(p.Close(self.leg))  # it may still open, and nobody would give its ports back
            if isinstance(error, TimeoutError):
                raise MediaError(f"the media worker did not open a leg in {OPEN_SECONDS:g} s") from None
            raise

    def aim(self, settled: Negotiated, timeout: float) -> None:
        """Send and receive as an offer/answer exchange settled it."""
        sends = settled.direction in ("sendrecv", "sendonly") and not settled.remote_hold
        receives = settled.direction in ("sendrecv", "recvonly")
        self._link.send(
            p.Aim(
                leg=self.leg,
                host=settled.remote_address,
                port=settled.remote_port,
                rtcp_host=settled.rtcp_address,
                rtcp_port=settled.rtcp_port or settled.remote_port + 1,
                payload_type=settled.codec.payload_type,
                receive_type=settled.receive_type(settled.codec),
                codec=p.PCMA if settled.codec.name.upper() == "PCMA" else p.PCMU,
                dtmf_payload_type=settled.dtmf.payload_type if settled.dtmf is not None else None,
                dtmf_receive_type=settled.receive_type(settled.dtmf) if settled.dtmf is not None else None,
                send=sends,
                receive=receives,
                timeout=timeout if receives and not settled.remote_hold else 0.0,
            )
        )

    async def play(
        self, clips: AsyncIterable[Stretch], *, loops: int = 1, interrupt_on: str = ""
    ) -> p.PlayDone:
        """Play clips as they become available; returns when the last is out or a key among `interrupt_on` came.

        What is heard is sample for sample the files, wherever a growing one is cut into stretches. An error of
        `clips` (a render that failed) silences the leg and is raised here.
        Cancelling the caller silences the leg: barge-in, redirect and hang-up all stop here.
        """
        play, done = self._begin()
        try:
            self._interrupts[play] = interrupt_on
            self._link.send(p.Play(self.leg, play, (), False, loops, interrupt_on))
            feeding = asyncio.create_task(self._feed(play, clips), name=f"clips of leg {self.leg}")
            try:
                first: set[asyncio.Future[Any]] = {feeding, done}
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
                if not done.done():
                    await feeding
            finally:
                # A key or a hang-up does not wait for a render that is still under way.
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)
            return await done
        finally:
            self._finish(play, done)

    async def _feed(self, play: int, clips: AsyncIterable[Stretch]) -> None:
        stream = aiter(clips)
        try:
            async for clip in _whole_frames(stream):
                for pieces in _messages(clip):
                    self._link.send(p.Extend(self.leg, play, pieces, False))
            self._link.send(p.Extend(self.leg, play, (), True))
        finally:
            if isinstance(stream, AsyncGenerator):
                await stream.aclose()

    async def send_digits(self, digits: str) -> p.PlayDone:
        """Send DTMF; returns when the last key is out."""
        play, done = self._begin()
        try:
            self._link.send(p.SendDigits(self.leg, play, digits))
            return await done
        finally:
            self._finish(play, done)

    def record(self, path: str) -> None:
        self._link.send(p.Record(self.leg, path))

    async def close(self) -> p.Quality:
        """Give the ports back and learn how the call sounded. Never raises: the call is ending anyway."""
        try:
            self._link.send(p.Close(self.leg))
            await asyncio.wait_for(asyncio.shield(self._closed), CLOSE_SECONDS)
        except (MediaError, TimeoutError):
            pass
        return self.quality

    def pressed(self, digit: str) -> None:
        """A key that came by another way than RTP (SIP INFO) ends a playout that it may interrupt."""
        for play, keys in self._interrupts.items():
            if digit in keys:
                self._link.send(p.Stop(self.leg, play))

    def take(self, event: p.Event) -> None:
        """An event of this leg from the worker."""
        match event:
            case p.Opened(port=port):
                _settle(self._opened, port)
            case p.OpenFailed(reason=reason):
                _fail(self._opened, MediaError(reason))
            case p.PlayDone(play=play):
                if play in self._playing:
                    _settle(self._playing[play], event)
            case p.Closed(quality=quality):
                self.quality = quality
                _settle(self._closed, None)
            case _:
                self._notify(event)

    def lost(self, reason: str) -> None:
        """The worker died, and this leg's audio with it."""
        _fail(self._opened, MediaError(reason))
        for done in self._playing.values():
            _fail(done, MediaError(reason))
        _settle(self._closed, None)

    def _begin(self) -> tuple[int, asyncio.Future[p.PlayDone]]:
        play = next(self._plays)
        done: asyncio.Future[p.PlayDone] = asyncio.get_running_loop().create_future()
        self._playing[play] = done
        return play, done

    def _finish(self, play: int, done: asyncio.Future[p.PlayDone]) -> None:
        del self._playing[play]
        self._interrupts.pop(play, None)
        if not done.done() or done.cancelled():  # cancelling who awaits `done` cancels it too
            done.cancel()
            self._tell(p.Stop(self.leg, play))

    def _tell(self, command: p.Command) -> None:
        with contextlib.suppress(MediaError):  # a worker that is gone is silent, and its ports are free
            self._link.send(command)


async def _whole_frames(stretches: AsyncIterator[Stretch]) -> AsyncIterator[p.Clip]:
    """The same samples in clips of whole frames, as far as a file goes on in the next stretch.

    A worker fills each clip up with silence to 20 ms; in the middle of a word that would be a click.
    """
    held: p.Clip | None = None
    async for stretch in stretches:
        if not stretch.samples:
            continue
        clip = p.Clip(stretch.path, stretch.start, stretch.samples)
        if held is not None and (held.path, held.start + held.samples) == (clip.path, clip.start):
            clip = p.Clip(held.path, held.start, held.samples + clip.samples)
        elif held is not None:
            yield held
        whole = clip.samples - clip.samples % p.FRAME_SAMPLES
        if whole:
            yield p.Clip(clip.path, clip.start, whole)
        held = p.Clip(clip.path, clip.start + whole, clip.samples - whole) if clip.samples > whole else None
    if held is not None:
        yield held


def _messages(clip: p.Clip) -> Sequence[tuple[p.Clip, ...]]:
    """A long clip in pieces the tick can lay down one at a time, a bounded number to a message."""
    pieces = [
        p.Clip(clip.path, start, min(PIECE_SAMPLES, clip.start + clip.samples - start))
        for start in range(clip.start, clip.start + clip.samples, PIECE_SAMPLES)
    ]
    return [tuple(pieces[i : i + PIECES_PER_MESSAGE]) for i in range(0, len(pieces), PIECES_PER_MESSAGE)]


def _settle(future: asyncio.Future[T], value: T) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: asyncio.Future[T], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # retrieved here: whoever waits still gets it, and nobody waiting is no warning
