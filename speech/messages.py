"""What the engine and a speech process say to each other: msgpack behind four length bytes, over a pipe."""

from __future__ import annotations

import struct

import msgspec

from speech.base import SpeechError

LENGTH = struct.Struct(">I")
MAX_MESSAGE = 1 << 20  # audio goes in half seconds; more than this means that the two ends disagree


class Render(msgspec.Struct, tag=True, frozen=True):
    """Speak this; `id` returns with every answer."""

    id: int
    text: str
    ssml: str | None
    language: str
    voice: str | None


class Cancel(msgspec.Struct, tag=True, frozen=True):
    """Nobody listens to this render any more; it still ends with Done or Failed."""

    id: int


class Audio(msgspec.Struct, tag=True, frozen=True):
    """The next piece of line PCM."""

    id: int
    pcm: bytes


class Done(msgspec.Struct, tag=True, frozen=True):
    """The render is complete, or was cancelled."""

    id: int


class Failed(msgspec.Struct, tag=True, frozen=True):
    """The render ended early; `reason` is a plain sentence."""

    id: int
    reason: str


Request = Render | Cancel
Reply = Audio | Done | Failed

_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def pack(message: Request | Reply) -> bytes:
    body = msgspec.msgpack.encode(message)
    return LENGTH.pack(len(body)) + body


def length(header: bytes) -> int:
    """The size of the message behind this header. Raises SpeechError past MAX_MESSAGE."""
    (size,) = LENGTH.unpack(header)
    if size > MAX_MESSAGE:
        raise SpeechError(f"The speech process announced a message of {size} bytes.")
    return int(size)


def read_request(body: bytes) -> Request:
    return _requests.decode(body)


def read_reply(body: bytes) -> Reply:
    """Raises SpeechError when the process wrote something else."""
    try:
        return _replies.decode(body)
    except msgspec.DecodeError:
        raise SpeechError("The speech process wrote something that is no answer.") from None
