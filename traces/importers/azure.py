"""Azure's request logs (CSV): when requests came and how long they were, but nothing of their prompts.

Not a trace, then, but an arrival process that can be laid over one.
"""

from __future__ import annotations

import csv
import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from pbkv.traces.errors import ConfigError, TraceError
from pbkv.traces.importers.lines import lines
from pbkv.traces.schema import Workflow

_COLUMN = "TIMESTAMP"
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


def recognises(line: str) -> bool:
    return _COLUMN in line.split(",")


def read_arrivals(path: Path) -> Sequence[float]:
    """Arrivals in seconds from the first one, ascending. Memory: 8 bytes each. Raises TraceError."""
    numbered = lines(path)
    number, header = next(numbered)
    columns = header.split(",")
    if _COLUMN not in columns:
        raise TraceError(path, f"line {number}", header, f"a CSV header with the column {_COLUMN}")
    index = columns.index(_COLUMN)
    arrivals = array("d", (_microseconds(path, number, text, index) for number, text in numbered))
    if not arrivals:
        raise TraceError(path, "rows", 0, "at least one arrival")
    found = np.frombuffer(arrivals)  # the same memory
    found.sort()
    found -= found[0]
    found /= 1e6
    return arrivals


def lay_over(
    workflows: Iterable[Workflow], arrivals_s: Sequence[float], scale: float = 1.0
) -> Iterator[Workflow]:
    """The workflows, the i-th arriving at ``scale`` times the i-th arrival: 0.5 is twice the load.

    Raises ConfigError at once for a bad scale, and when there are more workflows than arrivals.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise ConfigError("arrival scale", scale, "a finite number above 0")
    return _laid(workflows, arrivals_s, scale)


def _laid(workflows: Iterable[Workflow], arrivals_s: Sequence[float], scale: float) -> Iterator[Workflow]:
    for index, workflow in enumerate(workflows):
        if index >= len(arrivals_s):
            raise ConfigError("arrivals", f"{len(arrivals_s)} of them", "at least one for each workflow")
        yield replace(workflow, arrival_s=scale * arrivals_s[index])


def _microseconds(path: Path, number: int, text: str, index: int) -> int:
    """The time in a line, since 1970."""
    value = "nothing"
    try:
        fields = next(csv.reader([text]))
        value = fields[index] if index < len(fields) else value
        moment = datetime.fromisoformat(value)
    except (ValueError, csv.Error):
        expected = "a time like 2023-11-16 18:17:03.9799600"
        raise TraceError(path, f"line {number}: {_COLUMN}", value, expected) from None
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND
