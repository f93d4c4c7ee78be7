"""Pieces of a page: tables, pictures, facts and what is folded away."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence

from pbkv.analysis.html import Child, Html, element
from pbkv.analysis.style import Target, look_of


def picture(draw: Callable[[Target], None], alt: str, caption: Child = None) -> Html:
    """The figure that ``draw`` writes, inside the page, with ``alt`` for who cannot see it."""
    file = io.BytesIO()
    draw(file)
    source = "data:image/png;base64," + b64encode(_with_palette(file)).decode("ascii")
    text = None if caption is None else element("figcaption", caption)
    return element("figure", element("img", src=source, alt=alt, loading="lazy"), text)


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[Child]],
    is_left: Sequence[bool] = (),
    classes: Sequence[str | None] = (),
) -> Html:
    """A table; columns are right-aligned but those that ``is_left`` (default: the first)."""
    left = list(is_left) or [index == 0 for index in range(len(header))]
    of_rows = list(classes) or [None] * len(rows)
    sides = ["left" if column_is_left else None for column_is_left in left]
    head = element("tr", [element("th", text, class_=side) for text, side in zip(header, sides, strict=True)])
    body = [
        element(
            "tr",
            [element("td", cell, class_=side) for cell, side in zip(row, sides, strict=True)],
            class_=name,
        )
        for row, name in zip(rows, of_rows, strict=True)
    ]
    return element("div", element("table", element("thead", head), element("tbody", body)), class_="wide")


def facts(found: Mapping[str, str]) -> Html:
    """A few numbers side by side."""
    pairs = [element("div", element("dt", name), element("dd", value)) for name, value in found.items()]
    return element("dl", pairs, class_="facts")


def folded(title: str, about: str, *children: Child, is_open: bool = False) -> Html:
    """What opens when its title is clicked."""
    return element("details", element("summary", title, element("small", about)), children, open=is_open)


def aside(title: str, *children: Child) -> Html:
    """The same, less prominent: within a section."""
    return element("details", element("summary", title), children, class_="inline")


def policy_name(policy: str, label: str) -> Html:
    """A policy's name with its colour in the figures."""
    return element("span", element("span", class_="dot", style=f"background:{look_of(policy).color}"), label)


def note(*children: Child) -> Html:
    return element("p", children, class_="note")


def _with_palette(png: io.BytesIO) -> bytes:
    """The same picture with 128 colours: a third of the size, and no difference to the eye."""
    from PIL import Image  # comes with matplotlib

    smaller = io.BytesIO()
    with Image.open(png) as image:
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(smaller, "PNG", optimize=True)
    return smaller.getvalue()
