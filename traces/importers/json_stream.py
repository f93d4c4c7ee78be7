"""A JSON document of any size, value by value: only values that are asked for are whole in memory.

The standard library reads the values, so that all is accepted that it accepts (NaN, say, which writers in
Python leave behind and event parsers refuse); only the way to them, through
objects and arrays, is walked here.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, TextIO

from pbkv.traces.errors import TraceError
from pbkv.traces.importers.loose import DAMAGE, opened

ITEM = "item"  # what an array's elements are called in a place
_READ_CHARACTERS = 1 << 18
_SPACE = " \t\n\r"


def values_at(path: Path, *places: str) -> Iterator[tuple[str, Any]]:
    """Place and value of each value at one of ``places`` (``a.item.b``), in the order of the document.

    ``""`` is the document itself. Raises TraceError where it is no whole JSON document.
    """
    with opened(path) as raw:
        try:
            head = raw.read(4)
            raw.seek(0)
            file = io.TextIOWrapper(raw, json.detect_encoding(head), errors="surrogatepass")
            scanner = _Scanner(file)
            yield from scanner.walk("", frozenset(places), _around(places))
            scanner.end()
        except (ValueError, RecursionError) as error:
            raise TraceError(path, "file", str(error), "one whole JSON document") from None
        except DAMAGE as error:
            raise TraceError(path, "file", str(error), "a complete gzip file") from None


def elements(path: Path) -> Iterator[Any]:
    """The elements of a document that is an array, else the document. Raises TraceError."""
    is_array = _first_character(path) == "["
    for _, value in values_at(path, ITEM if is_array else ""):
        yield value


def _first_character(path: Path) -> str:
    with opened(path) as file:
        try:
            return file.read(_READ_CHARACTERS).decode("utf-8-sig", "replace").lstrip()[:1]
        except DAMAGE:
            return ""


def _around(places: Collection[str]) -> frozenset[str]:
    """All places on the way to ``places``."""
    parts = [place.split(".") for place in places if place]
    return frozenset(".".join(names[:end]) for names in parts for end in range(len(names)))


class _Scanner:
    """A document and a position in it. Raises ValueError where it is none."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._text, self._at = file, "", 0
        self._decode = json.JSONDecoder().raw_decode

    def walk(self, place: str, wanted: frozenset[str], around: frozenset[str]) -> Iterator[tuple[str, Any]]:
        if place in wanted:
            yield place, self._value()
        elif place in around and self._next() == "{":
            for key in self._keys():
                yield from self.walk(f"{place}.{key}".lstrip("."), wanted, around)
        elif place in around and self._next() == "[":
            for _ in self._elements():
                yield from self.walk(f"{place}.{ITEM}".lstrip("."), wanted, around)
        else:
            self._value()

    def end(self) -> None:
        if self._next():
            raise ValueError(f"more after the document: {self._text[self._at : self._at + 20]!r}")

    def _keys(self) -> Iterator[str]:
        self._at += 1
        if self._next() != "}":
            yield self._key()
            while self._next() == ",":
                self._at += 1
                yield self._key()
        self._take("}")

    def _key(self) -> str:
        self._next()
        key = self._value()
        if not isinstance(key, str):
            raise ValueError(f"{key!r} where a name should stand")
        self._take(":")
        return key

    def _elements(self) -> Iterator[None]:
        self._at += 1
        if self._next() != "]":
            yield None
            while self._next() == ",":
                self._at += 1
                yield None
        self._take("]")

    def _take(self, character: str) -> None:
        if self._next() != character:
            raise ValueError(f"{self._text[self._at : self._at + 20]!r} where {character!r} should stand")
        self._at += 1

    def _value(self) -> Any:
        self._next()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError:
                if not self._more():
                    raise
                continue
            if end == len(self._text) and self._more():  # a number may go on
                continue
            self._at = end
            return value

    def _next(self) -> str:
        """The next character that is no space, which becomes the position; nothing at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _more(self) -> bool:
        """Read on, as much again as is held: a long value is tried a few times only."""
        rest = self._text[self._at :]
        found = self._file.read(max(_READ_CHARACTERS, len(rest)))
        self._text, self._at = rest + found, 0
        return bool(found)
