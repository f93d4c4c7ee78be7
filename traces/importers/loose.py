"""Logs as they are found: bad lines are counted and left out, and fields are read without trust."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from gzip import BadGzipFile
from gzip import open as open_gzip
from pathlib import Path
from typing import Any, BinaryIO, cast

from pbkv.traces.errors import TraceError

_GZIP_MAGIC = b"\x1f\x8b"
DAMAGE = (EOFError, zlib.error, BadGzipFile)
_LARGEST_TIME = 1e300  # also below the integers that no float can hold
_LARGEST_TOKENS = 2**31 - 1


def records(path: Path, counts: Counter[str]) -> Iterator[dict[str, Any]]:
    """Each line that is a JSON object; others are counted, a cut last line apart. Raises TraceError."""
    with opened(path) as file:
        bad = False
        try:
            for line in file:
                if bad:
                    counts["unreadable lines left out"] += 1
                    bad = False
                if not line.strip():
                    continue
                value = parsed(line)
                bad = value is None and not line.endswith(b"\n")
                if isinstance(value, dict):
                    yield value
                elif not bad:
                    counts["unreadable lines left out"] += 1
        except DAMAGE:
            counts["cut gzip file"] += 1
        if bad:
            counts["cut last line left out"] += 1


def document(path: Path) -> Any:
    """A whole JSON document. Raises TraceError if it is none."""
    with opened(path) as file:
        try:
            return json.loads(file.read())
        except (ValueError, RecursionError) as error:
            raise TraceError(path, "file", str(error), "one whole JSON document") from None
        except DAMAGE as error:
            raise TraceError(path, "file", str(error), "a complete gzip file") from None


def no_calls(path: Path, format_name: str, counts: Counter[str]) -> TraceError:
    """What to say of a log without a single call: what was found instead."""
    found = "; ".join(f"{number} {name}" for name, number in counts.items() if number) or "nothing"
    return TraceError(path, "model calls", found, f"at least one call ({format_name})")


def opened(path: Path) -> BinaryIO:
    try:
        file = path.open("rb")
    except OSError as error:
        raise TraceError(path, "file", error.strerror, "a readable file") from None
    is_gzip = file.read(2) == _GZIP_MAGIC
    file.seek(0)
    if not is_gzip:
        return file
    file.close()
    return cast(BinaryIO, open_gzip(path, "rb"))


def parsed(line: bytes | str) -> Any:
    """The JSON value of a line, or None."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def name(value: Any) -> str | None:
    """A text that can stand in a trace: not empty, and without lone surrogates."""
    found = text(value)
    if found is None or found.isascii():
        return found
    return found.encode("utf-8", "replace").decode()


def count(value: Any) -> int | None:
    """A number of tokens, also as OTLP writes it ("12")."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    return value if type(value) is int and 0 <= value <= _LARGEST_TOKENS else None


def mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def field(value: Any, dotted: str) -> Any:
    """A field of a field …: ``metadata.user.id``."""
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def seconds(value: Any) -> float | None:
    """An instant in seconds: a number of s, ms, µs or ns since 1970 (told by its size), or an ISO time."""
    if type(value) in (int, float) and 0 <= value < _LARGEST_TIME:
        number = float(value)
        for above, factor in ((1e17, 1e-9), (1e14, 1e-6), (1e11, 1e-3)):
            if number > above:
                return number * factor
        return number
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    try:
        return moment.timestamp()
    except (OverflowError, ValueError):
        return None


def dumped(value: Any) -> str:
    """A value as text, the same for equal values."""
    try:
        return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    except RecursionError:
        return "(nested too deep)"
