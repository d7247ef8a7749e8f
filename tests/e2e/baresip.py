"""A real baresip as the telephone: driven over its control socket, listening through its own recorder."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import wave
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.e2e.audio import RATE, Pcm, read_wav
from tests.e2e.conftest import NOTE_SECONDS
from tests.e2e.sipp import free_port

MODULES = ("g711", "aufile", "aubridge", "sndfile", "uuid")
APPS = ("menu", "ctrl_tcp")
TONE_SECONDS = 30
MODULE_PATHS = (Path("/usr/lib/baresip/modules"), Path("/usr/local/lib/baresip/modules"))
needs_baresip = pytest.mark.skipif(shutil.which("baresip") is None, reason="baresip is not installed")

CONFIG = """\
sip_listen 127.0.0.1:{sip}
net_interface 127.0.0.1
rtp_ports {rtp}-{rtp_end}
audio_source aufile,{folder}/tone.wav
audio_player aubridge,ear
audio_alert aubridge,bell
ausrc_srate 8000
auplay_srate 8000
jitter_buffer_delay 1-5
rtp_stats yes
snd_path {folder}
ctrl_tcp_listen 127.0.0.1:{control}
"""


class Baresip:
    """One telephone. `command` returns its answer, `event` waits for the next event of a kind."""

    def __init__(self, folder: Path, codec: str) -> None:
        self.folder = folder
        self.codec = codec
        self._log = folder / "log"
        self.events: list[dict[str, Any]] = []
        self._changed = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._tokens = 0
        self._answers: dict[str, asyncio.Future[dict[str, Any]]] = {}

    async def command(self, name: str, params: str = "") -> str:
        """Tell it something; returns what it prints."""
        self._tokens += 1
        token = str(self._tokens)
        answer = self._answers[token] = asyncio.get_running_loop().create_future()
        text = json.dumps({"command": name, "params": params, "token": token}).encode()
        self._writer.write(b"%d:%s," % (len(text), text))
        async with asyncio.timeout(NOTE_SECONDS):
            return str((await answer).get("data", ""))

    async def event(self, kind: str, count: int = 1) -> dict[str, Any]:
        """The `count`-th event of this kind."""
        try:
            async with asyncio.timeout(NOTE_SECONDS):
                while len(found := [event for event in self.events if event["type"] == kind]) < count:
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"baresip told no {kind}: {self.events}") from None
        return found[count - 1]

    def heard(self) -> list[Pcm]:
        """What it recorded, a recording for each time its audio was started; complete once it has left."""
        return [read_wav(path) for path in sorted(self.folder.glob("*-dec.wav"))]

    def packets_received(self) -> int:
        """RTP packets of its last call, as it counted them at the end."""
        counts = re.findall(r"^packets:\s+\d+\s+(\d+)", self._log.read_text(errors="replace"), re.MULTILINE)
        assert counts, "baresip has not ended a call yet"
        return int(counts[-1])

    async def start(self) -> None:
        ports = await asyncio.to_thread(self._write_config)
        command = ("baresip", "-f", str(self.folder))
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=asyncio.subprocess.STDOUT
            )
        self._reader, self._writer = await self._connect(ports)
        self._reading = asyncio.create_task(self._read())

    async def stop(self) -> None:
        """Let it leave, which completes its recordings."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), 5)
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
            self._writer.close()

    def _write_config(self) -> int:
        self.folder.mkdir()
        modules = next((path for path in MODULE_PATHS if path.is_dir()), None)
        lines = [f"module_path {modules}"] if modules is not None else []
        lines += [f"module {name}.so" for name in MODULES] + ["module_tmp account.so"]
        lines += [f"module_app {name}.so" for name in APPS]
        rtp, control = free_port(), free_port()
        config = CONFIG.format(
            sip=free_port(), rtp=rtp, rtp_end=rtp + 20, control=control, folder=self.folder
        )
        (self.folder / "config").write_text(config + "\n".join(lines) + "\n")
        account = f"<sip:bare@127.0.0.1>;regint=0;audio_codecs={self.codec}/8000/1;dtmfmode=rtpevent"
        (self.folder / "accounts").write_text(account + "\n")
        (self.folder / "contacts").write_text("")
        write_tone(self.folder / "tone.wav")
        return control

    async def _connect(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(NOTE_SECONDS):
            while True:
                try:
                    return await asyncio.open_connection("127.0.0.1", port)
                except ConnectionRefusedError:
                    assert self._process is not None
                    assert self._process.returncode is None, self._log.read_text(errors="replace")
                    await asyncio.sleep(0.02)  # it says nothing when it is ready

    async def _read(self) -> None:
        while head := await self._reader.readuntil(b":"):
            text = await self._reader.readexactly(int(head[:-1]))
            await self._reader.readexactly(1)
            message = json.loads(text)
            if message.get("event"):
                self.events.append(message)
                self._changed.set()
                self._changed = asyncio.Event()
            elif (answer := self._answers.pop(str(message.get("token")), None)) is not None:
                answer.set_result(message)


@contextlib.asynccontextmanager
async def baresip(folder: Path, codec: str = "PCMU") -> AsyncIterator[Baresip]:
    """A running baresip whose only codec is `codec`; its files are in `folder`, which it makes."""
    phone = Baresip(folder, codec)
    try:
        await phone.start()
        yield phone
    finally:
        await phone.stop()


def write_tone(path: Path) -> None:
    """What the caller says: a tone, long enough for any call here."""
    moments = np.arange(TONE_SECONDS * RATE) / RATE
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((8000 * np.sin(2 * np.pi * 440 * moments)).astype("<i2").tobytes())
