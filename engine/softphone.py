"""A telephone on the engine's own stack: places calls, plays, presses keys, listens, and says how it went.

`switchhook call` and `switchhook load` are made of it, and so are our end-to-end tests. No second SIP stack.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np

from engine.call.leg import Leg, LegSettings
from engine.call.manager import sip_note
from engine.call.timeline import Timeline, Watcher
from engine.clock import Clock, SystemClock
from engine.errors import ConfigError, MediaError
from engine.ids import Ids, RandomIds, sid
from engine.media import protocol as media
from engine.media.audio import load_file
from engine.media.link import Link, WorkerLink
from engine.media.pool import MediaPool
from engine.net.endpoint import UdpEndpoint, local_address, reachable_host
from engine.sip import events as sip
from engine.sip.grammar import SipSyntaxError
from engine.sip.headers import NameAddr
from engine.sip.layer import Flow
from engine.sip.message import Request, Response
from engine.sip.session import Session
from engine.sip.stack import Stack
from engine.sip.uri import SipUri, escape_user

RING_SECONDS = 60.0
SETTLE_SECONDS = 2.0  # for the answers to our last BYE or CANCEL
DIGIT_CHARACTERS = frozenset("0123456789*#ABCDabcdwW")
HANGUP_SECONDS = 0.3  # our BYE's answer is worth seeing in the timeline

Mail: TypeAlias = sip.Event | media.Event


@dataclass(frozen=True, slots=True)
class CallPlan:
    """What a call does once it is answered. `play` is a sound file, `digits` keys (w half a second, W one).

    Without a `duration` it lasts until the far end hangs up.
    """

    target: str
    caller: str = "softphone"
    play: Path | None = None
    digits: str = ""
    record: Path | None = None
    duration: float | None = None
    ring_seconds: float = RING_SECONDS
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class CallReport:
    """How a call went. `status` is the final SIP status; times in seconds from the INVITE."""

    target: str
    status: int = 0
    reason: str = ""
    rang_after: float | None = None
    answered_after: float | None = None
    first_audio_after: float | None = None
    duration: float = 0.0
    ended_by: str = ""
    digits_heard: str = ""
    quality: media.Quality = field(default_factory=media.Quality)

    @property
    def answered(self) -> bool:
        return self.answered_after is not None

    def as_dict(self) -> dict[str, Any]:
        figures = {name: getattr(self.quality, name) for name in self.quality.__struct_fields__}
        return {name: getattr(self, name) for name in self.__slots__ if name != "quality"} | {"rtp": figures}


class PhoneCall:
    """One outgoing call of a softphone."""

    def __init__(self, plan: CallPlan, timeline: Timeline, clock: Clock) -> None:
        self.plan = plan
        self.timeline = timeline
        self.report = CallReport(plan.target)
        self.leg: Leg | None = None
        self._clock = clock
        self._answered = asyncio.Event()
        self._over = asyncio.Event()

    @property
    def leg_alive(self) -> Leg:
        assert self.leg is not None
        return self.leg

    def post(self, mail: Mail) -> None:
        """An event of this call, from the stack or the media worker."""
        elapsed = round(self.timeline.elapsed, 4)
        match mail:
            case sip.Progressed(response=response):
                self.report.rang_after = self.report.rang_after or elapsed
                if response.body:
                    self.leg_alive.answered(response.body)
            case sip.Answered(response=response):
                self._take_answer(response, elapsed)
            case sip.Refused(status=status, reason=reason):
                self._finish(status, reason, "")
            case sip.Ended(by=by, reason=reason):
                self._finish(200, reason, "far end" if by is sip.Party.REMOTE else "network")
            case sip.Offered(request=request):
                self.leg_alive.reoffered(request)
            case sip.OfferAnswered(response=response) if response.status < 300:
                self.leg_alive.answered(response.body)
            case media.Digit(digit=digit):
                self.timeline.note("digit", digit=digit, how="rfc4733")
                self.report.digits_heard += digit
            case media.SourceLocked(host=host, port=port):
                self.report.first_audio_after = elapsed
                self.timeline.note("media", text=f"audio from {host}:{port}")
            case media.MediaTimeout(seconds=seconds):
                self.timeline.note("media", text=f"no RTP packet for {seconds:g} s")
            case media.Trouble(text=text):
                self.timeline.note("error", text=text)

    def lost(self, reason: str) -> None:
        """The media worker died."""
        self._finish(500, reason, "engine")

    def hang_up(self) -> None:
        self._finish(self.report.status, "we hung up", "us")

    def hold(self) -> bool:
        """Ask the far end to send nothing; False while another offer is under way."""
        return self.leg_alive.reoffer("sendonly")

    def resume(self) -> bool:
        """Take the far end back from hold."""
        return self.leg_alive.reoffer("sendrecv")

    async def talk(self) -> None:
        """Everything from the answer to the end."""
        if not await self._wait_for_answer():
            return
        self.timeline.note("state", status="answered")
        began = self._clock.monotonic()
        speaking = asyncio.create_task(self._speak())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.plan.duration):
                await self._over.wait()
        speaking.cancel()
        with contextlib.suppress(asyncio.CancelledError, MediaError):
            await speaking
        self.report.duration = round(self._clock.monotonic() - began, 3)
        self.hang_up()

    async def _wait_for_answer(self) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.plan.ring_seconds):
                over = asyncio.create_task(self._over.wait())
                answered = asyncio.create_task(self._answered.wait())
                try:
                    await asyncio.wait({over, answered}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    over.cancel()
                    answered.cancel()
        if not self._answered.is_set():
            self._finish(self.report.status or 408, self.report.reason or "not answered in time", "us")
        return self._answered.is_set()

    async def _speak(self) -> None:
        if self.plan.digits:
            await self.leg_alive.media.send_digits(self.plan.digits)
        if self.plan.play is not None:
            await self._play(self.plan.play)

    async def _play(self, path: Path) -> None:
        pcm = await asyncio.to_thread(load_file, path)
        with tempfile.NamedTemporaryFile(suffix=".pcm") as file:
            await asyncio.to_thread(_write, file.name, pcm.astype("<i2").tobytes())
            await self.leg_alive.media.play(_one(media.Clip(file.name, 0, len(pcm))))

    def _take_answer(self, response: Response, elapsed: float) -> None:
        self.report.answered_after = elapsed
        self.report.status, self.report.reason = response.status, response.reason
        if not self.leg_alive.answered(response.body):
            self._finish(488, "the answer's SDP could not be used", "us")
        elif self.plan.record is not None:
            self.leg_alive.media.record(str(self.plan.record))
        self._answered.set()

    def _finish(self, status: int, reason: str, by: str) -> None:
        if not self._over.is_set():
            self.report.status = status
            self.report.reason = reason or self.report.reason
            self.report.ended_by = by
            self._over.set()


class Softphone:
    """An async context manager around one SIP address and one media worker."""

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        rtp_ports: tuple[int, int] = (30000, 39999),
        watchers: tuple[Watcher, ...] = (),
        ids: Ids | None = None,
        clock: Clock | None = None,
        link: Link | None = None,
        endpoint: UdpEndpoint | None = None,
    ) -> None:
        self._host = local_address(host)
        self._port = port
        self._clock = clock or SystemClock()
        self._ids = ids or RandomIds()
        self._watchers = watchers
        self._calls: dict[Session, PhoneCall] = {}
        self._by_call_id: dict[str, Timeline] = {}
        self.link = link or WorkerLink("phone", *rtp_ports)
        self.pool = MediaPool([self.link])
        self._endpoint = endpoint or UdpEndpoint(self._clock)
        self.stack = Stack(
            self._ids,
            send=self._endpoint.send,
            emit=self._handle,
            agent="Switchhook phone",
            trace=self._trace,
        )
        self._endpoint.attach(self.stack)

    async def __aenter__(self) -> Softphone:
        await self.link.start()
        self.address = await self._endpoint.open(self._host, self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._endpoint.settle(SETTLE_SECONDS)
        self._endpoint.close()
        await self.link.stop()

    async def call(self, plan: CallPlan, on_start: Callable[[PhoneCall], None] | None = None) -> CallReport:
        """Place a call, carry out its plan, report. Raises `ConfigError` for a target that is no SIP address."""
        target = parse_target(plan.target)
        check_digits(plan.digits)
        timeline = Timeline(sid(self._ids, "PH"), self._clock, self._watchers)
        call = PhoneCall(plan, timeline, self._clock)
        try:
            session_media = await self.pool.open(self._host, call.post, call.lost)
        except MediaError as error:
            call.report.status, call.report.reason = 500, str(error)
            return call.report
        settings = LegSettings(reachable_host(self._host))
        call.leg = Leg(session_media, settings, self._clock, self._ids)
        try:
            self._place(call, target, timeline)
            if on_start is not None:
                on_start(call)
            await call.talk()
        finally:
            await self._leave(call)
        return call.report

    def _place(self, call: PhoneCall, target: SipUri, timeline: Timeline) -> None:
        caller = SipUri("sip", escape_user(call.plan.caller), None, reachable_host(self._host), None, (), "")
        session = self.stack.invite(
            target,
            NameAddr("", caller),
            call.leg_alive.offer(),
            self._clock.monotonic(),
            headers=call.plan.headers,
        )
        timeline.note("sip", direction="out", line=f"INVITE {target}", cseq="INVITE", peer=target.hostport)
        call.leg_alive.session = session
        self._calls[session] = call
        self._by_call_id[session.request.call_id] = timeline

    async def _leave(self, call: PhoneCall) -> None:
        call.leg_alive.hang_up()
        call.report.quality = await self.pool.close(call.leg_alive.media)
        session = call.leg_alive.session
        if session is not None:
            if self._watchers:
                await asyncio.sleep(HANGUP_SECONDS)
            self._calls.pop(session, None)
            self._by_call_id.pop(session.request.call_id, None)

    def _handle(self, event: sip.Event) -> None:
        if isinstance(event, sip.Invited):
            event.session.refuse(self._clock.monotonic(), 480)  # this telephone only places calls
        elif (call := self._calls.get(event.session)) is not None:
            call.post(event)

    def _trace(self, direction: str, message: Request | Response, flow: Flow, now: float) -> None:
        timeline = self._by_call_id.get(message.call_id)
        if timeline is not None:
            timeline.note("sip", **sip_note(direction, message, flow))


def parse_target(text: str) -> SipUri:
    """`sip:1000@host:port`, or the same without `sip:`."""
    try:
        uri = SipUri.parse(text if text.startswith(("sip:", "sips:")) else f"sip:{text}")
    except SipSyntaxError as error:
        raise ConfigError(
            f"{text!r} is not a SIP address such as sip:1000@127.0.0.1:5060 ({error})"
        ) from error
    if uri.scheme != "sip":
        raise ConfigError(f"{text!r}: sips needs TLS, which this version does not speak")
    return uri


def parse_digits(text: str) -> str:
    """Keys as a person writes them: commas and blanks only separate."""
    digits = "".join(character for character in text if character not in ", ")
    check_digits(digits)
    return digits


def check_digits(digits: str) -> None:
    unknown = sorted(set(digits) - DIGIT_CHARACTERS)
    if unknown:
        raise ConfigError(f"{''.join(unknown)!r}: keys are 0-9 * # A-D, w waits half a second and W one")


async def _one(clip: media.Clip) -> AsyncIterator[media.Clip]:
    yield clip


def _write(name: str, data: bytes) -> None:
    Path(name).write_bytes(data)


def heard_seconds(pcm: np.ndarray[Any, np.dtype[np.int16]]) -> float:
    """Seconds of a recording that were not silence: 20 ms frames above -50 dBFS."""
    frames = pcm[: len(pcm) // 160 * 160].reshape(-1, 160).astype(np.float64)
    return float((np.sqrt((frames**2).mean(axis=1)) > 100).sum() * 0.02) if len(frames) else 0.0
