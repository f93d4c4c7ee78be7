"""HTML built from elements: every text and every attribute is escaped, so that no name can break a page."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_VOID = {"img", "meta", "br", "hr"}


class Html(str):
    """Text that is HTML already. Only this module and stylesheets of ours make it."""

    __slots__ = ()


Child = str | Iterable["Child"] | None


def element(name: str, *children: Child, **attributes: str | bool | None) -> Html:
    """``<name …>children</name>``. A trailing underscore of an attribute's name is dropped (``class_``).

    Children that are `Html` stay as they are, other texts are escaped, None is nothing, what is iterable
    is taken apart. An attribute that is True stands without a value, one that is False or None is left out.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{''.join(_written(children))}</{name}>")


def script_data(text: str, name: str) -> Html:
    """JSON ``text`` as an inert data block; what would end the block is spelt as escapes."""
    safe = text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return Html(f'<script type="application/json" id="{escape(name)}">{safe}</script>')


def _written(children: Iterable[Child]) -> Iterable[str]:
    for child in children:
        if isinstance(child, Html):
            yield child
        elif isinstance(child, str):
            yield escape(child)
        elif child is not None:
            yield from _written(child)


def _attribute(name: str, value: str | bool | None) -> str:
    if value is None or value is False:
        return ""
    spelt = name.rstrip("_").replace("_", "-")
    return f" {spelt}" if value is True else f' {spelt}="{escape(value)}"'
