"""What was heard, written as it comes: a WAV file that is playable at every moment."""

from __future__ import annotations

import struct
from pathlib import Path

from engine.media.protocol import SAMPLE_RATE

FLUSH_OCTETS = 2 * SAMPLE_RATE  # header and data reach the file once a second: what a crash can cost
_HEADER_OCTETS = 44
_MAX_DATA = 0xFFFFFFFF - 36  # RIFF counts in 32 bits: 74 hours; what follows is written but not counted


def _wav_header(data_octets: int) -> bytes:
    """RIFF/WAVE, PCM, mono, 16 bits at 8 kHz."""
    data_octets = min(data_octets, _MAX_DATA)
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", 36 + data_octets, b"WAVE", b"fmt ", 16, 1, 1),
        *(SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16, b"data", data_octets),
    )


class Recorder:
    """Appends line PCM to a WAV file. Raises OSError when the disk does not take it."""

    def __init__(self, path: str) -> None:
        self._file = Path(path).open("wb", buffering=0)  # noqa: SIM115 - closed by close()
        self._pending = bytearray()
        self._written = 0
        try:
            self._write_all(_wav_header(0))
        except OSError:
            self._file.close()
            raise

    def append(self, pcm: bytes | memoryview) -> None:
        """Line PCM, signed 16-bit little-endian. Raises OSError once a second at most: in between it is kept."""
        self._pending += pcm
        if len(self._pending) >= FLUSH_OCTETS:
            self._flush()

    def close(self) -> None:
        try:
            self._flush()
        finally:
            self._file.close()

    def _flush(self) -> None:
        self._file.seek(_HEADER_OCTETS + self._written)
        self._write_all(self._pending)
        self._written += len(self._pending)
        self._pending.clear()
        self._file.seek(0)
        self._write_all(_wav_header(self._written))

    def _write_all(self, data: bytes | bytearray) -> None:
        # A raw write stops short without an error when the disk fills up; the next one tells.
        done = 0
        while done < len(data):
            done += self._file.write(data[done:])
