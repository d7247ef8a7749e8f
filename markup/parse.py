"""XML → `Document`.

As lenient as the cloud, whose "schema validation" only warns: whatever is unknown is skipped, whatever is bad
becomes its default, and each leaves a `Problem`. Only what leaves nothing to execute raises `MarkupError`.

The source is untrusted. Entities, DTDs and the network are off, any DOCTYPE is refused, size and depth are bounded,
and the number of problems worked out is too; see the constants.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, cast

from lxml import etree

from markup.check import check
from markup.document import Document, MarkupError, Problems
from markup.fields import SCHEMA_WARNING, UNSET, Attribute, Nested, Node, Spec, quoted, spec
from markup.ssml import MAX_SSML_DEPTH, SSML, XML_LANG, Ssml
from markup.verbs import VERBS, Say, Verb

MAX_DOCUMENT: Final = 64 * 1024  # bytes; the dialect's limit on a response body (11750)

_SCHEMA_INSTANCE: Final = (
    "{http://www.w3.org/2001/XMLSchema-instance}"  # editors' hints, no attributes of ours
)
_UNKNOWN_VERSION: Final = 108  # libxml2's XML_ERR_UNKNOWN_VERSION


def parse(source: bytes | str) -> Document:
    """Read one document.

    Bytes are decoded as their XML declaration says (UTF-8 without one); of a str the declaration is ignored.
    Raises MarkupError: 11750 too long, 12100 not well-formed or with a DOCTYPE, 12101 not XML 1.0,
    12102 the root is not `<Response>`. Nothing else is raised for any input.
    """
    root = _root(source)
    problems = Problems()
    if root.tag != "Response":
        raise MarkupError(12102, f"the root is <{_name(root)}>, not <Response>", _line(root))
    for key in root.attrib:
        _unknown_attribute(root, str(key), (), problems)
    _stray_text(root, problems)
    verbs = tuple(_verbs(root, problems))
    return Document(cast("tuple[Verb, ...]", verbs), problems.all())


def _root(source: bytes | str) -> etree._Element:
    body, encoding = _encoded(source)
    if len(body) > MAX_DOCUMENT:
        raise MarkupError(11750, f"the document has {len(body)} bytes; {MAX_DOCUMENT} are allowed")
    parser = etree.XMLParser(
        encoding=encoding,
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        root = etree.fromstring(body, parser)
    except etree.XMLSyntaxError as error:
        code = 12101 if getattr(error, "code", 0) == _UNKNOWN_VERSION else 12100
        line, column = error.position
        raise MarkupError(code, str(error.msg or "not an XML document"), line or 0, column or 0) from None
    _refuse_prologue(root)
    return root


def _encoded(source: bytes | str) -> tuple[bytes, str | None]:
    if isinstance(source, bytes):
        return source, None
    try:
        return source.encode(), "utf-8"
    except UnicodeEncodeError as error:
        raise MarkupError(12100, f"a lone surrogate stands at character {error.start}") from None


def _refuse_prologue(root: etree._Element) -> None:
    info: Any = root.getroottree().docinfo
    if info.xml_version != "1.0":
        raise MarkupError(12101, f"XML {info.xml_version} is not read, only 1.0", 1)
    if info.doctype or info.internalDTD is not None:
        raise MarkupError(12100, "a DOCTYPE is not allowed", 1)


def _verbs(root: etree._Element, problems: Problems) -> Iterator[Node]:
    for element in root:
        cls = VERBS.get(_name(element))
        if cls is None:
            hint = problems.did_you_mean(_name(element), VERBS)
            _note(problems, element, f"is not a verb and was skipped{hint}")
        else:
            yield _node(element, cls, problems)


def _node(element: etree._Element, cls: type[Node], problems: Problems) -> Node:
    table = spec(cls)
    if table.tier == "vendor":
        _note(problems, element, "is bound to the vendor's cloud: it is read, then skipped when executed")
    values: dict[str, object] = {"line": _line(element)}
    values |= _attributes(element, table, problems)
    if cls is Say:
        values["content"] = list(_mixed(element, tuple(SSML), 0, problems))
    else:
        values |= _inside(element, table, problems)
    node = cls(**values)  # type: ignore[arg-type]
    for code, attribute, sentence in check(node):
        _note(problems, element, sentence, code=code, attribute=attribute)
    return node


def _attributes(element: etree._Element, table: Spec, problems: Problems) -> dict[str, object]:
    values: dict[str, object] = {}
    for key, raw in element.attrib.items():
        attribute = table.attributes.get(str(key))
        if attribute is None:
            _unknown_attribute(element, str(key), tuple(table.attributes), problems)
            continue
        if attribute.tier == "vendor":
            _note(problems, element, "means nothing outside the vendor's cloud", attribute=attribute.xml)
        reading = attribute.kind.read(str(raw))
        if reading.complaint:
            _bad_value(element, attribute, reading.complaint, reading.value is UNSET, problems)
        if reading.value is not UNSET:
            values[attribute.name] = reading.value
    return values


def _bad_value(
    element: etree._Element, attribute: Attribute, complaint: str, defaulted: bool, problems: Problems
) -> None:
    default = "none" if attribute.default is None else repr(attribute.default)
    end = f"; the default ({default}) is used" if defaulted else ""
    problems.add(
        attribute.code,
        f"<{_name(element)}> {attribute.xml}: {complaint}{end}",
        line=_line(element),
        verb=_name(element),
        attribute=attribute.xml,
        level=attribute.level,
    )


def _unknown_attribute(element: etree._Element, key: str, known: tuple[str, ...], problems: Problems) -> None:
    if key.startswith(_SCHEMA_INSTANCE):
        return
    hint = problems.did_you_mean(key, known)
    _note(problems, element, f"has no attribute {quoted(key)}; it was skipped{hint}", attribute=key[:80])


def _inside(element: etree._Element, table: Spec, problems: Problems) -> dict[str, object]:
    """The text and the children of an element, by field name."""
    found: dict[str, list[Node]] = {group.name: [] for group in table.nested}
    words: str | None = None
    for child in element:
        if table.text and table.text.element and _name(child) == table.text.element:
            words = _text(child)
        elif group := _group(table, child):
            _take(child, group, found[group.name], problems)
        else:
            _misplaced(element, child, table, problems)
    values: dict[str, object] = {name: tuple(nodes) for name, nodes in found.items()}
    if table.text is None:
        _stray_text(element, problems)
        return values
    values[table.text.name] = _body(element, table.text, _text(element) if words is None else words, problems)
    return values


def _group(table: Spec, child: etree._Element) -> Nested | None:
    name = _name(child)
    for group in table.nested:
        if name == group.wrapper or (not group.wrapper and group.find(name)):
            return group
    return None


def _take(child: etree._Element, group: Nested, into: list[Node], problems: Problems) -> None:
    """Add a child, or all the children of a wrapper, to a group."""
    for element in child if group.wrapper else (child,):
        cls = group.find(_name(element))
        if cls is None:
            _note(problems, element, f"does not belong in <{_name(child)}> and was skipped", code=group.code)
        elif group.limit and sum(type(node) is cls for node in into) >= group.limit:
            _note(problems, element, f"was skipped: at most {group.limit} are allowed", code=group.code)
        else:
            into.append(_node(element, cls, problems))


def _misplaced(element: etree._Element, child: etree._Element, table: Spec, problems: Problems) -> None:
    name = _name(child)
    if name in VERBS:
        _note(problems, child, f"cannot stand in <{table.tag}> and was skipped", code=table.nest_code)
        return
    names = [tag for group in table.nested for tag in (group.wrapper, *(spec(c).tag for c in group.classes))]
    hint = problems.did_you_mean(name, filter(None, names))
    _note(problems, child, f"is unknown in <{_name(element)}> and was skipped{hint}")


def _body(element: etree._Element, body: Attribute, words: str, problems: Problems) -> str:
    """An element's text. A bad one is kept: nothing could stand in for a number or a room."""
    reading = body.kind.read(words)
    if reading.complaint:
        level = body.level
        _note(problems, element, f"text {reading.complaint}", code=body.code, error=level == "error")
    return words


