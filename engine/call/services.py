"""What every call needs from the engine, handed over by the composition root."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.call.instructions import Sources
from engine.callbacks import Outbox
from engine.clock import Clock
from engine.ids import Ids
from engine.media.fetch import MediaFetcher
from engine.media.pool import MediaPool
from engine.schema import Account
from engine.store import Store
from speech.cache import PromptCache

MAX_CALL_SECONDS = 14_400  # four hours, the dialect's own limit: no call outlives a forgotten hang-up


@dataclass(frozen=True, slots=True)
class Services:
    """Shared by all calls of an engine; nothing here belongs to one call."""

    clock: Clock
    ids: Ids
    account: Account
    store: Store
    outbox: Outbox
    pool: MediaPool
    sources: Sources
    prompts: PromptCache
    sounds: MediaFetcher
    address_of: Callable[[str], str]  # what SDP says for a leg whose ports are bound on this host
    media_timeout: float = 30.0
    max_call_seconds: float = MAX_CALL_SECONDS
