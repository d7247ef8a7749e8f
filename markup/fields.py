"""How a verb declares its attributes, and how one attribute is read from and written to XML.

A verb or noun is a frozen dataclass whose fields carry, as metadata, everything the dialect says about them: the
XML name, the kind of value, the default, the code of a bad value. The parser, the builder, the linter and the
schema generator all read that metadata through `spec(cls)`; there is no second table.

A kind's `read(raw)` never raises: it answers a `Reading` with the value to use (UNSET: the field's default) and,
when the document deserves a warning, a sentence that says what was wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal, Protocol

Tier = Literal["core", "ext", "vendor"]
Level = Literal["warning", "error"]

SCHEMA_WARNING: Final = 12200  # unknown element or attribute, and every bad value that has no code of its own
CLOUD_WORD: Final = 80  # characters of a document quoted in a message: a hostile value must not fill the log

# The vendor's dictionary calls these errors, not warnings; the document runs on with the default all the same.
ERROR_CODES: Final = frozenset(
    {13231, 13239, 13240, 13338, 13621, 14201, 14202, 14203, 14204, 14205, 14206, 14210, 14211}
)


class Unset(Enum):
    """The one value `UNSET`: nothing usable was read, so the field keeps its default."""

    UNSET = "UNSET"


UNSET: Final = Unset.UNSET


def quoted(raw: str) -> str:
    """`raw` for a message: one line, in quotes, at most CLOUD_WORD characters of it."""
    return repr(raw if len(raw) <= CLOUD_WORD else raw[:CLOUD_WORD] + "…")


@dataclass(frozen=True, slots=True)
class Reading:
    """What one attribute's text came to: the value to use and, if it deserves a warning, why."""

    value: object
    complaint: str = ""


class Kind(Protocol):
    """A kind of attribute value."""

    def read(self, raw: str) -> Reading:
        """The value that the document's text stands for; never raises."""

    def write(self, value: Any) -> str:
        """The attribute text of a value; what it cannot carry reads back differently, which `build` refuses."""


@dataclass(frozen=True, slots=True)
class Str:
    """Any text, optionally of a given form (`pattern`, matched whole) and length (characters)."""

    pattern: str = ""
    form: str = ""
    min_length: int = 0
    max_length: int = 65_536

    def read(self, raw: str) -> Reading:
        if len(raw) < self.min_length:
            return Reading(UNSET, "is empty")
        if len(raw) > self.max_length:
            return Reading(UNSET, f"is longer than {self.max_length} characters")
        if self.pattern and not re.fullmatch(self.pattern, raw):
            return Reading(UNSET, f"{quoted(raw)} is not {self.form}")
        return Reading(raw)

    def write(self, value: Any) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class Url:
    """A URL, absolute or relative to the document; blanks around it are dropped. "" is kept: it has a meaning."""

    schemes: tuple[str, ...] = ()
    required: bool = False

    def read(self, raw: str) -> Reading:
        url = raw.strip()
        if self.required and not url:
            return Reading(UNSET, "is empty")
        if re.search(r"[\x00-\x20]", url):
            return Reading(UNSET, f"{quoted(url)} has a blank inside")
        if self.schemes and url.partition(":")[0].lower() not in self.schemes:
            return Reading(UNSET, f"{quoted(url)} does not start with {' or '.join(self.schemes)}")
        return Reading(url)

    def write(self, value: Any) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class Flag:
    """true or false in any case: older SDKs write True."""

    def read(self, raw: str) -> Reading:
        word = raw.strip().lower()
        if word in ("true", "false"):
            return Reading(word == "true")
        return Reading(UNSET, f"{quoted(raw)} is neither true nor false")

    def write(self, value: Any) -> str:
        return "true" if value else "false"


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number, or one of a few words that stand for a value.

    Above `high` it is clamped to `high`. Below `low` it is clamped only when the range has two positive ends;
    else the default is used, because 0 often means "for ever" and must not be what a slip comes to.
    """

    low: int = 0
    high: int | None = None
    words: Mapping[str, int | str] = field(default_factory=dict)

    def read(self, raw: str) -> Reading:
        word = raw.strip()
        if word in self.words:
            return Reading(self.words[word])
        # ASCII digits only, few of them: int() takes other scripts' digits and is slow on very long numbers
        if not re.fullmatch(r"[+-]?[0-9]{1,9}", word):
            return Reading(UNSET, f"{quoted(raw)} is not a whole number")
        return self._within(int(word))

    def _within(self, number: int) -> Reading:
        if self.high is not None and number > self.high:
            return Reading(self.high, f"{number} is above {self.high} and was clamped to it")
        if number >= self.low:
            return Reading(number)
        if self.low > 0 and self.high is not None:
            return Reading(self.low, f"{number} is below {self.low} and was clamped to it")
        return Reading(UNSET, f"{number} is below {self.low}")

    def write(self, value: Any) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a set of words. `aliases` are other spellings the dialect accepts."""

    values: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)

    def read(self, raw: str) -> Reading:
        word = raw.strip()
        if word in self.values:
            return Reading(word)
        folded = word.lower()
        if folded in self.aliases:
            return Reading(self.aliases[folded])
        for value in self.values:
            if value.lower() == folded:
                # get, post, True: every SDK generation writes them its own way
                common = folded in ("get", "post", "true", "false")
                return Reading(value, "" if common else f"{quoted(word)} was read as {value!r}")
        return Reading(UNSET, f"{quoted(raw)} is not one of {', '.join(self.values)}")

    def write(self, value: Any) -> str:
        return str(value)


def one_of(words: str, aliases: Mapping[str, str] | None = None) -> Choice:
    """A Choice of the words in one string, blanks between them."""
    return Choice(tuple(words.split()), aliases or {})


