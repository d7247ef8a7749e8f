"""Telephone events (RFC 4733): keys as packets of their own, in both directions."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from engine.media.protocol import FRAME_SAMPLES, SAMPLE_RATE

EVENT_DIGITS = "0123456789*#ABCD"  # event codes 0 to 15, RFC 4733 §3.2
PAUSES = {"w": SAMPLE_RATE // 2, "W": SAMPLE_RATE}  # TwiML's pauses, in samples
END_OF_EVENT = 0x80
VOLUME = 10  # -10 dBm0, the level a telephone's key has
TONE_FRAMES = 5  # 100 ms on: twice the 40 ms that every receiver must accept
GAP_FRAMES = 5
END_REPEATS = 3  # RFC 4733 §2.5.1.4: the end is sent three times in case one is lost
REMEMBERED = 8  # recent event timestamps, so that an old packet that comes late is no new key
MAX_DURATION = 0xFFFF  # RFC 4733 §2.5.1.3: a longer event goes on in a new segment
SEGMENT_SLACK = 10 * FRAME_SAMPLES  # the last packets of a segment may be lost, and senders round its length

ROW_HZ = (697, 770, 852, 941)
COLUMN_HZ = (1209, 1336, 1477, 1633)
KEYPAD = ("123A", "456B", "789C", "*0#D")


def frequencies(digit: str) -> tuple[int, int]:
    """The two tones of a key in Hz (ITU-T Q.23)."""
    for row, keys in zip(ROW_HZ, KEYPAD, strict=True):
        if digit in keys:
            return row, COLUMN_HZ[keys.index(digit)]
    raise ValueError(f"{digit!r} is not a DTMF digit")


@dataclass(slots=True)
class DigitReceiver:
    """Turns event packets into keys: one key per RTP timestamp, told at the first packet that arrives.

    Neither the marker bit nor the first packet is needed, the clock rate does not matter, repeated end packets
    are the same key, and the reserved bit is ignored (RFC 4733 §2.3.1).
    """

    _seen: deque[int] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    _event: int = -1
    _start: int = 0  # timestamp of the newest event or segment
    _duration: int = -1  # the longest it was said to have lasted; -1 once it ended

    def take(self, timestamp: int, payload: bytes) -> str | None:
        """The key that this packet starts, or None."""
        if len(payload) < 4 or payload[0] >= len(EVENT_DIGITS):
            return None
        event, ended = payload[0], bool(payload[1] & END_OF_EVENT)
        duration = int.from_bytes(payload[2:4], "big")
        new = timestamp not in self._seen and not self._continues(event, timestamp)
        if timestamp not in self._seen:
            self._seen.append(timestamp)
            self._event, self._start, self._duration = event, timestamp, 0
        if timestamp == self._start and self._duration >= 0:
            # An older packet that comes late must not take back what is known of the event.
            self._duration = -1 if ended else max(self._duration, duration)
        return EVENT_DIGITS[event] if new else None

    def _continues(self, event: int, timestamp: int) -> bool:
        whole = MAX_DURATION - SEGMENT_SLACK
        step = (timestamp - self._start) & 0xFFFFFFFF
        return (
            event == self._event and self._duration >= whole and whole <= step <= MAX_DURATION + SEGMENT_SLACK
        )


@dataclass(frozen=True, slots=True)
class EventPacket:
    """One event packet to send, under the RTP timestamp of its event's first packet, which has the marker."""

    payload: bytes
    marker: bool


class DigitSender:
    """The packets of a string of keys, one call of `next_packet` per 20 ms frame. Raises ValueError for no key."""

    def __init__(self, digits: str) -> None:
        self._plan = deque(self._frames(digits))
        self.start = 0  # RTP timestamp of the event being sent, kept by whoever sends it

    @property
    def finished(self) -> bool:
        return not self._plan

    def next_packet(self) -> EventPacket | None:
        """What this frame sends: an event packet, or None for audio as usual."""
        return self._plan.popleft() if self._plan else None

    @staticmethod
    def _frames(digits: str) -> list[EventPacket | None]:
        plan: list[EventPacket | None] = []
        for digit in digits:
            if digit in PAUSES:
                plan += [None] * (PAUSES[digit] // FRAME_SAMPLES)
            else:
                plan += _event_packets(EVENT_DIGITS.index(digit.upper()))
                plan += [None] * GAP_FRAMES
        return plan


def _event_packets(event: int) -> list[EventPacket | None]:
    packets: list[EventPacket | None] = []
    for frame in range(TONE_FRAMES + END_REPEATS - 1):
        duration = min(frame + 1, TONE_FRAMES) * FRAME_SAMPLES
        flags = VOLUME | (END_OF_EVENT if frame >= TONE_FRAMES - 1 else 0)
        payload = bytes([event, flags]) + duration.to_bytes(2, "big")
        packets.append(EventPacket(payload, marker=frame == 0))
    return packets
