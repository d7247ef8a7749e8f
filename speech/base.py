"""What speech is made of: the utterance that goes in, line PCM that comes out, the protocol between.

Line PCM is what the whole engine plays: signed 16-bit little-endian, one channel, 8000 samples a second.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import astuple, dataclass
from typing import Protocol

SAMPLE_RATE = 8000
SAMPLE_BYTES = 2

# Twilio warns past 3000 to 5000 characters (13521) and speaks on; past this a document is no prompt any
# more, and one request would hold a speech process for seconds.
MAX_TEXT = 20_000
# No prompt speaks longer than this; a hostile `<break>` or rate cannot fill the disk with silence.
MAX_UTTERANCE_SECONDS = 1800


class SpeechError(Exception):
    """An utterance could not be spoken. The text is one plain sentence for the call's log."""


@dataclass(frozen=True, slots=True)
class SpeechWarning:
    """Speech was rendered, but not as asked: `code` is Twilio's (13511 voice, 13512 language)."""

    code: int
    text: str


@dataclass(frozen=True, slots=True)
class Utterance:
    """What to say and how.

    text      plain words; spoken when `ssml` is None
    ssml      the same as SSML, `<speak>` optional; only tags of `speech.ssml` have an effect
    language  BCP 47 (`en-US`); "" means the voice's own, else US English
    voice     `man`, `woman`, `alice`, `Polly.*`, `Google.*` or espeak's (`pl+f2`); None is `man`;
              `espeak:` or `pyttsx3:` before it chooses the engine
    """

    text: str
    ssml: str | None = None
    language: str = "en-US"
    voice: str | None = None

    def key(self, engine: str) -> str:
        """64 hex digits that change when the sound may: every field and `engine` (its name and version)."""
        fields = "\0".join("\1" if field is None else field for field in (engine, *astuple(self)))
        return hashlib.sha256(fields.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Segment:
    """A finished stretch of a line PCM file: `samples` of it from sample `start`."""

    path: str
    start: int
    samples: int


class Synthesizer(Protocol):
    """An engine that speaks."""

    @property
    def name(self) -> str:
        """What a voice prefix selects: `espeak`, `pyttsx3`."""
        ...

    @property
    def version(self) -> str:
        """Changes when the same utterance may sound different, so that cached prompts are rendered anew."""
        ...

    def supports(self, utterance: Utterance) -> bool:
        """Whether this engine can speak the utterance's language and voice as asked."""
        ...

    def warnings(self, utterance: Utterance) -> tuple[SpeechWarning, ...]:
        """What will sound different from what was asked, known before rendering."""
        ...

    def synthesize(self, utterance: Utterance) -> AsyncIterator[bytes]:
        """Line PCM in pieces of whole samples, the first as early as possible.

        Raises SpeechError. Closing the iterator early cancels the render.
        """
        ...

    async def close(self) -> None:
        """Stop every process; synthesizing again starts a new one."""
        ...


def check_length(utterance: Utterance) -> None:
    """Raise SpeechError when the text is past MAX_TEXT."""
    length = len(utterance.ssml if utterance.ssml is not None else utterance.text)
    if length > MAX_TEXT:
        raise SpeechError(f"The text to speak is {length} characters long; the limit is {MAX_TEXT}.")
