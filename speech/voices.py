"""From a TwiML voice and language to a voice that espeak-ng has.

The cloud's voices are not here, so each falls to a voice of its language, man or woman where that is known;
what cannot be matched is spoken all the same, with the warning Twilio gives (13511 voice, 13512 language).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

import espeakng_loader

from speech.base import SpeechWarning, Utterance

UNKNOWN_VOICE = 13511
UNKNOWN_LANGUAGE = 13512

DEFAULT_LANGUAGE = "en-us"
MALE, FEMALE = "m3", "f3"  # espeak variants: the clearest pair through G.711

# BCP 47 tags that espeak-ng spells otherwise, or speaks by a neighbour.
ALIASES: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("en", "en-ca", "en-ph"), "en-us"),
        **dict.fromkeys(("en-au", "en-nz", "en-ie", "en-in", "en-za"), "en-gb"),
        "en-gb-wls": "en-gb",
        **dict.fromkeys(("es-mx", "es-us", "es-ar", "es-co", "es-cl", "es-pe", "es-ve"), "es-419"),
        **dict.fromkeys(("fr", "fr-ca"), "fr-fr"),
        **dict.fromkeys(("zh", "zh-cn", "zh-tw", "cmn-cn", "cmn-tw"), "cmn"),
        **dict.fromkeys(("zh-hk", "yue-cn", "yue-hk"), "yue"),
        **dict.fromkeys(("arb", "ar-xa"), "ar"),
        **dict.fromkeys(("no", "nn"), "nb"),
        "iw": "he",
        "in": "id",
    }
)

# Amazon Polly's voices: the language each one speaks, women first.
_POLLY = {
    "en-us": (
        "Danielle Gregory Ivy Joanna Kendra Kimberly Salli Ruth",
        "Joey Justin Kevin Matthew Stephen Patrick",
    ),
    "en-gb": ("Amy Emma", "Brian Arthur"),
    "en-au": ("Nicole Olivia", "Russell"),
    "en-in": ("Raveena Kajal", ""),
    "en-ie": ("Niamh", ""),
    "en-nz": ("Aria", ""),
    "en-za": ("Ayanda", ""),
    "en-gb-wls": ("", "Geraint"),
    "hi-in": ("Aditi", ""),
    "es-es": ("Conchita Lucia", "Enrique Sergio Raul"),
    "es-mx": ("Mia", "Andres"),
    "es-us": ("Penelope Lupe", "Miguel Pedro"),
    "pt-br": ("Vitoria Camila", "Ricardo Thiago"),
    "pt-pt": ("Ines", "Cristiano"),
    "fr-fr": ("Celine Lea", "Mathieu Remi"),
    "fr-ca": ("Chantal Gabrielle", "Liam"),
    "fr-be": ("Isabelle", ""),
    "de-de": ("Marlene Vicki", "Hans Daniel"),
    "de-at": ("Hannah", ""),
    "de-ch": ("Sabrina", ""),
    "it-it": ("Carla Bianca", "Giorgio Adriano"),
    "nl-nl": ("Lotte Laura", "Ruben"),
    "nl-be": ("Lisa", ""),
    "da-dk": ("Naja Sofie", "Mads"),
    "nb-no": ("Liv Ida", ""),
    "sv-se": ("Astrid Elin", ""),
    "fi-fi": ("Suvi", ""),
    "is-is": ("Dora", "Karl"),
    "pl-pl": ("Ewa Maja Ola", "Jacek Jan"),
    "ru-ru": ("Tatyana", "Maxim"),
    "ro-ro": ("Carmen", ""),
    "cs-cz": ("Jitka", ""),
    "tr-tr": ("Filiz Burcu", ""),
    "cy-gb": ("Gwyneth", ""),
    "ca-es": ("Arlet", ""),
    "arb": ("Zeina", ""),
    "ar-ae": ("Hala", "Zayd"),
    "ja-jp": ("Mizuki Kazuha Tomoko", "Takumi"),
    "ko-kr": ("Seoyeon Jihye", ""),
    "cmn-cn": ("Zhiyu", ""),
    "yue-cn": ("Hiujin", ""),
}
POLLY_VOICES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        voice.lower(): (language, variant)
        for language, groups in _POLLY.items()
        for group, variant in zip(groups, (FEMALE, MALE), strict=True)
        for voice in group.split()
    }
)
_POLLY_NAME = re.compile(r"polly\.([a-z]+)(?:-(?:neural|generative|long-form|bilingual))*", re.IGNORECASE)
_GOOGLE_NAME = re.compile(r"google\.([a-z]{2,3}-[a-z]{2})-\w+(?:-\w+)*?-(\w+)", re.IGNORECASE)
_GOOGLE_MEN = frozenset("BDIJ")  # Google letters its voices; most languages give these to men
_BASIC = MappingProxyType({"man": MALE, "woman": FEMALE, "alice": FEMALE})
_VARIANT_NAME = re.compile(r"[a-z]\w{0,15}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class VoiceChoice:
    """The espeak voice (`gmw/en-US+f3`: file and variant), its language, and what differs from the asked."""

    name: str
    language: str
    warnings: tuple[SpeechWarning, ...] = ()


@cache
def languages() -> Mapping[str, str]:
    """espeak-ng's languages, lower case, and the voice file of each (`pl` to `zlw/pl`).

    Read from the data files, so that the engine itself (GPL-3) is not loaded to answer this.
    """
    root = Path(espeakng_loader.get_data_path()) / "lang"
    found: dict[str, str] = {}
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        for line in file.read_text("utf-8", "replace").splitlines():
            if line.startswith("language "):
                found.setdefault(line.split()[1].lower(), file.relative_to(root).as_posix())
    return MappingProxyType(found)


def find_language(tag: str) -> str | None:
    """espeak's language for a BCP 47 tag, the region dropped if it must be; None if it has none."""
    tag = tag.strip().lower().replace("_", "-")
    while tag:
        for candidate in (ALIASES.get(tag, tag), tag):
            if candidate in languages():
                return candidate
        tag = tag.rpartition("-")[0]
    return None


