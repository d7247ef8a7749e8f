"""One party on the line: the SIP session and the media session that follow one another (RFC 3264).

The same class for a call that came in and one that goes out; only who offers first differs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.clock import Clock
from engine.ids import Ids
from engine.media.session import MediaSession
from engine.sip.message import Request
from engine.sip.offer import Capabilities, Negotiated, accept_answer, make_offer, negotiate, versioned
from engine.sip.sdp import Codec, Sdp, SdpError, parse_sdp
from engine.sip.session import Session

CODECS = Capabilities((Codec(0, "PCMU", 8000), Codec(8, "PCMA", 8000)))
SESSION_ID_BITS = 62  # RFC 4566 §5.2: a number that fits any implementation's signed 64 bits


@dataclass(frozen=True, slots=True)
class LegSettings:
    """`address` is what our SDP says; `media_timeout` is seconds without RTP before the leg counts as dead."""

    address: str
    media_timeout: float = 30.0
    capabilities: Capabilities = CODECS


class Leg:
    """SDP in, SDP out, media aimed accordingly. Methods return whether the two sides could agree."""

    def __init__(self, media: MediaSession, settings: LegSettings, clock: Clock, ids: Ids) -> None:
        self.media = media
        self.session: Session | None = None
        self.settled: Negotiated | None = None
        self._settings = settings
        self._clock = clock
        self._session_id = ids.number(SESSION_ID_BITS)
        self._version = 1
        self._live = False  # whether audio flows: from the answer on, or with early media
        self._offer: Sdp | None = None  # ours, waiting for its answer
        self._local: Sdp | None = None  # what we said last

    @property
    def held(self) -> bool:
        """Whether the far end wants to hear nothing just now."""
        return self.settled is not None and self.settled.remote_hold

    @property
    def has_digits(self) -> bool:
        """Whether keys travel as telephone events (RFC 4733) on this leg."""
        return self.settled is not None and self.settled.dtmf is not None

    # --- the far end offers ----------------------------------------------------------------------------------

    def take_offer(self, body: bytes) -> bool:
        """An INVITE's or re-INVITE's offer; without one, ours goes into the 200 (late offer)."""
        if not body:
            self._offer = self.make_offer()
            return True
        try:
            settled = negotiate(
                parse_sdp(body),
                self._settings.capabilities,
                self._settings.address,
                self.media.port,
                self._session_id,
                self._version,
            )
        except SdpError:
            return False
        if settled is None:
            return False
        self._offer = None
        self._settle(settled)
        return True

    def ring(self) -> None:
        self._alive.ring(self._now)

    def answer(self) -> None:
        """200 with our answer, or with our offer where the caller made none."""
        self._go_live()
        self._alive.answer(self._now, self._description())

    def refuse(self, status: int, headers: Iterable[tuple[str, str]] = ()) -> None:
        self._alive.refuse(self._now, status, headers)

    def acknowledged(self, request: Request) -> bool:
        """The ACK; after a late offer it carries the answer."""
        return self._offer is None or self._take_answer(request.body)

    def reoffered(self, request: Request) -> None:
        """A re-INVITE: hold, resume, a new address. 488 leaves everything as it was (RFC 3264 §4)."""
        if self.take_offer(request.body):
            self._alive.accept_offer(self._now, self._description())
        else:
            self._alive.refuse_offer(self._now, 488)

    # --- we offer --------------------------------------------------------------------------------------------

    def make_offer(self, direction: str = "sendrecv") -> Sdp:
        offer = make_offer(
            self._settings.address,
            self.media.port,
            self._settings.capabilities,
            self._session_id,
            self._version,
            direction,
            previous=self._local,
        )
        return versioned(offer, self._local)

    def offer(self) -> bytes:
        """The body of our INVITE."""
        self._offer = self._local = self.make_offer()
        return self._offer.to_bytes()

    def answered(self, body: bytes) -> bool:
        """The answer in a 200, or early in a 183. A 200 without one stands by what the 183 said."""
        if not body:
            return self.settled is not None
        self._live = True
        return self._take_answer(body)

    def reoffer(self, direction: str) -> bool:
        """Put the far end on hold (`sendonly`, `inactive`) or take it back (`sendrecv`)."""
        offer = self.make_offer(direction)
        if not self._alive.offer(self._now, offer.to_bytes()):
            return False
        self._offer = self._local = offer
        return True

    # --- both ------------------------------------------------------------------------------------------------

    def hang_up(self, headers: Iterable[tuple[str, str]] = ()) -> None:
        if self.session is not None:
            self.session.hang_up(self._now, headers)

    def _take_answer(self, body: bytes) -> bool:
        offer = self._offer or self._local
        if offer is None:
            return False
        try:
            settled = accept_answer(offer, parse_sdp(body))
        except SdpError:
            return False
        self._settle(settled)
        return True

    def _settle(self, settled: Negotiated) -> None:
        self.settled = settled
        self._local = settled.local
        self._version = settled.local.origin.version + 1
        self._aim()

    def _aim(self) -> None:
        if self.settled is not None and self._live:
            self.media.aim(self.settled, self._settings.media_timeout)

    def _go_live(self) -> None:
        # Before the answer nobody is to be heard: a phone has no reason to send yet, and who does is a stranger.
        self._live = True
        self._aim()

    def _description(self) -> bytes:
        if self._offer is not None:
            self._local = self._offer
        assert self._local is not None
        return self._local.to_bytes()

    @property
    def _alive(self) -> Session:
        assert self.session is not None
        return self.session

    @property
    def _now(self) -> float:
        return self._clock.monotonic()
