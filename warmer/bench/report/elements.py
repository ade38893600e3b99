"""Builds HTML from elements, so that all text and all attributes are escaped by the serializer and never by hand."""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.etree import ElementTree

Element = ElementTree.Element
Content = Element | str
# Control characters and halves of surrogate pairs: HTML has no way to write them, and UTF-8 none for the latter.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def element(tag: str, *content: Content, **attributes: str) -> Element:
    """An element. `class_` is the attribute `class`; texts and elements may be mixed."""
    made = ElementTree.Element(tag, {name.rstrip("_"): clean(value) for name, value in attributes.items()})
    return extend(made, content)


def extend(parent: Element, content: Iterable[Content]) -> Element:
    """Appends to an element, and returns it."""
    for item in content:
        if isinstance(item, ElementTree.Element):
            parent.append(item)
        elif len(parent):
            parent[-1].tail = (parent[-1].tail or "") + clean(item)
        else:
            parent.text = (parent.text or "") + clean(item)
    return parent


def clean(text: str) -> str:
    """The text without characters that a page cannot hold, each replaced by U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", text)


def document(title: str, style: str, body: Iterable[Content]) -> str:
    """A page that loads nothing and runs nothing, and whose browser is told so."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", **{"http-equiv": "Content-Security-Policy", "content": policy}),
        element("meta", name="viewport", content="width=device-width"),
        element("title", title),
        element("style", style),
    )
    root = element("html", head, extend(element("body"), body), lang="en")
    return "<!doctype html>\n" + ElementTree.tostring(root, encoding="unicode", method="html") + "\n"
