"""A call: one task, one mailbox, one end.

Everything that happens to a call, from the SIP stack, the media worker or its own script, arrives in its mailbox
and is handled in order by its task. Verbs drive it through the public methods; whatever ends it goes through `end`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeAlias

import structlog

from engine.call import ending, info
from engine.call.ending import Ending
from engine.call.instructions import Instructions
from engine.call.keys import Keys
from engine.call.leg import Leg, LegSettings
from engine.call.params import Params, call_params, sip_params, status_callback
from engine.call.services import Services
from engine.call.timeline import Timeline
from engine.errors import MediaError
from engine.media import protocol as media
from engine.schema import CallRow, PendingCallback, StoreError
from engine.sip import events as sip
from engine.sip.message import Request
from engine.sip.session import Session

log = structlog.get_logger(__name__)

ACK_SECONDS = 1.0  # how long the first prompt waits for the ACK, so that its first words are not lost
TWIN_SECONDS = 1.0  # the same key by RTP and by INFO within this is one press
MAX_TRACE = 8000  # characters of a traceback in the timeline: its end, which says what happened
FAREWELL_SECONDS = 0.2  # the last words are still in the caller's jitter buffer when we have sent them

Key: TypeAlias = tuple[str, str, float]  # digit, how it came, when
Script: TypeAlias = Callable[["Call"], Awaitable[Ending]]


@dataclass(frozen=True, slots=True)
class ScriptDone:
    """The call's document has ended it."""

    ending: Ending


Mail: TypeAlias = sip.Event | media.Event | ScriptDone


