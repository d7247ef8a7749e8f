"""SSML reduced to what is safe: espeak must never see a tag or attribute that the table does not name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from speech.base import SpeechError
from speech.ssml import MAX_DEPTH, clean_text, espeak_ssml, plain_text

ALLOWED = {
    "speak": set(),
    "break": {"time", "strength"},
    "p": set(),
    "s": set(),
    "prosody": {"rate", "pitch", "volume"},
    "say-as": {"interpret-as"},
    "emphasis": {"level"},
    "voice": {"{http://www.w3.org/XML/1998/namespace}lang"},
}


@pytest.mark.parametrize(
    ("ssml", "expected"),
    [
        ("hello", "hello"),
        ("<speak>a &amp; b</speak>", "a &amp; b"),
        ('a<break time="2s"/>b', 'a<break time="2000ms"/>b'),
        ('a<break time="90s"/>b', 'a<break time="10000ms"/>b'),
        ('a<break time="1h"/>b', 'a<break time="400ms"/>b'),
        ('a<break strength="strong"/>b', 'a<break time="700ms"/>b'),
        ('a<break time="2s"/> <break time="250ms"/>b', 'a<break time="2250ms"/>b'),
        ('<say-as interpret-as="digits">12</say-as>', '<say-as interpret-as="tts:digits">12</say-as>'),
        ('<say-as interpret-as="date">today</say-as>', "today"),
        ('<sub alias="World Wide Web">WWW</sub>', "World Wide Web"),
        (
            '<prosody rate="slow" pitch="+5%" onload="x">a</prosody>',
            '<prosody rate="slow" pitch="+5%">a</prosody>',
        ),
        ('<prosody rate="&quot;/>">a</prosody>', "a"),
        ('<lang xml:lang="fr-FR">oui</lang>', '<voice xml:lang="fr-fr">oui</voice>'),
        ('<lang xml:lang="xx">a</lang>', "a"),
        ('<audio src="/etc/passwd">sound</audio>', "sound"),
        ('<mark name="x"/>a<!-- note -->b<?pi x?>c', "abc"),
        ("<p><s>One.</s></p>", "<p><s>One.</s></p>"),
    ],
)
def test_rewriting(ssml: str, expected: str) -> None:
    assert espeak_ssml(ssml).text == f"<speak>{expected}</speak>"


def test_entities_are_neither_expanded_nor_fetched() -> None:
    document = '<!DOCTYPE speak [<!ENTITY x SYSTEM "file:///etc/hostname">]><speak>a&x;b</speak>'
    with pytest.raises(SpeechError, match="not well formed"):
        espeak_ssml(document)


@pytest.mark.parametrize("ssml", ["<p>", "a & b", "<speak>a", "<p></s>", "\x00"])
def test_broken_markup_is_a_sentence(ssml: str) -> None:
    with pytest.raises(SpeechError, match="not well formed"):
        espeak_ssml(ssml)


def test_depth_is_limited() -> None:
    def nested(depth: int) -> str:
        return "<p>" * depth + "a" + "</p>" * depth

    assert espeak_ssml(nested(MAX_DEPTH)).text.count("<p>") == MAX_DEPTH
    with pytest.raises(SpeechError, match="nested more than"):
        espeak_ssml(nested(MAX_DEPTH + 1))


def test_words_without_tags() -> None:
    assert plain_text('a <break time="1s"/><prosody rate="slow">b &lt; c</prosody>') == "a b < c"


@pytest.mark.parametrize(
    ("ssml", "text", "lead", "tail"),
    [
        ('<speak> <p><break time="1s"/>a</p></speak>', " <p>a</p>", 1000, 0),
        ('a<break time="1s"/> <break time="50ms"/>', "a", 0, 1050),
        (
            '<break time="1s"/><p>a<break time="2s"/>b</p><break time="3s"/>',
            '<p>a<break time="2000ms"/>b</p>',
            1000,
            3000,
        ),
        ('<break time="1s"/>', "", 1000, 0),
    ],
)
def test_breaks_at_the_edges_are_ours_to_add(ssml: str, text: str, lead: int, tail: int) -> None:
    markup = espeak_ssml(ssml)
    assert (markup.text, markup.lead_ms, markup.tail_ms) == (f"<speak>{text}</speak>", lead, tail)


def test_control_characters_do_not_end_the_text() -> None:
    assert clean_text("a\0b\nc") == "a b c"


TAGS = st.sampled_from(
    ["p", "s", "prosody", "say-as", "sub", "emphasis", "lang", "audio", "voice", "break", "w"]
)
VALUES = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12)
NAMES = st.sampled_from(
    ["rate", "pitch", "interpret-as", "alias", "level", "time", "strength", "src", "name"]
)


def element(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    def build(tag: str, attributes: dict[str, str], inner: list[str]) -> str:
        node = etree.Element(tag, attributes)
        return (
            etree.tostring(node, encoding="unicode").removesuffix("/>") + ">" + "".join(inner) + f"</{tag}>"
        )

    good = VALUES.filter(lambda text: all(ord(char) < 0xFFFE for char in text))
    return st.builds(build, TAGS, st.dictionaries(NAMES, good, max_size=3), st.lists(children, max_size=3))


@given(st.recursive(st.just("word "), element, max_leaves=8))
def test_only_the_table_gets_through(ssml: str) -> None:
    for node in etree.fromstring(espeak_ssml(ssml).text).iter():
        assert set(node.attrib) <= ALLOWED[str(node.tag)]
