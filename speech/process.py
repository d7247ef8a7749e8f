"""A speech process seen from the engine: started when first needed, started again after it died."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator

from speech.base import SpeechError, Utterance
from speech.messages import LENGTH, Audio, Cancel, Failed, Render, Reply, length, pack, read_reply

# espeak answers within milliseconds of a start that takes half a second: one silent for this long hangs.
REPLY_TIMEOUT = 10.0
CLOSE_TIMEOUT = 2.0


class SpeechProcess:
    """One `speech.server`, one render at a time; the caller sees to that."""

    def __init__(self) -> None:
        self._process: Process | None = None
        self._last_id = 0

    @property
    def pid(self) -> int | None:
        """The running process, None before the first render and after a death that was noticed."""
        return self._process.pid if self._process else None

    async def render(self, utterance: Utterance) -> AsyncGenerator[bytes, None]:
        """Line PCM as it is made. Raises SpeechError when the process dies, hangs or cannot render it."""
        process = await self._running()
        self._last_id += 1
        number = self._last_id
        done = False
        try:
            self._send(
                process, Render(number, utterance.text, utterance.ssml, utterance.language, utterance.voice)
            )
            while isinstance(reply := await self._reply(process, number), Audio):
                yield reply.pcm
            done = True
            if isinstance(reply, Failed):
                raise SpeechError(reply.reason)
        finally:
            # What the cancelled render still sends is skipped by its id when the next one reads.
            if not done and process is self._process:
                self._send(process, Cancel(number))

    async def close(self) -> None:
        """End the process by closing its stdin; kill it when that does not help."""
        process, self._process = self._process, None
        if process is not None:
            await _end(process)

    async def _running(self) -> Process:
        if self._process is not None and self._process.returncode is not None:
            await self.close()
        if self._process is None:
            command = (sys.executable, "-m", "speech.server")
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *command, stdin=PIPE, stdout=PIPE, process_group=0
                )
            except OSError as error:
                raise SpeechError(f"The speech process could not be started: {error}.") from error
        return self._process

    def _send(self, process: Process, message: Render | Cancel) -> None:
        assert process.stdin is not None
        with contextlib.suppress(
            ConnectionError
        ):  # a death is noticed, and reported, when the answer is read
            process.stdin.write(pack(message))

    async def _reply(self, process: Process, number: int) -> Reply:
        """The next answer to this render."""
        try:
            async with asyncio.timeout(REPLY_TIMEOUT):
                while True:
                    if (reply := await _read(process)).id == number:
                        return reply
        except (asyncio.IncompleteReadError, ConnectionError):
            # It has ended by itself: Popen.kill would reap it before asyncio's watcher, and lose its exit status.
            await self._discard(process, kill=False)
            reason = f"The speech process ended while rendering (exit status {process.returncode})."
            raise SpeechError(reason) from None
        except TimeoutError:
            await self._discard(process)
            raise SpeechError(f"The speech process did not answer for {REPLY_TIMEOUT:g} seconds.") from None
        except SpeechError:
            await self._discard(process)  # the stream cannot be read on from here
            raise

    async def _discard(self, process: Process, *, kill: bool = True) -> None:
        if process is self._process:
            self._process = None
        if kill:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await _end(process)


async def _read(process: Process) -> Reply:
    assert process.stdout is not None
    header = await process.stdout.readexactly(LENGTH.size)
    return read_reply(await process.stdout.readexactly(length(header)))


async def _end(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    # communicate() also reads what is left: a process blocked on a full pipe would never see stdin close.
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await process.communicate()
    except TimeoutError:
        process.kill()
        await process.communicate()


async def run_once(*command: str, stdin: bytes, timeout: float) -> int:
    """Run a command to its end, or kill it after `timeout` seconds, and give its exit status.

    Raises SpeechError when it cannot be started or runs out of time.
    """
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=DEVNULL, process_group=0)
    except OSError as error:
        raise SpeechError(f"The speech process could not be started: {error}.") from error
    try:
        async with asyncio.timeout(timeout):
            await process.communicate(stdin)
    except TimeoutError:
        raise SpeechError(f"The speech process did not finish within {timeout:g} seconds.") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0
