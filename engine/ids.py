"""One source of randomness for identifiers, replaceable so that a test's messages are the same every run."""

from __future__ import annotations

import random
import secrets
from typing import Protocol

BRANCH_COOKIE = "z9hG4bK"  # RFC 3261 §8.1.1.7: marks a branch as unique in space and time


class Ids(Protocol):
    """What SIP, RTP and the API need drawn at random."""

    def hex(self, digits: int) -> str:
        """Lower-case hexadecimal digits, unguessable in production."""
        ...

    def number(self, bits: int) -> int:
        """A uniform number below 2**bits (SSRC, first sequence number, first timestamp)."""
        ...


class RandomIds:
    """Identifiers from the operating system: SIDs and tags double as capabilities, so they must not be guessed."""

    def hex(self, digits: int) -> str:
        return secrets.token_hex((digits + 1) // 2)[:digits]

    def number(self, bits: int) -> int:
        return secrets.randbits(bits)


class SeededIds:
    """The same identifiers in the same order every run, for tests and replays."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)

    def hex(self, digits: int) -> str:
        return f"{self._random.getrandbits(4 * digits):0{digits}x}"

    def number(self, bits: int) -> int:
        return self._random.getrandbits(bits)


def sid(ids: Ids, prefix: str) -> str:
    """A resource identifier as the REST API spells it: two letters (`CA`, `RE`, `AC` …) and 32 hex digits."""
    return prefix + ids.hex(32)


def branch(ids: Ids) -> str:
    """A Via branch parameter, RFC 3261 §8.1.1.7."""
    return BRANCH_COOKIE + ids.hex(20)


TAG_DIGITS = 12


def tag(ids: Ids) -> str:
    """A From or To tag: at least 32 bits of randomness (RFC 3261 §19.3)."""
    return ids.hex(TAG_DIGITS)


def is_tag(text: str) -> bool:
    """Whether `tag` may have made this: a tag of another shape was never ours, before a restart either."""
    return len(text) == TAG_DIGITS and all(digit in "0123456789abcdef" for digit in text)
