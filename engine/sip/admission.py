"""Whether a request may be looked at by its method: the checks of RFC 3261 §8.2.1 to §8.2.3, in their order.

Pure functions: a request in, the refusal to send out, or None.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.sip.message import Request
from engine.sip.uri import SipUri

METHODS = ("INVITE", "ACK", "BYE", "CANCEL", "OPTIONS", "INFO")
ALLOW = ", ".join(METHODS)
# Methods we know of but do not serve get 405; a method nobody registered gets 501 (§8.2.1, §21.5.2).
KNOWN = {*METHODS, "REGISTER", "PRACK", "SUBSCRIBE", "NOTIFY", "UPDATE", "MESSAGE", "REFER", "PUBLISH"}
EXTENSIONS: frozenset[str] = frozenset()  # option tags we can honour in Require
SDP = "application/sdp"
INFO_TYPES = ("application/dtmf-relay", "application/dtmf")
BODIES = {"INVITE": (SDP,), "ACK": (SDP,), "INFO": INFO_TYPES}
ACCEPT = f"{SDP}, {', '.join(INFO_TYPES)}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A final response in the making."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()


def refuse(request: Request) -> Refusal | None:
    """The refusal that RFC 3261 asks for, or None when the request may be processed."""
    return (
        _refuse_method(request)
        or _refuse_scheme(request)
        or _refuse_hops(request)
        or _refuse_extensions(request)
        or _refuse_body(request)
        or _refuse_accept(request)
    )


def _refuse_method(request: Request) -> Refusal | None:
    if request.method in METHODS:
        return None
    return Refusal(405, (("Allow", ALLOW),)) if request.method in KNOWN else Refusal(501)


def _refuse_scheme(request: Request) -> Refusal | None:
    return None if isinstance(request.uri, SipUri) else Refusal(416)


def _refuse_hops(request: Request) -> Refusal | None:
    # A call that arrives may be sent on by its app, so a loop through us must run out here (RFC 7332 §5).
    # OPTIONS with zero hops is meant for whoever it has reached (§11).
    return Refusal(483) if request.max_forwards == 0 and request.method == "INVITE" else None


def _refuse_extensions(request: Request) -> Refusal | None:
    if request.method in ("ACK", "CANCEL"):  # §8.2.2.3: they must not be refused for this
        return None
    unknown = [tag for tag in request.headers.all("Require") if tag not in EXTENSIONS]
    return Refusal(420, (("Unsupported", ", ".join(unknown)),)) if unknown else None


def _refuse_body(request: Request) -> Refusal | None:
    if not request.body or request.method not in BODIES or request.method == "ACK":
        return None
    if _is_optional(request):
        return None
    encodings = [each for each in request.headers.all("Content-Encoding") if each.lower() != "identity"]
    if encodings:
        return Refusal(415, (("Accept-Encoding", "identity"),))
    kind = request.content_type
    if kind is None or f"{kind.type}/{kind.subtype}" not in BODIES[request.method]:
        return Refusal(415, (("Accept", ", ".join(BODIES[request.method])),))
    return None


def _is_optional(request: Request) -> bool:
    disposition = (request.headers.get("Content-Disposition") or "").replace(" ", "").lower()
    return "handling=optional" in disposition


def _refuse_accept(request: Request) -> Refusal | None:
    if request.method != "INVITE" or "Accept" not in request.headers:
        return None
    ranges = {each.split(";")[0].strip().lower() for each in request.headers.all("Accept")}
    return None if ranges & {SDP, "application/*", "*/*"} else Refusal(406, (("Accept", SDP),))
