"""<Redirect>, <Hangup>, <Reject>: where the call goes instead of on."""

from __future__ import annotations

from engine.call import ending
from engine.verbs.base import NEXT, Call, Fetch, Finish, Outcome
from markup import Hangup, Redirect, Reject


async def redirect(verb: Redirect, call: Call) -> Outcome:
    """Another document; a call that rings keeps ringing."""
    return Fetch(verb.url, verb.method)


async def hangup(verb: Hangup, call: Call) -> Outcome:
    """End the call; as a first verb it answers before, as the dialect has it: a refusal is <Reject>'s business."""
    await call.answer()
    return Finish(ending.HANGUP)


async def reject(verb: Reject, call: Call) -> Outcome:
    """Refuse a call that rings. One that was answered cannot be refused any more."""
    if call.is_answered:
        call.note("warning", code=12200, text="Reject only works before the call is answered", line=verb.line)
        return NEXT
    return Finish(ending.BUSY if verb.reason == "busy" else ending.REJECTED)
