"""All media workers of this engine: which one carries a new leg, and whose leg an event is about."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from engine.errors import MediaError
from engine.media import protocol as p
from engine.media.link import Link
from engine.media.session import MediaSession


class MediaPool:
    """Sessions over one or more links. A worker's death ends only the sessions it carried."""

    def __init__(self, links: Sequence[Link]) -> None:
        if not links:
            raise MediaError("no media worker is configured")
        self.reports: dict[int, p.WorkerReport] = {}
        self._links = list(links)
        self._sessions: list[dict[int, MediaSession]] = [{} for _ in links]
        self._legs = itertools.count(1)
        self._on_lost: dict[int, Callable[[str], None]] = {}
        for number, link in enumerate(self._links):
            self._listen(number, link)

    @property
    def session_count(self) -> int:
        return sum(len(sessions) for sessions in self._sessions)

    async def open(
        self, host: str, notify: Callable[[p.Event], None], lost: Callable[[str], None]
    ) -> MediaSession:
        """A leg on the least loaded worker that can take it, its ports bound on `host`. Raises `MediaError`."""
        refusal = MediaError("no media worker is running just now")
        for number in sorted(range(len(self._links)), key=lambda each: len(self._sessions[each])):
            if self._links[number].is_up:
                try:
                    return await self._open_on(number, host, notify, lost)
                except MediaError as error:  # its ports are all taken, or it died this moment: the next, then
                    refusal = error
        raise refusal

    async def _open_on(
        self, number: int, host: str, notify: Callable[[p.Event], None], lost: Callable[[str], None]
    ) -> MediaSession:
        session = MediaSession(self._links[number], next(self._legs), notify)
        self._sessions[number][session.leg] = session
        self._on_lost[session.leg] = lost
        try:
            await session.open(host)
        except BaseException:
            self._forget(session)
            raise
        return session

    async def close(self, session: MediaSession) -> p.Quality:
        quality = await session.close()
        self._forget(session)
        return quality

    def _forget(self, session: MediaSession) -> None:
        for sessions in self._sessions:
            sessions.pop(session.leg, None)
        self._on_lost.pop(session.leg, None)

    def _listen(self, number: int, link: Link) -> None:
        def on_event(event: p.Event) -> None:
            if isinstance(event, p.WorkerReport):
                self.reports[number] = event
            elif (session := self._sessions[number].get(event.leg)) is not None:
                session.take(event)

        def on_lost(reason: str) -> None:
            sessions, self._sessions[number] = self._sessions[number], {}
            for session in sessions.values():
                session.lost(reason)
                self._on_lost.pop(session.leg)(reason)

        link.on_event, link.on_lost = on_event, on_lost
