"""The parameters of webhooks and status callbacks, as the cloud sends them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from datetime import datetime
from email.utils import format_datetime

from engine.schema import CallRow, PendingCallback
from engine.sip.headers import NameAddr
from engine.sip.message import Request
from engine.sip.uri import OtherUri, SipUri

API_VERSION = "2010-04-01"
PLACES = (
    "City",
    "State",
    "Zip",
    "Country",
)  # unknown here, and sent empty as the cloud does when it does not know
MAX_SIP_HEADERS = 30
_E164 = re.compile(r"\+[1-9]\d{6,14}")
_EVENT_STATUS = {"answered": "in-progress"}

Params = list[tuple[str, str]]


def party(address: NameAddr | SipUri | OtherUri) -> str:
    """A SIP address as From and To show it: an E.164 number by itself, anything else as `sip:user@host`."""
    uri = address.uri if isinstance(address, NameAddr) else address
    if not isinstance(uri, SipUri):
        return str(uri)
    if uri.user and _E164.fullmatch(uri.user):
        return uri.user
    host = f"[{uri.host}]" if ":" in uri.host else uri.host
    return f"{uri.scheme}:{uri.user}@{host}" if uri.user else f"{uri.scheme}:{host}"


def call_params(row: CallRow) -> Params:
    """The standard parameters of every voice request (without those of a SIP leg)."""
    params = [
        ("CallSid", row.sid),
        ("AccountSid", row.account_sid),
        ("From", row.from_),
        ("To", row.to),
        ("Caller", row.from_),
        ("Called", row.to),
        ("CallStatus", row.status),
        ("ApiVersion", API_VERSION),
        ("Direction", row.direction),
    ]
    params += [(f"{who}{place}", "") for who in ("From", "To", "Caller", "Called") for place in PLACES]
    optional = {
        "ForwardedFrom": row.forwarded_from,
        "CallerName": row.caller_name,
        "ParentCallSid": row.parent_sid or "",
    }
    return params + [(name, value) for name, value in optional.items() if value]


def sip_params(request: Request, row: CallRow) -> Params:
    """What a SIP leg adds: its domain, Call-ID and source, and every `X-` header as `SipHeader_X-Name`."""
    domain = request.uri.host if isinstance(request.uri, SipUri) else ""
    params = [("SipDomain", domain), ("SipCallId", request.call_id), ("SipSourceIp", row.source_ip)]
    return params + custom_headers(request.headers.items())


def custom_headers(headers: Iterable[tuple[str, str]]) -> Params:
    extra = [(f"SipHeader_{name}", value) for name, value in headers if name.lower().startswith("x-")]
    return extra[:MAX_SIP_HEADERS]


def status_callback(row: CallRow, event: str, now: datetime, sequence: int) -> PendingCallback | None:
    """The callback for one event of a call, or None when nobody asked for it."""
    if not row.status_callback or event not in row.status_callback_event:
        return None
    params = call_params(row)
    params = [
        (name, _EVENT_STATUS.get(event, value) if name == "CallStatus" else value) for name, value in params
    ]
    if event in ("initiated", "ringing"):
        params = [(name, event if name == "CallStatus" else value) for name, value in params]
    params += [
        ("Timestamp", format_datetime(now, usegmt=False)),
        ("CallbackSource", "call-progress-events"),
        ("SequenceNumber", str(sequence)),
    ]
    if event == "completed":
        params += _final_params(row)
    return PendingCallback(
        row.sid, sequence, row.status_callback, row.status_callback_method, tuple(params), now
    )


def _final_params(row: CallRow) -> Params:
    seconds = row.duration or 0
    params = [("CallDuration", str(seconds)), ("Duration", str(math.ceil(seconds / 60)))]
    if row.sip_status is not None:
        params.append(("SipResponseCode", str(row.sip_status)))
    return params
