"""Parses each trace once: canonical Parquet that every process maps, in place of a parse per cell."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

from pbkv.study.cell import PreparedTrace
from pbkv.study.scenario import TraceSource
from pbkv.traces.sources import open_trace
from pbkv.traces.writer import write_trace


def prepare(source: TraceSource, folder: Path) -> PreparedTrace:
    """A canonical trace as it is; of another format, or cut to its first workflows, a copy in ``folder``.

    Raises TraceError if the file is in no known format or has a bad value.
    """
    with open_trace(source.path) as trace:
        if source.num_workflows is None and is_canonical(source.path):
            return PreparedTrace(
                source.name, str(source.path.absolute()), trace.metadata.digest, trace.num_calls
            )
        blank = replace(trace.metadata, digest="", num_workflows=0, num_calls=0)
        path = (folder / f"{source.name}.parquet").absolute()
        workflows = islice(trace.workflows(everything=True), source.num_workflows)
        metadata = write_trace(path, workflows, blank, force=True)
    return PreparedTrace(source.name, str(path), metadata.digest, metadata.num_calls)


def is_canonical(path: Path) -> bool:
    """Whether the file is Parquet: import formats are text, plain or gzipped."""
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"
