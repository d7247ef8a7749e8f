"""TwiML voices and languages to espeak's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech.base import Utterance
from speech.voices import POLLY_VOICES, choose_voice, find_language, languages


def chosen(voice: str | None, language: str) -> tuple[str, list[int]]:
    choice = choose_voice(Utterance("", None, language, voice))
    return choice.name, [warning.code for warning in choice.warnings]


@pytest.mark.parametrize(
    ("voice", "language", "name", "codes"),
    [
        (None, "en-US", "gmw/en-US+m3", []),
        ("man", "", "gmw/en-US+m3", []),
        ("woman", "en-GB", "gmw/en+f3", []),
        ("alice", "pl-PL", "zlw/pl+f3", []),
        ("man", "ru-RU", "zle/ru+m3", []),
        ("Polly.Joanna", "en-US", "gmw/en-US+f3", []),
        ("Polly.Matthew-Neural", "en-US", "gmw/en-US+m3", []),
        (
            "Polly.Tatyana",
            "en-US",
            "zle/ru+f3",
            [],
        ),  # the voice speaks Russian whatever the default language says
        ("Polly.Conchita", "es-MX", "roa/es-419+f3", []),  # but yields to another region of its language
        ("Google.de-DE-Standard-B", "en-US", "gmw/de+m3", []),
        ("Google.en-US-Neural2-C", "en-US", "gmw/en-US+f3", []),
        ("Google.pl-PL-Chirp3-HD-Aoede", "pl-PL", "zlw/pl+f3", []),
        ("espeak:pl+f2", "", "zlw/pl+f2", []),
        ("Polly.Nobody", "de-DE", "gmw/de", [13511]),
        ("Bob", "fr-FR", "roa/fr", [13511]),
        ("pl+../../../etc/passwd", "pl-PL", "zlw/pl", [13511]),
        ("woman", "tlh-XX", "gmw/en-US+f3", [13512]),
        ("Bob", "tlh-XX", "gmw/en-US", [13511, 13512]),
        ("woman", "zh-CN", "sit/cmn+f3", []),
        ("woman", "nb_NO", "gmq/nb+f3", []),
    ],
)
def test_choice(voice: str | None, language: str, name: str, codes: list[int]) -> None:
    assert chosen(voice, language) == (name, codes)


def test_every_polly_voice_has_a_language_that_espeak_speaks() -> None:
    assert len(POLLY_VOICES) > 90
    missing = {language for language, _ in POLLY_VOICES.values() if find_language(language) is None}
    assert not missing


def test_languages_come_from_the_data_files() -> None:
    assert {"en-us", "ru", "pl", "de", "fr-fr", "cmn", "pt-br"} <= set(languages())
    assert len(languages()) > 120


@given(voice=st.text(max_size=40), language=st.text(max_size=40))
def test_any_input_gives_a_voice_of_a_known_file(voice: str, language: str) -> None:
    choice = choose_voice(Utterance("", None, language, voice))
    assert choice.language in languages()
    assert choice.name.partition("+")[0] in languages().values()
    assert all(warning.code in (13511, 13512) for warning in choice.warnings)
