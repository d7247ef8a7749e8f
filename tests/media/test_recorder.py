"""Recordings: read back by an independent WAV reader, also while they are being written."""

from __future__ import annotations

import errno
import io
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile

from engine.media.worker.recorder import FLUSH_OCTETS, Recorder

PCM = np.random.default_rng(2).integers(-32768, 32767, 20000).astype(np.int16)


def test_what_is_appended_is_in_the_file(tmp_path: Path) -> None:
    recorder = Recorder(str(tmp_path / "a.wav"))
    for start in range(0, len(PCM), 160):
        recorder.append(PCM[start : start + 160].tobytes())
    recorder.close()
    pcm, rate = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert (rate, pcm.ndim) == (8000, 1)
    assert np.array_equal(pcm, PCM)
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getnframes()) == (1, 2, len(PCM))


def test_the_file_is_playable_while_it_grows_and_lacks_a_second_at_most(tmp_path: Path) -> None:
    recorder = Recorder(str(tmp_path / "a.wav"))
    assert soundfile.read(tmp_path / "a.wav", dtype="int16")[0].size == 0
    for start in range(0, len(PCM), 160):
        recorder.append(PCM[start : start + 160].tobytes())
        there, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
        assert start + 160 - len(there) < FLUSH_OCTETS // 2
        assert np.array_equal(there, PCM[: len(there)])
    recorder.close()


def test_an_unwritable_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Recorder(str(tmp_path / "no" / "a.wav"))


class SmallDisk(io.BytesIO):
    """Takes 100 octets, the first ones in pieces, as a raw file on a full disk does."""

    def write(self, data: object) -> int:
        octets = bytes(data)[:30]  # type: ignore[call-overload]
        if self.tell() + len(octets) > 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(octets)


def test_a_full_disk_is_told_even_when_it_took_a_part(tmp_path: Path) -> None:
    recorder = Recorder(str(tmp_path / "a.wav"))
    recorder._file.close()
    disk = SmallDisk()
    recorder._file = disk  # type: ignore[assignment]
    recorder.append(PCM[:20].tobytes())
    recorder._flush()
    assert disk.getvalue()[44:] == PCM[:20].tobytes()
    recorder.append(PCM[20:60].tobytes())
    with pytest.raises(OSError, match="No space"):
        recorder.close()
    assert disk.closed


def test_four_gigabytes_do_not_break_the_header(tmp_path: Path) -> None:
    recorder = Recorder(str(tmp_path / "a.wav"))
    recorder._written = (1 << 32) - 100  # a sparse file of 74 hours
    recorder.append(PCM[:160].tobytes())
    recorder.close()
    with (tmp_path / "a.wav").open("rb") as file:
        header = file.read(44)
    assert header[4:8] == b"\xff\xff\xff\xff"
    assert (tmp_path / "a.wav").stat().st_size == 44 + (1 << 32) - 100 + 320