@dataclass(frozen=True, slots=True)
class Tokens:
    """A list of words in one attribute; a tuple in Python, without repeats, in the document's order.

    Anything that cannot be part of a word separates: the Python SDK renders a list as its repr
    (`['initiated', 'ringing']`), so brackets, quotes and commas have to be blanks.
    """

    values: tuple[str, ...]

    def read(self, raw: str) -> Reading:
        words = list(dict.fromkeys(word for word in re.split(r"[^a-z-]+", raw.lower()) if word))
        known = tuple(word for word in words if word in self.values)
        bad = [word for word in words if word not in self.values]
        if not bad:
            return Reading(known or UNSET)
        complaint = f"has {quoted(' '.join(bad))}, not one of {', '.join(self.values)}"
        return Reading(known or UNSET, complaint)

    def write(self, value: Any) -> str:
        return " ".join(value)


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute, or the text, of an element: `name` in Python, `xml` in the document (`""`: the text)."""

    kind: Kind
    default: object
    code: int
    tier: Tier
    xml: str = ""
    name: str = ""
    element: str = ""  # text only: a child element that may carry the text instead

    @property
    def level(self) -> Level:
        return "error" if self.code in ERROR_CODES else "warning"


@dataclass(frozen=True, slots=True)
class Nested:
    """Children an element may have: their classes, the code of any other child, how many of each class.

    `wrapper` is an element around them (`<Headers>` around `<Header>`).
    """

    classes: tuple[type[Node], ...]
    code: int
    limit: int | None
    wrapper: str
    name: str = ""

    def find(self, tag: str) -> type[Node] | None:
        return next((cls for cls in self.classes if tag_of(cls) == tag), None)


def attr(
    kind: Kind, default: object = None, *, code: int = SCHEMA_WARNING, xml: str = "", tier: Tier = "core"
) -> Any:
    """A field that is an XML attribute. `xml` only where it is not the field's name in camel case."""
    return field(default=default, metadata={"role": Attribute(kind, default, code, tier, xml)})


def text(kind: Kind, *, code: int = SCHEMA_WARNING, element: str = "") -> Any:
    """A field that is the element's own text, stripped; `""` when there is none."""
    return field(default="", metadata={"role": Attribute(kind, "", code, "core", element=element)})


def nested(
    *classes: type[Node], code: int = SCHEMA_WARNING, limit: int | None = None, wrapper: str = ""
) -> Any:
    """A field that is a tuple of children."""
    return field(default=(), metadata={"role": Nested(classes, code, limit, wrapper)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What every verb and noun has: the line it stood on (0 when built in Python; no part of equality)."""

    TAG: ClassVar[str] = ""  # the element's name where it is not the class's
    TIER: ClassVar[Tier] = "core"

    line: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        table = spec(type(self))
        for name in table.tokens:
            value = getattr(self, name)  # a string: status_callback_event="initiated ringing", as in the SDKs
            object.__setattr__(self, name, tuple(value.split() if isinstance(value, str) else value))
        for group in table.nested:
            object.__setattr__(self, group.name, tuple(getattr(self, group.name)))


@dataclass(frozen=True, slots=True)
class Spec:
    """One element of the dialect, as its dataclass declares it. `attributes` is keyed by XML name."""

    cls: type[Node]
    tag: str
    tier: Tier
    attributes: Mapping[str, Attribute]
    text: Attribute | None
    nested: tuple[Nested, ...]
    tokens: tuple[str, ...]  # the names of the fields that hold lists of words

    @property
    def nest_code(self) -> int:
        """The code of a child that does not belong here."""
        return self.nested[0].code if self.nested else SCHEMA_WARNING


def tag_of(cls: type[Node]) -> str:
    """The element's name of a verb or noun class."""
    return cls.TAG or cls.__name__


def camel(name: str) -> str:
    """`finish_on_key` → `finishOnKey`; a trailing underscore (a Python keyword avoided) is dropped."""
    head, *rest = name.rstrip("_").split("_")
    return head + "".join(word.capitalize() for word in rest)


def spec(cls: type[Node]) -> Spec:
    """The table of one verb or noun."""
    if cls not in _SPECS:
        _SPECS[cls] = _spec(cls)
    return _SPECS[cls]


def _spec(cls: type[Node]) -> Spec:
    attributes: dict[str, Attribute] = {}
    body: Attribute | None = None
    children: list[Nested] = []
    for item in fields(cls):
        role = item.metadata.get("role")
        if isinstance(role, Nested):
            children.append(Nested(role.classes, role.code, role.limit, role.wrapper, item.name))
        elif isinstance(role, Attribute) and item.kw_only:
            xml = role.xml or camel(item.name)
            attributes[xml] = Attribute(role.kind, role.default, role.code, role.tier, xml, item.name)
        elif isinstance(role, Attribute):
            body = Attribute(role.kind, "", role.code, role.tier, "", item.name, role.element)
    tokens = tuple(item.name for item in attributes.values() if isinstance(item.kind, Tokens))
    return Spec(cls, tag_of(cls), cls.TIER, MappingProxyType(attributes), body, tuple(children), tokens)


# The classes are few and never change, so their tables are worked out once, on first use.
_SPECS: Final[dict[type[Node], Spec]] = {}

# XML 1.0 section 2.2: the characters a document may hold, even escaped.
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xml_text(value: str, where: str) -> str:
    """`value` unchanged. Raises ValueError when it has a character that XML cannot carry, and says where."""
    if found := _NOT_XML.search(value):
        code = ord(found.group())
        raise ValueError(f"{where} has the character U+{code:04X} at {found.start()}, which XML cannot carry")
    return value
