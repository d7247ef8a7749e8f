"""The keys a caller has pressed and nobody has read yet."""

from __future__ import annotations

import asyncio
from collections import deque

MAX_KEYS = 128  # unread keys kept; more is a stuck key or an attack


class Keys:
    """A queue of DTMF digits. What is pressed while a webhook is being asked waits for the next Gather."""

    def __init__(self) -> None:
        self._keys: deque[str] = deque(maxlen=MAX_KEYS)
        self._pressed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._keys)

    def press(self, digit: str) -> None:
        self._keys.append(digit)
        self._pressed.set()

    def clear(self) -> None:
        self._keys.clear()
        self._pressed.clear()

    async def wait(self) -> None:
        """Return once there is a key to read."""
        await self._pressed.wait()

    async def get(self) -> str:
        """The oldest unread key; waits for one."""
        await self._pressed.wait()
        digit = self._keys.popleft()
        if not self._keys:
            self._pressed.clear()
        return digit