def choose_voice(utterance: Utterance) -> VoiceChoice:
    """Never fails: an unknown voice gives its language's own, an unknown language US English, and a warning."""
    voice = (utterance.voice or "").rpartition(":")[2]
    spoken, variant, known = _read_voice(voice)
    language = _merge_languages(utterance.language, spoken)
    warnings = []
    if not known:
        warnings.append(
            SpeechWarning(
                UNKNOWN_VOICE, f"Voice {voice[:80]!r} is not known here; the language's own is used."
            )
        )
    found = find_language(language)
    if found is None:
        text = f"Language {language[:40]!r} cannot be spoken here; US English is used."
        warnings.append(SpeechWarning(UNKNOWN_LANGUAGE, text))
        found = DEFAULT_LANGUAGE
    name = languages()[found] + (f"+{variant}" if variant else "")
    return VoiceChoice(name, found, tuple(warnings))


def _read_voice(voice: str) -> tuple[str, str, bool]:
    """A voice's own language ("" if it has none), its variant, and whether the voice is known."""
    if not voice:
        return "", MALE, True  # TwiML: the default voice is `man`
    if voice.lower() in _BASIC:
        return "", _BASIC[voice.lower()], True
    if (polly := _POLLY_NAME.fullmatch(voice)) and polly[1].lower() in POLLY_VOICES:
        return *POLLY_VOICES[polly[1].lower()], True
    if google := _GOOGLE_NAME.fullmatch(voice):
        return google[1], MALE if google[2].upper() in _GOOGLE_MEN else FEMALE, True
    return _read_espeak(voice)


def _read_espeak(voice: str) -> tuple[str, str, bool]:
    """espeak's own `pl+f2` or `en-gb`; the variant is a file name, so it must exist in the data folder."""
    language, _, variant = voice.partition("+")
    if find_language(language) is None:
        return "", "", False
    if variant and (not _VARIANT_NAME.fullmatch(variant) or variant not in variants()):
        return language, "", False
    return language, variant, True


@cache
def variants() -> frozenset[str]:
    """espeak-ng's voice variants: `f1` to `f5`, `m1` to `m8`, `whisper`, …"""
    folder = Path(espeakng_loader.get_data_path()) / "voices" / "!v"
    return frozenset(path.name for path in folder.iterdir() if path.is_file())


def _merge_languages(asked: str, spoken: str) -> str:
    """A named voice speaks one language: it yields only to another region of the same one."""
    if not asked or not spoken:
        return asked or spoken or DEFAULT_LANGUAGE
    same = asked.lower().split("-")[0] == spoken.lower().split("-")[0]
    return asked if same else spoken
