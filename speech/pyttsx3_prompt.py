"""`python -m speech.pyttsx3_prompt FILE VOICE`: the text on stdin becomes FILE, then the process ends.

pyttsx3 is not safe in a server: threads kill the process, of several prompts only the last is written, and
`runAndWait` returns before the file exists. One prompt a process, and a wait for the end, cures all three.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from pathlib import Path

import espeakng_loader

TIMEOUT = 30.0  # seconds; the parent gives up a little later


def render(text: str, voice: str, path: Path) -> None:
    """Write the text, spoken, as a WAV file."""
    # pyttsx3 asks for libespeak-ng.so.1: loaded here under that name, it needs no system package.
    os.environ["ESPEAK_DATA_PATH"] = espeakng_loader.get_data_path()
    ctypes.CDLL(espeakng_loader.get_library_path(), ctypes.RTLD_GLOBAL)
    import pyttsx3

    engine = pyttsx3.init()
    ended = threading.Event()
    engine.connect("finished-utterance", lambda **event: ended.set())
    engine.connect("error", lambda **event: ended.set())
    engine.setProperty("voice", voice)
    engine.save_to_file(text, str(path))
    engine.runAndWait()
    # upstream issue 219: that returns too early; the driver writes the whole file before this event.
    ended.wait(TIMEOUT)


def main() -> None:
    path, voice = Path(sys.argv[1]), sys.argv[2]
    render(sys.stdin.buffer.read().decode("utf-8"), voice, path)
    os._exit(0 if path.exists() else 1)  # espeak's own atexit handlers may crash a finished process


if __name__ == "__main__":
    main()
