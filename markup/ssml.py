"""Speech markup inside `<Say>`: the elements the dialect knows, and two ways to read mixed content.

Content is a tuple of strings and `Ssml` values. A speech engine that knows SSML is given `markup_of(content)`,
any other `plain(content)`. (W3C Speech Synthesis Markup Language 1.1; which elements nest in which as in the SDKs.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from lxml import etree

from markup.fields import Choice, Kind, Str, one_of, xml_text

# An element holds at most this many others inside one another. Real prompts nest three deep; reading is
# recursive, so without a limit a document could exhaust the interpreter's stack.
MAX_SSML_DEPTH: Final = 32

XML_LANG: Final = "{http://www.w3.org/XML/1998/namespace}lang"

_INLINE = ("break", "emphasis", "lang", "phoneme", "prosody", "say-as", "sub", "w")
_TIME = Str(r"[0-9]{1,6}(\.[0-9]{1,3})?m?s", "a time such as 2s or 500ms")
_INTERPRET_AS = one_of(
    "characters spell-out cardinal number ordinal digits fraction unit date time address expletive telephone"
)
_ALPHABET = one_of("ipa x-sampa x-amazon-jyutping x-amazon-pinyin x-amazon-pron-kana x-amazon-yomigana")


@dataclass(frozen=True, slots=True)
class SsmlRule:
    """One SSML element: its attributes, and the elements it may hold."""

    attributes: Mapping[str, Kind]
    holds: tuple[str, ...]


SSML: Final[Mapping[str, SsmlRule]] = MappingProxyType(
    {
        "break": SsmlRule(
            {
                "strength": one_of("none x-weak weak medium strong x-strong"),
                "time": _TIME,
            },
            (),
        ),
        "emphasis": SsmlRule({"level": Choice(("strong", "moderate", "reduced"))}, _INLINE),
        "lang": SsmlRule({"xml:lang": Str()}, (*_INLINE, "p", "s")),
        "p": SsmlRule({}, (*_INLINE, "s")),
        "phoneme": SsmlRule({"alphabet": _ALPHABET, "ph": Str()}, ()),
        "prosody": SsmlRule({"volume": Str(), "rate": Str(), "pitch": Str()}, (*_INLINE, "p", "s")),
        "s": SsmlRule({}, _INLINE),
        "say-as": SsmlRule(
            {
                "interpret-as": _INTERPRET_AS,
                "format": one_of("mdy dmy ymd md dm ym my d m y yyyymmdd"),
            },
            (),
        ),
        "sub": SsmlRule({"alias": Str()}, ()),
        "w": SsmlRule({"role": Str()}, ("break", "emphasis", "phoneme", "prosody", "say-as", "sub")),
    }
)


@dataclass(frozen=True, slots=True)
class Ssml:
    """One SSML element: `name`, its attributes as (name, value) pairs in alphabetical order, what it holds."""

    name: str
    attributes: Sequence[tuple[str, str]] = ()
    content: Sequence[str | Ssml] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "attributes", tuple(sorted(self.attributes)))
        object.__setattr__(self, "content", normal(self.content))

    def get(self, name: str) -> str | None:
        """The value of one attribute, by its XML name."""
        return dict(self.attributes).get(name)


def ssml(name: str, *content: str | Ssml, **attributes: str) -> Ssml:
    """One SSML element, written as in the SDKs: `ssml("say-as", "123", interpret_as="digits")`."""
    pairs = [
        ("xml:lang" if key == "xml_lang" else key.replace("_", "-"), attributes[key]) for key in attributes
    ]
    return Ssml(name, pairs, content)


def normal(content: Sequence[str | Ssml]) -> tuple[str | Ssml, ...]:
    """Content in its one normal form: no empty string, no two strings side by side. A bare string is allowed."""
    parts: list[str | Ssml] = []
    for part in (content,) if isinstance(content, str) else content:
        last = parts[-1] if parts else None
        if isinstance(part, str) and isinstance(last, str):
            parts[-1] = last + part
        elif part != "":
            parts.append(part)
    return tuple(parts)


def plain(content: Sequence[str | Ssml]) -> str:
    """The words to speak without markup, blanks collapsed; a `sub` is spoken as its alias."""
    return re.sub(r"\s+", " ", "".join(_words(content))).strip()


def _words(content: Sequence[str | Ssml]) -> Iterator[str]:
    for part in content:
        if isinstance(part, str):
            yield part
        elif part.name == "sub" and part.get("alias"):
            yield part.get("alias") or ""
        else:
            # a paragraph's or sentence's end separates words; an inline element may stand within one
            edge = " " if part.name in ("break", "p", "s") else ""
            yield edge
            yield from _words(part.content)
            yield edge


def markup_of(content: Sequence[str | Ssml]) -> str | None:
    """The content as SSML markup without the `<speak>` around it; None when it is only text."""
    if not any(isinstance(part, Ssml) for part in content):
        return None
    root = etree.Element("speak")
    fill(root, content)
    return etree.tostring(root, encoding="unicode")[len("<speak>") : -len("</speak>")]


def fill(element: etree._Element, content: Sequence[str | Ssml], depth: int = 0) -> None:
    """Append mixed content to an lxml element. Raises ValueError for an unknown element or too deep a nest."""
    last: etree._Element | None = None
    for part in content:
        if isinstance(part, Ssml):
            last = _append(element, part, depth)
        elif last is None:
            element.text = xml_text(part, f"the text of <{element.tag}>")
        else:
            last.tail = xml_text(part, f"the text after <{last.tag}>")


def _append(element: etree._Element, part: Ssml, depth: int) -> etree._Element:
    if part.name not in SSML:
        raise ValueError(f"there is no SSML element <{part.name}>: use one of {', '.join(SSML)}")
    if depth >= MAX_SSML_DEPTH:
        raise ValueError(f"SSML is nested more than {MAX_SSML_DEPTH} deep")
    child = etree.SubElement(element, part.name)
    for name, value in part.attributes:
        if name not in SSML[part.name].attributes:
            raise ValueError(f"<{part.name}> has no attribute {name!r}")
        child.set(XML_LANG if name == "xml:lang" else name, xml_text(value, f"{name} of <{part.name}>"))
    fill(child, part.content, depth + 1)
    return child