class Call:
    """One inbound call, from INVITE to its last status callback."""

    def __init__(
        self,
        row: CallRow,
        request: Request,
        session: Session,
        instructions: Instructions,
        timeline: Timeline,
        services: Services,
        script: Script,
    ) -> None:
        self.row = row
        self.timeline = timeline
        self.instructions = instructions
        self.services = services
        self.keys = Keys()
        self.leg: Leg | None = None
        self._request = request
        self._session = session
        self._script = script
        self._mailbox: asyncio.Queue[Mail] = asyncio.Queue()
        self._ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._acknowledged = asyncio.Event()
        self._spoke = False
        self._media_lost = False
        self._last_key: Key | None = None

    # --- what the rest of the engine does to a call ----------------------------------------------------------

    def post(self, mail: Mail) -> None:
        """Something happened to this call."""
        self._mailbox.put_nowait(mail)

    def end(self, why: Ending) -> None:
        """End the call. The first reason counts; calling it again changes nothing."""
        if not self._ended.done():
            self._ended.set_result(why)

    @property
    def is_ended(self) -> bool:
        return self._ended.done()

    async def run(self) -> None:
        """The call's task."""
        try:
            await self._begin()
            if not self.is_ended:
                await self._live()
        except Exception as error:
            self._fail(error)
        finally:
            await asyncio.shield(self._finish())

    # --- what verbs do ---------------------------------------------------------------------------------------

    @property
    def is_answered(self) -> bool:
        return self.row.answered_at is not None

    def params(self) -> Params:
        """The standard parameters of a request about this call."""
        return call_params(self.row) + sip_params(self._request, self.row)

    def note(self, kind: str, /, **data: Any) -> None:
        self.timeline.note(kind, **data)

    async def answer(self) -> None:
        """Answer if that has not happened; returns once the caller is listening."""
        if self.is_answered or self.is_ended:
            return
        assert self.leg is not None
        self.leg.answer()
        answered = self._update(
            "answered", status="in-progress", answered_at=self.services.clock.now(), sip_status=200
        )
        await asyncio.gather(answered, self._await_ack())

    async def play(
        self, clips: AsyncIterator[media.Clip], *, loops: int = 1, interrupt_on: str = ""
    ) -> media.PlayDone:
        """Play to the caller, who is answered first. Cancelling stops the sound within a tick."""
        await self.answer()
        assert self.leg is not None
        self._spoke = True
        return await self.leg.media.play(clips, loops=loops, interrupt_on=interrupt_on)

    async def send_digits(self, digits: str) -> media.PlayDone:
        """Send DTMF to the caller."""
        await self.answer()
        assert self.leg is not None
        return await self.leg.media.send_digits(digits)

    # --- the task --------------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        await self.services.store.insert_call(self.row, self._callbacks("initiated"))
        host = self._session.flow.local[0]
        line = await self.services.pool.open(host, self.post, self._lost)
        settings = LegSettings(self.services.address_of(host), self.services.media_timeout)
        self.leg = Leg(line, settings, self.services.clock, self.services.ids)
        self.leg.session = self._session
        if not self.leg.take_offer(self._request.body):
            self.end(ending.NO_CODEC)
            return
        self.leg.ring()
        await self._tell("ringing")
        if self._request.body and not self.leg.has_digits:
            text = "the caller's phone offers no telephone-event: only SIP INFO digits will be heard"
            self.note("warning", code=0, text=text)

    async def _live(self) -> None:
        # The reader first: what is in the mailbox already (a CANCEL) must keep the app from being asked at all.
        tasks = [asyncio.create_task(work) for work in (self._read_mail(), self._run_script())]
        try:
            await asyncio.wait({self._ended}, timeout=self.services.max_call_seconds)
            self.end(ending.TOO_LONG)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run_script(self) -> None:
        if self.is_ended:
            return
        try:
            why = await self._script(self)
        except Exception as error:
            self._fail(error)
            return
        if self._spoke and self.is_answered:
            await asyncio.sleep(FAREWELL_SECONDS)
        self.post(ScriptDone(why))

    def _fail(self, error: Exception) -> None:
        """One call's bug ends that call only, and leaves its traceback where its owner looks."""
        if isinstance(error, MediaError | StoreError):
            if not self.is_ended:  # else what went wrong has been said already
                self.note("error", text=str(error))
                self.end(replace(ending.NO_MEDIA, reason=str(error)))
            return
        log.error("call failed", call=self.row.sid, exc_info=error)
        trace = "".join(traceback.format_exception(error))
        self.note("error", code=12400, text=f"internal error: {error!r}", trace=trace[-MAX_TRACE:])
        self.end(ending.BROKEN)

    def _lost(self, reason: str) -> None:
        """The media worker died, and this call's audio with it."""
        self._media_lost = True
        self.note("error", text=reason)
        self.end(replace(ending.NO_MEDIA, reason=reason))

    async def _await_ack(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ACK_SECONDS):
                await self._acknowledged.wait()

    async def _read_mail(self) -> None:
        while not self.is_ended:
            mail = await self._mailbox.get()
            try:
                self._handle(mail)
            except Exception as error:
                self._fail(error)

    def _handle(self, mail: Mail) -> None:
        match mail:
            case ScriptDone(why):
                self.end(why)
            case sip.Acknowledged(request=request):
                self._take_ack(request)
            case sip.Cancelled():
                self.end(ending.CANCELLED)
            case sip.Ended(by=by, reason=reason):
                self._take_end(by, reason)
            case sip.Offered(request=request):
                self._take_offer(request)
            case sip.InfoReceived(request=request):
                self._take_info(request)
            case media.Digit(digit=digit):
                self._take_key(digit, "rfc4733")
            case media.SourceLocked(host=host, port=port):
                self.note("media", text=f"audio from {host}:{port}")
            case media.MediaTimeout(seconds=seconds):
                self._take_silence(seconds)
            case media.Trouble(text=text):
                self.note("error", text=text)

    def _take_ack(self, request: Request) -> None:
        assert self.leg is not None
        self._acknowledged.set()
        if not self.leg.acknowledged(request):
            self.end(ending.BAD_ANSWER)

    def _take_end(self, by: sip.Party, reason: str) -> None:
        if by is sip.Party.REMOTE:
            self.end(Ending("completed", "caller", reason or "the caller hung up"))
        else:
            self.end(replace(ending.UNRESPONSIVE, reason=reason))

    def _take_offer(self, request: Request) -> None:
        assert self.leg is not None
        before = self.leg.held
        self.leg.reoffered(request)
        if self.leg.held != before:
            self.note(
                "media", text="the caller put us on hold" if self.leg.held else "the caller is back from hold"
            )

    def _take_info(self, request: Request) -> None:
        digit = info.digit(request)
        if digit is not None and self._take_key(digit, "info") and self.leg is not None:
            self.leg.media.pressed(digit)

    def _take_key(self, digit: str, how: str) -> bool:
        """A key. Some phones send each one both in RTP and as INFO: the second of such a pair is not another key."""
        last, self._last_key = self._last_key, (digit, how, self.timeline.elapsed)
        if last is not None and _is_twin(last, self._last_key):
            self._last_key = None
            return False
        self.note("digit", digit=digit, how=how)
        self.keys.press(digit)
        return True

    def _take_silence(self, seconds: float) -> None:
        assert self.leg is not None
        settled = self.leg.settled
        where = f"{settled.remote_address}:{settled.remote_port}" if settled is not None else "nowhere"
        reason = f"no RTP packet for {seconds:g} s; the caller's SDP says {where}"
        self.note("media", text=reason)
        self.end(replace(ending.SILENT, reason=reason))

    # --- records ---------------------------------------------------------------------------------------------

    async def _finish(self) -> None:
        """Leave the line, give the media back, write the record: each whatever becomes of the others."""
        why = self._ended.result() if self._ended.done() else ending.STOPPED
        with self._logged("could not leave the line"):
            self._leave_line(why)
        quality = media.Quality()
        with self._logged("could not close the media"):
            if self.leg is not None:
                quality = await self.services.pool.close(self.leg.media)
        with self._logged("could not record the end"):
            self._note_end(why, quality)
            await self._record_end(why, quality)

    @contextlib.contextmanager
    def _logged(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception:
            log.exception(what, call=self.row.sid)

    def _leave_line(self, why: Ending) -> None:
        now = self.services.clock.monotonic()
        if self.is_answered:
            headers = [("Reason", f'SIP;cause={why.sip_status};text="{why.phrase}"')] if why.phrase else []
            self._session.hang_up(now, headers)
        else:
            retry = [("Retry-After", "10")] if why.sip_status == 503 else []
            self._session.refuse(now, why.sip_status, retry)

    def _note_end(self, why: Ending, quality: media.Quality) -> None:
        self.note("media", text=describe(quality), **_figures(quality))
        if self.is_answered and quality.packets_received == 0 and not self._media_lost:
            self.note("media", text=explain_silence(self.leg))
        self.note("state", status=self._final_status(why), by=why.by, reason=why.reason)

    def _final_status(self, why: Ending) -> ending.Status:
        return "failed" if why.status == "completed" and not self.is_answered else why.status

    async def _record_end(self, why: Ending, quality: media.Quality) -> None:
        now = self.services.clock.now()
        await self._update(
            "completed",
            status=self._final_status(why),
            ended_at=now,
            duration=_seconds(self.row.answered_at, now),
            ended_by=why.by,
            end_reason=why.reason,
            sip_status=200 if self.is_answered else why.sip_status,
            quality=_figures(quality),
        )

    async def _update(self, event: str, **changes: Any) -> None:
        self.row = replace(self.row, **changes)
        if event != "completed":
            self.note("state", status=self.row.status)
        await self.services.store.update_call(self.row.sid, changes, self._callbacks(event))

    async def _tell(self, event: str) -> None:
        """A callback that no change of the record goes with."""
        if callbacks := self._callbacks(event):
            await self.services.store.enqueue(callbacks)

    def _callbacks(self, event: str) -> list[PendingCallback]:
        callback = status_callback(self.row, event, self.services.clock.now(), self.row.next_sequence)
        if callback is None:
            return []
        self.row = replace(self.row, next_sequence=self.row.next_sequence + 1)
        return [callback]


def _is_twin(one: Key, other: Key) -> bool:
    return one[0] == other[0] and one[1] != other[1] and other[2] - one[2] < TWIN_SECONDS


def describe(quality: media.Quality) -> str:
    """One line about how a call sounded, from both ends."""
    parts = [
        f"received {quality.packets_received} packets, lost {quality.packets_lost}, jitter {quality.jitter_ms:g} ms",
        f"sent {quality.packets_sent}",
    ]
    if quality.remote_packets_lost is not None:
        parts.append(
            f"the far end lost {quality.remote_packets_lost}, jitter {quality.remote_jitter_ms:g} ms"
        )
    if quality.round_trip_ms is not None:
        parts.append(f"round trip {quality.round_trip_ms:g} ms")
    return "; ".join(parts)


def explain_silence(leg: Leg | None) -> str:
    """Why nothing was heard from the far end, in words."""
    if leg is None or leg.settled is None:
        return "no audio: the two sides never agreed on where to send it"
    said = f"{leg.settled.remote_address}:{leg.settled.remote_port}"
    return (
        f"no audio from the caller: not one RTP packet came to port {leg.media.port}; its SDP says {said}, "
        "so look for a firewall or NAT between that address and this machine"
    )


def _figures(quality: media.Quality) -> dict[str, Any]:
    return {name: getattr(quality, name) for name in quality.__struct_fields__}


def _seconds(answered: datetime | None, now: datetime) -> int:
    return math.ceil((now - answered).total_seconds()) if answered is not None else 0
