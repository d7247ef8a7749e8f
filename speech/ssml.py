"""SSML as TwiML has it, reduced to what espeak-ng speaks well and safely.

The tree is rebuilt from a table: espeak's `<audio>` opens files by name, and its parser is C, so no tag or
attribute that is not named here reaches it. Unknown tags fall away, their words stay.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from lxml import etree

from speech.base import SpeechError
from speech.voices import find_language

MAX_BREAK_MS = 10_000  # as Amazon Polly; a longer silence is `<Pause>`
MAX_DEPTH = 64  # espeak keeps a fixed stack of open tags
_TIME = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)(ms|s)")
_PROSODY = re.compile(
    r"[+-]?\d{1,4}(?:\.\d{1,2})?(?:%|dB|st|Hz)?|(?:x-)?(?:slow|fast|low|high|soft|loud)|medium|default|silent"
)
# As long as Amazon Polly's pauses: nothing, a comma, a comma, a full stop, a paragraph.
_STRENGTHS = {"none": 0, "x-weak": 100, "weak": 250, "medium": 400, "strong": 700, "x-strong": 1000}
_BREAKS = re.compile(r'(?:<break time="\d+ms"/>\s*)+')
_TOKENS = re.compile(r"<[^>]*>|[^<]+")
_EMPHASES = frozenset(("strong", "moderate", "reduced"))
# TwiML's interpret-as to espeak's; the others (cardinal, date, …) are what espeak does with such text anyway.
_SAY_AS = {
    "characters": "characters",
    "spell-out": "characters",
    "digits": "tts:digits",
    "telephone": "telephone",
}


def clean_text(text: str) -> str:
    """Text without control characters: a NUL would end espeak's C string early."""
    return "".join(" " if unicodedata.category(char) in ("Cc", "Cs") else char for char in text)


@dataclass(frozen=True, slots=True)
class Markup:
    """A `<speak>` document for espeak, and the silence in milliseconds to put before and after what it renders."""

    text: str
    lead_ms: int = 0
    tail_ms: int = 0


def espeak_ssml(ssml: str) -> Markup:
    """SSML for espeak. Raises SpeechError when the markup is not well formed."""
    body = ssml if re.match(r"\s*<speak[\s>/]", ssml) else f"<speak>{ssml}</speak>"
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(body.encode("utf-8", "replace"), parser)
    except etree.XMLSyntaxError as error:
        raise SpeechError(f"The SSML is not well formed: {error.msg}.") from None
    text = f"<speak>{_children(root, 0)}</speak>"
    # espeak speaks only the longest of several breaks in a row.
    text = _BREAKS.sub(lambda run: _pause(_milliseconds(run[0])), text)
    # Breaks at the edges get lost in espeak, depending on what it rendered before, and trimming would drop them.
    tokens = _TOKENS.findall(text)
    words = [at for at, token in enumerate(tokens) if not token.startswith("<") and token.strip()]
    first, last = (words[0], words[-1] + 1) if words else (len(tokens), len(tokens))
    lead, tail = "".join(tokens[:first]), "".join(tokens[last:])
    text = _BREAKS.sub("", lead) + "".join(tokens[first:last]) + _BREAKS.sub("", tail)
    return Markup(text, _milliseconds(lead), _milliseconds(tail))


def plain_text(ssml: str) -> str:
    """The words of an SSML text, for an engine that does not speak SSML. Raises SpeechError."""
    return str(etree.fromstring(espeak_ssml(ssml).text.encode()).xpath("string()"))


def _children(element: etree._Element, depth: int) -> str:
    if depth > MAX_DEPTH:
        raise SpeechError(f"The SSML is nested more than {MAX_DEPTH} tags deep.")
    parts = [escape(clean_text(element.text or ""))]
    for child in element:
        if isinstance(child.tag, str):
            parts.append(_element(child, depth + 1))
        parts.append(escape(clean_text(child.tail or "")))
    return "".join(parts)


def _element(element: etree._Element, depth: int) -> str:
    name = etree.QName(element).localname
    if name == "break":
        return _break(element)
    inner = _children(element, depth)
    if name in ("p", "s"):
        return f"<{name}>{inner}</{name}>"
    if name == "sub":
        return escape(clean_text(element.get("alias", ""))) or inner
    if name == "prosody":
        return _wrap("prosody", _prosody(element), inner)
    if name == "say-as" and element.get("interpret-as", "") in _SAY_AS:
        return _wrap("say-as", {"interpret-as": _SAY_AS[element.get("interpret-as", "")]}, inner)
    if name == "emphasis" and element.get("level", "") in _EMPHASES:
        return _wrap("emphasis", {"level": element.get("level", "")}, inner)
    if name == "lang":
        return _lang(element, inner)
    return inner


def _wrap(tag: str, attributes: dict[str, str], inner: str) -> str:
    written = "".join(f" {name}={quoteattr(value)}" for name, value in attributes.items())
    return f"<{tag}{written}>{inner}</{tag}>" if attributes else inner


def _break(element: etree._Element) -> str:
    if time := _TIME.fullmatch(element.get("time", "")):
        return _pause(round(min(float(time[1]) * (1000 if time[2] == "s" else 1), MAX_BREAK_MS)))
    return _pause(_STRENGTHS.get(element.get("strength", ""), _STRENGTHS["medium"]))


def _pause(milliseconds: int) -> str:
    return f'<break time="{milliseconds}ms"/>'


def _milliseconds(text: str) -> int:
    return sum(int(time) for time in re.findall(r'<break time="(\d+)ms"/>', text))


def _prosody(element: etree._Element) -> dict[str, str]:
    found = {name: element.get(name, "") for name in ("rate", "pitch", "volume")}
    return {name: value for name, value in found.items() if _PROSODY.fullmatch(value)}


def _lang(element: etree._Element, inner: str) -> str:
    tag = element.get("{http://www.w3.org/XML/1998/namespace}lang", "")
    language = find_language(tag)
    return _wrap("voice", {"xml:lang": language}, inner) if language else inner
