"""Calls as they come: from the SIP stack's events to call tasks, and the engine's word on whether one may come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from engine.call import ending
from engine.call.call import Call, Script
from engine.call.instructions import Instructions
from engine.call.params import party
from engine.call.routing import Numbers, Route
from engine.call.services import Services
from engine.call.timeline import Note, Timeline, Watcher
from engine.ids import sid
from engine.schema import CallRow
from engine.signature import bare_url
from engine.sip import events as sip
from engine.sip.layer import Flow
from engine.sip.message import Request, Response, response_to
from engine.sip.session import Session
from engine.sip.uri import SipUri

log = structlog.get_logger(__name__)

RETRY_AFTER = 30  # seconds, told to callers while we drain
MAX_CALLS = 4096  # as many as the media workers' legs; past it new calls get 503 instead of silence


class CallManager:
    """All live calls. Every SIP event of a call is put into that call's mailbox, in order."""

    def __init__(
        self,
        services: Services,
        numbers: Callable[[], Numbers],
        script: Script,
        watchers: tuple[Watcher, ...] = (),
    ) -> None:
        self.draining = False
        self._services = services
        self._numbers = numbers
        self._script = script
        self._watchers = watchers
        self._calls: dict[Session, Call] = {}
        self._by_call_id: dict[str, Call] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def call_count(self) -> int:
        return len(self._tasks)

    def handle(self, event: sip.Event) -> None:
        """An event from the SIP stack."""
        if isinstance(event, sip.Invited):
            self._invited(event.session, event.request)
        elif (call := self._calls.get(event.session)) is not None:
            call.post(event)

    def trace(self, direction: str, message: Request | Response, flow: Flow, now: float) -> None:
        """A SIP message of some call, for its timeline."""
        call = self._by_call_id.get(message.call_id)
        if call is not None:
            call.note("sip", **sip_note(direction, message, flow))

    async def drain(self, seconds: float) -> int:
        """Refuse new calls and let the live ones finish; returns how many had to be ended after `seconds`."""
        self.draining = True
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=seconds)
        return await self.stop()

    async def stop(self) -> int:
        """End every call now; returns how many there were."""
        self.draining = True
        left = list(self._calls.values())
        for call in left:
            call.end(ending.STOPPED)
        if self._tasks:
            await asyncio.wait(set(self._tasks))
        return len(left)

    def _invited(self, session: Session, request: Request) -> None:
        now = self._services.clock.monotonic()
        if self.draining or len(self._tasks) >= MAX_CALLS:
            session.refuse(now, 503, [("Retry-After", str(RETRY_AFTER))])
            return
        dialled = request.uri.user_text if isinstance(request.uri, SipUri) else None
        route = self._numbers().route(dialled or "")
        if route is None:
            log.info("nobody answers this number", dialled=dialled, source=session.flow.remote[0])
            session.refuse(now, 404)
            return
        self._start(session, request, route)

    def _start(self, session: Session, request: Request, route: Route) -> None:
        row = self._row(session, request, route)
        timeline = Timeline(row.sid, self._services.clock, (self._keep, *self._watchers))
        instructions = Instructions(route, self._services.sources, timeline)
        call = Call(row, request, session, instructions, timeline, self._services, self._script)
        call.note("call", **{"sid": row.sid, "from": row.from_, "to": row.to})
        call.note("sip", **sip_note("in", request, session.flow))
        call.note(
            "sip", **sip_note("out", response_to(request, 100), session.flow)
        )  # the stack sent it at once
        self._calls[session] = call
        self._by_call_id.setdefault(
            request.call_id, call
        )  # a second INVITE must not take over the first's timeline
        task = asyncio.create_task(call.run(), name=f"call {row.sid}")
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(done, session, request.call_id))

    def _ended(self, task: asyncio.Task[None], session: Session, call_id: str) -> None:
        self._tasks.discard(task)
        call = self._calls.pop(session, None)
        # The BYE's answer is still to come; its line in the timeline is worth a moment's memory.
        if self._by_call_id.get(call_id) is call:
            asyncio.get_running_loop().call_later(1.0, self._by_call_id.pop, call_id, None)

    def _keep(self, note: Note) -> None:
        """Every note goes to the store."""
        self._services.store.note(note.call_sid, note.offset, note.kind, note.data)

    def _row(self, session: Session, request: Request, route: Route) -> CallRow:
        now = self._services.clock.now()
        return CallRow(
            sid=sid(self._services.ids, "CA"),
            account_sid=self._services.account.sid,
            from_=party(request.from_),
            to=party(request.uri),
            direction="inbound",
            status="ringing",
            created_at=now,
            ringing_at=now,
            sip_call_id=request.call_id,
            source_ip=session.flow.remote[0],
            caller_name=request.from_.display,
            voice_url=bare_url(route.voice_url),
            voice_method=route.voice_method,
            status_callback=route.status_callback,
            status_callback_method=route.status_callback_method,
            status_callback_event=route.status_callback_event,
        )


def sip_note(direction: str, message: Request | Response, flow: Flow) -> dict[str, object]:
    """A SIP message as a timeline shows it: which way, its start line, and with whom."""
    host, port = flow.remote
    return {
        "direction": direction,
        "line": message.start_line().removesuffix(" SIP/2.0").removeprefix("SIP/2.0 "),
        "cseq": message.headers.get("CSeq") or "",
        "peer": f"{host}:{port}",
    }