def _mixed(
    element: etree._Element, holds: tuple[str, ...], depth: int, problems: Problems
) -> Iterator[str | Ssml]:
    yield element.text or ""
    for child in element:
        yield from _speech(child, holds, depth, problems)
        yield child.tail or ""


def _speech(
    element: etree._Element, holds: tuple[str, ...], depth: int, problems: Problems
) -> Iterator[str | Ssml]:
    """One SSML element; of an unknown, misplaced or too deeply nested one only what is inside."""
    name = _name(element)
    if depth >= MAX_SSML_DEPTH:
        _note(problems, element, f"is nested more than {MAX_SSML_DEPTH} deep; only its text is spoken")
        yield "".join(str(part) for part in element.itertext())
    elif name in SSML and name in holds:
        content = list(_mixed(element, SSML[name].holds, depth + 1, problems))
        yield Ssml(name, list(_speech_attributes(element, problems)), content)
    else:
        hint = problems.did_you_mean(name, holds)
        _note(problems, element, f"is not speech markup that can stand here; only its text is spoken{hint}")
        yield from _mixed(element, holds, depth + 1, problems)


def _speech_attributes(element: etree._Element, problems: Problems) -> Iterator[tuple[str, str]]:
    rule = SSML[_name(element)]
    for key, raw in element.attrib.items():
        name = "xml:lang" if key == XML_LANG else str(key)
        kind = rule.attributes.get(name)
        if kind is None:
            _unknown_attribute(element, name, tuple(rule.attributes), problems)
            continue
        reading = kind.read(str(raw))
        if reading.complaint:
            _note(problems, element, f"{name}: {reading.complaint}", attribute=name)
        if isinstance(reading.value, str):
            yield name, reading.value


def _stray_text(element: etree._Element, problems: Problems) -> None:
    if words := _text(element):
        _note(problems, element, f"holds no text; {quoted(words)} was skipped")


def _text(element: etree._Element) -> str:
    """The element's own text, without its children's, stripped."""
    return "".join([element.text or "", *(child.tail or "" for child in element)]).strip()


def _line(element: etree._Element) -> int:
    line: Any = element.sourceline
    return line or 0


def _name(element: etree._Element) -> str:
    """The element's name as a message shows it; a foreign namespace stays visible, so it matches no verb."""
    return str(element.tag)[:80]


def _note(
    problems: Problems,
    element: etree._Element,
    sentence: str,
    *,
    code: int = SCHEMA_WARNING,
    attribute: str = "",
    error: bool = False,
) -> None:
    name = _name(element)
    at = f" {attribute}:" if attribute and attribute not in sentence else ""
    problems.add(
        code,
        f"<{name}>{at} {sentence}",
        line=_line(element),
        verb=name,
        attribute=attribute,
        level="error" if error else "warning",
    )
