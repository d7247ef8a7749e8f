"""libespeak-ng by ctypes, in synchronous retrieval mode: one call renders, a callback gets the samples.

The library is GPL-3 and keeps its state in globals: load it only in a process of its own
(`speech.server`), with one render at a time.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
from collections.abc import Callable

import espeakng_loader
import numpy as np

from speech.base import SpeechError
from speech.shaping import Samples, level_gain
from speech.ssml import Markup, clean_text

# espeak-ng/speak_lib.h
AUDIO_OUTPUT_SYNCHRONOUS = 2
INITIALIZE_DONT_EXIT = 0x8000
CHARS_UTF8 = 1
SSML = 0x10
BUFFER_MS = 20

# Digits are words in every language, so one text measures every voice.
LEVEL_TEXT = "1 2 3 4 5 6 7"
# Raise when rendering or shaping changes, so that cached prompts are not kept.
REVISION = 1

_SynthCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def version() -> str:
    """The library's version and ours, without loading the library."""
    return f"{importlib.metadata.version('espeakng-loader')}-{REVISION}"


class Espeak:
    """The one engine of this process. `rate` is the samples a second it renders, 22050 for every voice."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        self.rate: int = self._library.espeak_Initialize(
            AUDIO_OUTPUT_SYNCHRONOUS, BUFFER_MS, data, INITIALIZE_DONT_EXIT
        )
        if self.rate <= 0:
            raise SpeechError("espeak-ng could not read its voice data.")
        self._receive: Callable[[Samples], bool] = lambda samples: True
        self._callback = _SynthCallback(self._on_samples)  # kept: a collected callback is a crash
        self._library.espeak_SetSynthCallback(self._callback)
        self._gains: dict[str, float] = {}

    def render(self, text: str | Markup, voice: str, receive: Callable[[Samples], bool]) -> None:
        """Give the samples to `receive` as they are made, about 60 ms at a time; its False stops the render.

        Raises SpeechError when espeak has no such voice.
        """
        if isinstance(text, Markup):
            self._synthesize(text.text, voice, SSML, receive)
        else:
            self._synthesize(clean_text(text), voice, 0, receive)

    def gain(self, voice: str) -> float:
        """The factor that brings this voice to the line's level; per voice, so SSML `volume` still counts."""
        if voice not in self._gains:
            parts: list[Samples] = []

            def keep(samples: Samples) -> bool:
                parts.append(samples)
                return True

            self._synthesize(LEVEL_TEXT, voice, 0, keep)
            self._gains[voice] = level_gain(np.concatenate(parts).astype(np.float32)) if parts else 1.0
        return self._gains[voice]

    def _synthesize(self, text: str, voice: str, flags: int, receive: Callable[[Samples], bool]) -> None:
        # Set for every render: SSML and the text itself may have left another voice behind.
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise SpeechError(f"espeak-ng has no voice {voice}.")
        self._receive = receive
        data = text.encode("utf-8", "replace") + b"\0"
        size = ctypes.c_size_t(len(data))
        if self._library.espeak_Synth(data, size, 0, 1, 0, CHARS_UTF8 | flags, None, None):
            raise SpeechError("espeak-ng could not render the text.")

    def _on_samples(self, samples: ctypes._Pointer[ctypes.c_short], count: int, events: int | None) -> int:
        if not samples or count <= 0:
            return 0
        return 0 if self._receive(np.ctypeslib.as_array(samples, (count,)).copy()) else 1
