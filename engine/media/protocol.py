"""What call control and a media worker say to each other, over one SOCK_SEQPACKET socket pair.

Small typed messages only: audio never crosses, it is named by file (`Clip`). A `leg` is a number that call
control chose; a `play` numbers one playout on that leg, so that a late event of an earlier playout is told
apart from the current one.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

SAMPLE_RATE = 8000
FRAME_SAMPLES = 160  # 20 ms at 8 kHz: what every phone sends and expects (RFC 3551 §4.2)
MAX_MESSAGE = 65536  # one SOCK_SEQPACKET message; clips are listed in pieces well under it

PCMU = 0
PCMA = 8


class Clip(msgspec.Struct, frozen=True, array_like=True):
    """A stretch of a file of line PCM (signed 16-bit little-endian, mono, 8 kHz), in samples."""

    path: str
    start: int
    samples: int


# --- call control → worker -------------------------------------------------------------------------------


class Open(msgspec.Struct, frozen=True, tag=True):
    """Bind a port pair on `host` for `leg`; answered by `Opened` or `OpenFailed`."""

    leg: int
    host: str


class Aim(msgspec.Struct, frozen=True, tag=True):
    """What an offer/answer exchange settled: where to send, in which codec, which directions.

    `host` may be a name: nothing is looked up, sending begins once the far end is heard, to where that came
    from. RTCP goes to numeric hosts only. A changed remote address lifts the source lock. `timeout` is in
    seconds without a packet before `MediaTimeout`; 0 turns the watch off (hold).
    """

    leg: int
    host: str
    port: int
    rtcp_host: str
    rtcp_port: int
    payload_type: int
    receive_type: int  # the codec's number towards us: a far end may have its own (RFC 3264 §6.1)
    codec: int
    dtmf_payload_type: int | None
    dtmf_receive_type: int | None  # what the far end uses towards us, if it numbers differently
    send: bool
    receive: bool
    timeout: float


class Play(msgspec.Struct, frozen=True, tag=True):
    """Start playing clips, replacing what played. `loops` 0 is forever. Without `last`, more will follow.

    A digit among `interrupt_on` ends the playout in the worker itself, in the tick that saw the key.
    """

    leg: int
    play: int
    clips: tuple[Clip, ...]
    last: bool = True
    loops: int = 1
    interrupt_on: str = ""


class Extend(msgspec.Struct, frozen=True, tag=True):
    """More clips for a playout that is still being rendered."""

    leg: int
    play: int
    clips: tuple[Clip, ...]
    last: bool


class Stop(msgspec.Struct, frozen=True, tag=True):
    """End the playout now; the answer is its `PlayDone` with `completed` false."""

    leg: int
    play: int


class SendDigits(msgspec.Struct, frozen=True, tag=True):
    """Send DTMF (`0-9A-D*#`, `w` half a second, `W` one second) as RFC 4733 events, or as tones without them."""

    leg: int
    play: int
    digits: str


class Record(msgspec.Struct, frozen=True, tag=True):
    """Write what is heard from the far end, after the jitter buffer, to a WAV file."""

    leg: int
    path: str


class StopRecord(msgspec.Struct, frozen=True, tag=True):
    leg: int


class Close(msgspec.Struct, frozen=True, tag=True):
    """Give the ports back; answered by `Closed` with the final statistics."""

    leg: int


class Shutdown(msgspec.Struct, frozen=True, tag=True):
    """Close every leg and leave."""


# --- worker → call control -------------------------------------------------------------------------------


class Quality(msgspec.Struct, frozen=True):
    """One leg's RTP in both directions. Jitter and round trip in milliseconds (RFC 3550 §6.4, A.8)."""

    packets_received: int = 0
    packets_lost: int = 0
    packets_late: int = 0
    packets_sent: int = 0
    jitter_ms: float = 0.0
    remote_packets_lost: int | None = None
    remote_jitter_ms: float | None = None
    round_trip_ms: float | None = None
    source: str | None = None


class Opened(msgspec.Struct, frozen=True, tag=True):
    leg: int
    port: int


class OpenFailed(msgspec.Struct, frozen=True, tag=True):
    leg: int
    reason: str


class SourceLocked(msgspec.Struct, frozen=True, tag=True):
    """The first valid packet came from here; nobody else is heard any more."""

    leg: int
    host: str
    port: int


class Digit(msgspec.Struct, frozen=True, tag=True):
    """A key, reported at its first packet, once per RTP timestamp (RFC 4733 §2.5.1)."""

    leg: int
    digit: str


class PlayDone(msgspec.Struct, frozen=True, tag=True):
    """A playout ended. `samples` is how much of it went out on the wire."""

    leg: int
    play: int
    completed: bool
    samples: int


class MediaTimeout(msgspec.Struct, frozen=True, tag=True):
    leg: int
    seconds: float


class Trouble(msgspec.Struct, frozen=True, tag=True):
    """Something on this leg did not work (an unreadable clip, a full disk) and the call should know."""

    leg: int
    text: str


class Closed(msgspec.Struct, frozen=True, tag=True):
    leg: int
    quality: Quality


class WorkerReport(msgspec.Struct, frozen=True, tag=True):
    """Once a second while there are legs: the health of the tick."""

    legs: int
    ticks: int
    late_ticks: int
    skipped_ticks: int
    worst_late_ms: float
    cpu_seconds: float
    packets_received: int
    packets_sent: int
    packets_dropped: int


Command: TypeAlias = Open | Aim | Play | Extend | Stop | SendDigits | Record | StopRecord | Close | Shutdown
Event: TypeAlias = (
    Opened | OpenFailed | SourceLocked | Digit | PlayDone | MediaTimeout | Trouble | Closed | WorkerReport
)

_encoder = msgspec.msgpack.Encoder()
_commands: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_events: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)


def encode(message: Command | Event) -> bytes:
    return _encoder.encode(message)


def decode_command(data: bytes) -> Command:
    return _commands.decode(data)


def decode_event(data: bytes) -> Event:
    return _events.decode(data)
