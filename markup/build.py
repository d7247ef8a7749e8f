"""Verbs → XML: what a Python app answers a webhook with. `parse(build(*verbs)).verbs == verbs`."""

from __future__ import annotations

from lxml import etree

from markup.fields import Attribute, Nested, Node, spec, xml_text
from markup.parse import MAX_DOCUMENT
from markup.ssml import fill
from markup.verbs import VERBS, Say, Verb

DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>'


def build(*verbs: Verb) -> str:
    """One document. Attributes that equal their default are left out.

    Raises ValueError, with the element and attribute, for a value that would not read back as itself: out of
    range, not one of the dialect's words, blanks around a number, a character XML cannot carry; and for a
    document over 64 kB, which the engine would refuse (11750).
    """
    root = etree.Element("Response")
    for verb in verbs:
        if type(verb) not in VERBS.values():
            raise ValueError(f"{type(verb).__name__} is not a verb: it cannot stand in <Response>")
        _append(root, verb)
    document = DECLARATION + etree.tostring(root, encoding="unicode")
    if len(document.encode()) > MAX_DOCUMENT:
        raise ValueError(f"the document is longer than {MAX_DOCUMENT} bytes")
    return document


def _append(parent: etree._Element, node: Node) -> None:
    table = spec(type(node))
    element = etree.SubElement(parent, table.tag)
    for attribute in table.attributes.values():
        value = getattr(node, attribute.name)
        if value != attribute.default:
            element.set(attribute.xml, _written(table.tag, attribute, value))
    if isinstance(node, Say):
        fill(element, node.content)
    if table.text:
        _set_text(element, node, table.text)
    for group in table.nested:
        _append_group(element, group, getattr(node, group.name))


def _written(tag: str, attribute: Attribute, value: object) -> str:
    """The XML text of a value, once it is sure to read back as the same value."""
    where = f"{attribute.xml} of <{tag}>" if attribute.xml else f"the text of <{tag}>"
    raw = xml_text(attribute.kind.write(value), where)
    reading = attribute.kind.read(raw if attribute.xml else raw.strip())
    if reading.complaint:
        raise ValueError(f"{where}: {reading.complaint}")
    if reading.value != value:
        raise ValueError(f"{where}: {value!r} would read back as {reading.value!r}")
    return raw


def _set_text(element: etree._Element, node: Node, body: Attribute) -> None:
    words = _written(str(element.tag), body, getattr(node, body.name))
    has_children = any(getattr(node, group.name) for group in spec(type(node)).nested)
    if body.element and has_children:
        etree.SubElement(element, body.element).text = words
    elif words:
        element.text = words


def _append_group(element: etree._Element, group: Nested, nodes: tuple[Node, ...]) -> None:
    parent = etree.SubElement(element, group.wrapper) if group.wrapper and nodes else element
    for node in nodes:
        if type(node) not in group.classes:
            raise ValueError(f"{type(node).__name__} cannot stand in <{element.tag}>")
        if group.limit and sum(type(other) is type(node) for other in nodes) > group.limit:
            raise ValueError(f"<{element.tag}> holds at most {group.limit} {type(node).__name__}")
        _append(parent, node)
