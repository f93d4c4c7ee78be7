"""Opens a trace in whatever format it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from pbkv.traces import importers
from pbkv.traces.reader import Trace
from pbkv.traces.writer import write_trace


@contextmanager
def open_trace(path: Path | str) -> Iterator[Trace]:
    """``path`` as a canonical trace; another format is imported into a temporary file, removed at the end.

    Raises TraceError if the file is in no known format or has a bad value.
    """
    path = Path(path)
    name = importers.recognise(path)
    if name == importers.parquet.NAME:
        yield Trace(path)
        return
    with TemporaryDirectory(prefix="pbkv-") as folder:
        imported = Path(folder) / f"{path.name}.parquet"
        workflows, metadata = importers.read(path, format_name=name)
        write_trace(imported, workflows, metadata)
        yield Trace(imported, source=path)
