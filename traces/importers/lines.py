"""Text files, plain or gzipped, line by line: what is wrong is said with the line and the field."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from pbkv.traces.errors import TraceError

MAX_TOKENS = 2**31 - 1
_GZIP_MAGIC = b"\x1f\x8b"
_HEAD_BYTES = 1 << 24
_LARGEST = 1e300  # also below the integers that no float can hold


@dataclass(frozen=True, slots=True)
class Row:
    """One line, a JSON object. Each getter raises TraceError if its field is missing or unfit."""

    path: Path
    line: int
    values: dict[str, Any]

    def error(self, name: str, value: object, expected: str) -> TraceError:
        return TraceError(self.path, f"line {self.line}: {name}", value, expected)

    def text(self, name: str) -> str:
        value = self._required(name, "a text")
        if not isinstance(value, str) or not value:
            raise self.error(name, value, "a text that is not empty")
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise self.error(name, repr(value), "text without lone surrogates")
        return value

    def count(self, name: str, minimum: int = 0) -> int:
        """A whole number of ``minimum`` or more that fits 32 bits."""
        value = self._required(name, "a whole number")
        if type(value) is not int or not minimum <= value <= MAX_TOKENS:
            raise self.error(name, value, f"a whole number from {minimum} to {MAX_TOKENS}")
        return value

    def number(self, name: str) -> float:
        """A finite number, not negative."""
        return self._number(name, self._required(name, "a number"))

    def number_or_none(self, name: str) -> float | None:
        """The same; None where the field is null or missing."""
        value = self.values.get(name)
        return None if value is None else self._number(name, value)

    def items(self, name: str) -> list[Any]:
        value = self._required(name, "a list")
        if not isinstance(value, list):
            raise self.error(name, value, "a list")
        return value

    def _required(self, name: str, expected: str) -> Any:
        if name not in self.values:
            raise self.error(name, "nothing (the field is missing)", expected)
        return self.values[name]

    def _number(self, name: str, value: Any) -> float:
        if type(value) not in (int, float) or not 0 <= value < _LARGEST:
            raise self.error(name, value, "a finite number ≥ 0")
        return float(value)


def rows(path: Path) -> Iterator[Row]:
    """Each line that is not blank, as a JSON object. Raises TraceError for damage and for an empty file."""
    for number, text in lines(path):
        yield Row(path, number, _parsed(path, number, text))


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line that is not blank. Raises TraceError as ``rows`` does."""
    empty = True
    with _opened(path) as file:
        for number, line in _undamaged(path, file):
            if line := line.strip():
                empty = False
                yield number, line
    if empty:
        raise TraceError(path, "file", "nothing", "at least one line (the file is empty)")


def first_line(path: Path) -> str:
    """The first line that is not blank, of a binary file too (cut and decoded as well as may be)."""
    with _opened(path, errors="replace") as file:
        for _ in range(1000):
            line = _first_read(path, file)
            if not line or line.strip():
                return line.strip()
    return ""


def is_object_with(line: str, *names: str) -> bool:
    """Whether a line is a JSON object that has all these fields."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and all(name in value for name in names)


def _parsed(path: Path, number: int, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    if not isinstance(value, dict):
        raise TraceError(path, f"line {number}", text, "a JSON object")
    return value


def _opened(path: Path, errors: str = "strict") -> TextIO:
    if not path.is_file():
        raise TraceError(path, "file", "nothing", "an existing file")
    try:
        with path.open("rb") as file:
            is_gzip = file.read(2) == _GZIP_MAGIC
    except OSError as error:
        raise TraceError(path, "file", error.strerror, "a readable file") from None
    if is_gzip:
        return gzip.open(path, "rt", encoding="utf-8", errors=errors)
    return path.open(encoding="utf-8", errors=errors)


_DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile)


def _undamaged(path: Path, file: TextIO) -> Iterator[tuple[int, str]]:
    try:
        yield from enumerate(file, start=1)
    except _DAMAGE as error:
        raise TraceError(path, "file", str(error), "a complete gzip file") from None
    except UnicodeDecodeError as error:
        raise TraceError(path, "file", str(error), "text in UTF-8") from None


def _first_read(path: Path, file: TextIO) -> str:
    try:
        return file.readline(_HEAD_BYTES)
    except _DAMAGE as error:
        raise TraceError(path, "file", str(error), "a complete gzip file") from None
