"""`python -m speech.server`: renders by espeak-ng, one request after the other, until its stdin closes.

Rendering is some hundred times faster than speaking, so requests queue. Audio leaves as it is made: a long
text starts to play while the rest of it is still being rendered.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from typing import BinaryIO

from speech.base import MAX_UTTERANCE_SECONDS, SAMPLE_BYTES, SAMPLE_RATE, SpeechError, Utterance
from speech.espeak import Espeak
from speech.messages import LENGTH, Audio, Cancel, Done, Failed, Render, Reply, length, pack, read_request
from speech.shaping import Samples, Shaper
from speech.ssml import Markup, espeak_ssml
from speech.voices import choose_voice

FIRST_PIECE = (
    SAMPLE_RATE * 3 // 10 * SAMPLE_BYTES
)  # 300 ms: rendered in one, and time enough for the next piece
NEXT_PIECE = SAMPLE_RATE // 2 * SAMPLE_BYTES  # then half seconds: few wake-ups at the other end


class Job:
    """One render: collects shaped audio and sends it piece by piece."""

    def __init__(self, server: Server, number: int, rate: int, gain: float) -> None:
        self._server = server
        self._id = number
        self._rate = rate
        self._shaper = Shaper(rate, gain)
        self._allowed = MAX_UTTERANCE_SECONDS * rate  # counted before trimming, which holds pauses in memory
        self._pending = bytearray()
        self._piece = FIRST_PIECE

    def pause(self, milliseconds: int) -> None:
        """Silence that was asked for at an edge, where silence is trimmed."""
        self._allowed -= self._rate * milliseconds // 1000
        self._check_length()
        self._pending += bytes(SAMPLE_RATE * milliseconds // 1000 * SAMPLE_BYTES)

    def receive(self, samples: Samples) -> bool:
        """What espeak's callback gets; False stops it."""
        self._allowed -= samples.size
        self._pending += self._shaper.feed(samples)
        while len(self._pending) >= self._piece:
            self._send(self._piece)
            self._piece = NEXT_PIECE
        return not self._server.is_cancelled(self._id) and self._allowed >= 0

    def finish(self, tail_ms: int) -> None:
        self._check_length()
        self._pending += self._shaper.finish()
        self.pause(tail_ms)
        while self._pending and not self._server.is_cancelled(self._id):
            self._send(NEXT_PIECE)

    def _check_length(self) -> None:
        if self._allowed < 0:
            raise SpeechError(f"The text takes more than {MAX_UTTERANCE_SECONDS} seconds to speak.")

    def _send(self, size: int) -> None:
        self._server.send(Audio(self._id, bytes(self._pending[:size])))
        del self._pending[:size]


class Server:
    """The requests in order, the cancelled ones beside them, and the pipe back."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source = source
        self._sink = sink
        self._requests: queue.SimpleQueue[Render] = queue.SimpleQueue()
        self._cancelled: set[int] = set()
        self._engine = Espeak()

    def run(self) -> None:
        # A thread of its own, because a Cancel must be seen while the main thread is inside espeak.
        threading.Thread(target=self._read, daemon=True).start()
        while True:
            self._serve(self._requests.get())

    def send(self, reply: Reply) -> None:
        try:
            self._sink.write(pack(reply))
            self._sink.flush()
        except OSError:
            os._exit(0)  # the engine is gone, and espeak cannot be left by an exception

    def is_cancelled(self, number: int) -> bool:
        return number in self._cancelled

    def _serve(self, request: Render) -> None:
        try:
            if not self.is_cancelled(request.id):
                self._render(request)
            self.send(Done(request.id))
        except SpeechError as error:
            self.send(Failed(request.id, str(error)))
        finally:
            # Ids only grow: this also forgets a Cancel that came after its render's end.
            self._cancelled.difference_update(
                [number for number in tuple(self._cancelled) if number <= request.id]
            )

    def _render(self, request: Render) -> None:
        utterance = Utterance(request.text, request.ssml, request.language, request.voice)
        voice = choose_voice(utterance).name
        markup = Markup("") if request.ssml is None else espeak_ssml(request.ssml)
        job = Job(self, request.id, self._engine.rate, self._engine.gain(voice))
        job.pause(markup.lead_ms)
        self._engine.render(request.text if request.ssml is None else markup, voice, job.receive)
        job.finish(markup.tail_ms)

    def _read(self) -> None:
        while header := self._source.read(LENGTH.size):
            request = read_request(self._source.read(length(header)))
            if isinstance(request, Cancel):
                self._cancelled.add(request.id)
            else:
                self._requests.put(request)
        os._exit(0)


def main() -> None:
    # Whatever a C library prints goes to stderr: one stray byte on the pipe breaks every message after it.
    sink = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # Ctrl-C reaches the whole process group; the engine decides when speech ends, by closing stdin.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Server(sys.stdin.buffer, sink).run()


if __name__ == "__main__":
    main()
