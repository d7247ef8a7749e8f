"""Keys in SIP INFO: `application/dtmf-relay` (Signal=5) and `application/dtmf` (5), as phones send them."""

from __future__ import annotations

import re

from engine.sip.message import Request

KEYS = "0123456789*#ABCD"
_SIGNAL = re.compile(r"^\s*Signal\s*=\s*(\S+)", re.IGNORECASE | re.MULTILINE)
_EVENT_CODES = {
    "10": "*",
    "11": "#",
    "12": "A",
    "13": "B",
    "14": "C",
    "15": "D",
}  # some phones send event numbers


def digit(request: Request) -> str | None:
    """The key that an INFO reports, or None when it reports something else."""
    kind = request.content_type
    if kind is None or kind.type != "application":
        return None
    text = request.body[:200].decode("ascii", "replace")
    if kind.subtype == "dtmf-relay":
        found = _SIGNAL.search(text)
        return _key(found[1]) if found is not None else None
    return _key(text.strip()) if kind.subtype == "dtmf" else None


def _key(text: str) -> str | None:
    key = _EVENT_CODES.get(text, text.upper())
    return key if len(key) == 1 and key in KEYS else None
