"""Audio files to and from line PCM: int16, one channel, 8000 samples a second.

libsndfile reads what `<Play>` allows (wav, mp3, aiff, au, gsm, u-law …), soxr resamples; this module only decides
what is audio, and how much of it.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from engine.errors import SwitchhookError

Pcm = NDArray[np.int16]

LINE_RATE = 8000
MAX_SECONDS = 3600  # Twilio drops a call past 40 minutes of one file; an hour of line PCM is 58 MB
MAX_RATE = (
    384_000  # the highest rate any recorder writes; with MIN_RATE it bounds what one input byte can become
)
MIN_RATE = 1000
MAX_CHANNELS = 16
BLOCK_SECONDS = (
    1  # decoded at a time: a small file that unpacks to hours is stopped within a second of its limit
)

INVALID_CONTENT_TYPE = 13420


class AudioError(SwitchhookError):
    """Audio could not be fetched or decoded. `code` is Twilio's error code, the text one plain sentence."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Raw(NamedTuple):
    """A headerless format, as libsndfile must be told of it; always 8000 Hz mono."""

    subtype: str


MULAW, ALAW, GSM = Raw("ULAW"), Raw("ALAW"), Raw("GSM610")

RAW_TYPES = {
    "audio/basic": MULAW,
    "audio/ulaw": MULAW,
    "audio/mulaw": MULAW,
    "audio/x-mulaw": MULAW,
    "audio/x-ulaw": MULAW,
    "audio/pcmu": MULAW,
    "audio/pcma": ALAW,
    "audio/alaw": ALAW,
    "audio/x-alaw": ALAW,
    "audio/gsm": GSM,
    "audio/x-gsm": GSM,
}
RAW_SUFFIXES = {".ul": MULAW, ".ulaw": MULAW, ".mulaw": MULAW, ".al": ALAW, ".alaw": ALAW, ".gsm": GSM}
# Servers that do not know a file say one of these; then the name and the first bytes decide.
VAGUE_TYPES = frozenset(("", "application/octet-stream", "binary/octet-stream", "application/x-download"))
AUDIO_APPLICATIONS = frozenset(("application/ogg", "application/x-ogg"))
# What a file begins with when it has a header: stronger than any content type.
MAGIC = (b"RIFF", b"RIFX", b"RF64", b"FORM", b".snd", b"fLaC", b"OggS", b"caff", b"ID3")


def decode(data: bytes, content_type: str | None, name: str) -> Pcm:
    """A whole file as line PCM, its channels mixed down evenly.

    content_type  the HTTP header's value, None for a local file
    name          URL path or file name: its suffix tells raw formats apart
    Raises AudioError (13420) when it is not audio we read, is broken, or lasts longer than MAX_SECONDS.
    """
    kind = (content_type or "").partition(";")[0].strip().lower()
    if not (kind.startswith("audio/") or kind in VAGUE_TYPES or kind in AUDIO_APPLICATIONS):
        raise AudioError(
            INVALID_CONTENT_TYPE, f"{_short(name)} has content type {kind[:60]!r}, which is no audio."
        )
    try:
        with _open(data, _raw_format(data, kind, name)) as file:
            return _read(file, name)
    except (soundfile.SoundFileError, ValueError, TypeError) as error:
        reason = str(error).rpartition(": ")[2].rstrip(".")
        raise AudioError(INVALID_CONTENT_TYPE, f"{_short(name)} cannot be decoded: {reason}.") from None


def load_file(path: Path) -> Pcm:
    """A local file as line PCM. Raises AudioError when it cannot be read or decoded."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise AudioError(INVALID_CONTENT_TYPE, f"{path} cannot be read: {error.strerror}.") from None
    return decode(data, None, path.name)


def write_wav(path: Path, pcm: Pcm) -> None:
    """Write line PCM as a 16-bit WAV file. Raises AudioError when the file cannot be written."""
    try:
        soundfile.write(path, pcm, LINE_RATE, subtype="PCM_16", format="WAV")
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(INVALID_CONTENT_TYPE, f"{path} cannot be written: {error}") from None


def _raw_format(data: bytes, kind: str, name: str) -> Raw | None:
    if data.startswith(MAGIC):
        return None
    return RAW_TYPES.get(kind) or RAW_SUFFIXES.get(Path(name).suffix.lower())


def _open(data: bytes, raw: Raw | None) -> soundfile.SoundFile:
    stream = io.BytesIO(data)
    if raw is None:
        return soundfile.SoundFile(stream)
    return soundfile.SoundFile(stream, samplerate=LINE_RATE, channels=1, format="RAW", subtype=raw.subtype)


def _read(file: soundfile.SoundFile, name: str) -> Pcm:
    rate = file.samplerate
    if not MIN_RATE <= rate <= MAX_RATE or file.channels > MAX_CHANNELS:
        text = f"{_short(name)} has {rate} samples a second in {file.channels} channels, which is no telephone audio."
        raise AudioError(INVALID_CONTENT_TYPE, text)
    resampler = soxr.ResampleStream(rate, LINE_RATE, 1, dtype="float32", quality="HQ")
    parts: list[Pcm] = []
    left = MAX_SECONDS * rate
    while (block := file.read(BLOCK_SECONDS * rate, dtype="float32", always_2d=True)).size:
        left -= len(block)
        if left < 0:
            raise AudioError(INVALID_CONTENT_TYPE, f"{_short(name)} lasts longer than {MAX_SECONDS} seconds.")
        parts.append(_line(_mixed(block), rate, resampler, last=False))
    parts.append(_line(np.zeros(0, np.float32), rate, resampler, last=True))
    return np.concatenate(parts)


def _mixed(block: NDArray[np.float32]) -> NDArray[np.float32]:
    """One channel; NaN and infinity of a hostile float file become silence before they reach the resampler's state."""
    mono: NDArray[np.float32] = block.mean(axis=1, dtype=np.float32)
    mono[~np.isfinite(mono)] = 0.0
    return mono


def _line(mono: NDArray[np.float32], rate: int, resampler: soxr.ResampleStream, *, last: bool) -> Pcm:
    if rate != LINE_RATE:  # else sample for sample what the file holds
        mono = np.asarray(resampler.resample_chunk(mono, last=last), np.float32)
    pcm: Pcm = np.rint(np.clip(mono * np.float32(32768), -32768, 32767)).astype(np.int16)
    return pcm


def _short(name: str) -> str:
    return name if len(name) <= 120 else f"…{name[-120:]}"
