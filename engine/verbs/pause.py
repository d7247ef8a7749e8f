"""<Pause>: wait. As a call's first verb it waits before the answer, so it never answers by itself."""

from __future__ import annotations

import asyncio

from engine.verbs.base import NEXT, Call, Outcome
from markup import Pause


async def run(pause: Pause, call: Call) -> Outcome:
    await asyncio.sleep(pause.length)
    return NEXT
