"""Dialogs: RFC 3261 §12. The peer-to-peer relation that in-dialog requests ride on; the role is only a field."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeAlias

from engine.sip.headers import CSeq, NameAddr
from engine.sip.message import Request, Response
from engine.sip.uri import OtherUri, SipUri

Address: TypeAlias = tuple[str, int]
DialogId: TypeAlias = tuple[str, str, str]  # Call-ID, local tag, remote tag

MAX_FORWARDS = 70  # RFC 3261 §8.1.1.6


class Role(Enum):
    """Who sent the INVITE that made the dialog."""

    UAC = "uac"
    UAS = "uas"


@dataclass(slots=True)
class Dialog:
    """One side's state. `flow` overrides where requests go: a peer behind NAT is reached where it came from."""

    role: Role
    call_id: str
    local: NameAddr  # with our tag: From in what we send
    remote: NameAddr
    remote_target: SipUri | OtherUri
    route_set: tuple[NameAddr, ...]
    local_sequence: int
    remote_sequence: int | None = None
    flow: Address | None = None

    @property
    def id(self) -> DialogId:
        return self.call_id, self.local.tag or "", self.remote.tag or ""

    @classmethod
    def as_uas(cls, request: Request, local_tag: str, flow: Address | None) -> Dialog:
        """§12.1.1, from the INVITE. A request without Contact (RFC 2543) is answered at its From URI."""
        contact = request.contact
        return cls(
            role=Role.UAS,
            call_id=request.call_id,
            local=request.to.with_tag(local_tag),
            remote=request.from_,
            remote_target=contact.uri if contact is not None else request.from_.uri,
            route_set=request.record_routes,
            local_sequence=0,
            remote_sequence=request.cseq.number,
            flow=flow,
        )

    @classmethod
    def as_uac(cls, request: Request, response: Response, flow: Address | None) -> Dialog:
        """§12.1.2, from a response with a To tag."""
        contact = response.contact
        return cls(
            role=Role.UAC,
            call_id=request.call_id,
            local=request.from_,
            remote=response.to,
            remote_target=contact.uri if contact is not None else request.uri,
            route_set=tuple(reversed(response.record_routes)),
            local_sequence=request.cseq.number,
            flow=flow,
        )

    def request(self, method: str, sequence: int | None = None) -> Request:
        """An in-dialog request without Via, §12.2.1.1. ACK and CANCEL name the sequence they belong to."""
        if sequence is None:
            self.local_sequence += 1
            sequence = self.local_sequence
        request = Request(method, self._request_uri())
        request.headers.add("Max-Forwards", str(MAX_FORWARDS))
        request.headers.add("From", str(self.local))
        request.headers.add("To", str(self.remote))
        request.headers.add("Call-ID", self.call_id)
        request.headers.add("CSeq", str(CSeq(sequence, method)))
        for route in self._routes():
            request.headers.add("Route", str(route))
        return request

    def next_hop(self) -> SipUri | OtherUri:
        """The URI whose host gets the next request: the first route, else the remote target."""
        return self.route_set[0].uri if self.route_set else self.remote_target

    def refresh_target(self, message: Request | Response) -> None:
        """A target refresh request or its 2xx moves the remote target (§12.2)."""
        if message.contact is not None:
            self.remote_target = message.contact.uri

    def in_order(self, request: Request) -> bool:
        """§12.2.2: a request with a CSeq at or below one already seen is out of order (500)."""
        if self.remote_sequence is not None and request.cseq.number <= self.remote_sequence:
            return False
        self.remote_sequence = request.cseq.number
        return True

    def _strict(self) -> bool:
        first = self.route_set[0].uri if self.route_set else None
        return isinstance(first, SipUri) and not first.has_param("lr")

    def _request_uri(self) -> SipUri | OtherUri:
        # A first route without `lr` is an RFC 2543 strict router, which expects itself in the Request-URI.
        uri = self.route_set[0].uri if self._strict() else self.remote_target
        if not isinstance(uri, SipUri):
            return uri
        # Neither may stand in a Request-URI (§19.1.1), and a peer's Contact may have both.
        return replace(uri, headers="").without_params("method")

    def _routes(self) -> tuple[NameAddr, ...]:
        if self._strict():
            return (*self.route_set[1:], NameAddr("", self.remote_target))
        return self.route_set
