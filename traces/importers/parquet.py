"""The canonical format itself: to rewrite a trace, or to label a Parquet file that has the right columns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq

from pbkv.traces.errors import TraceError
from pbkv.traces.reader import Trace
from pbkv.traces.schema import METADATA_KEY, TraceMetadata, Workflow

NAME = "parquet"


def recognises(line: str) -> bool:
    return line.startswith("PAR1")


def read(path: Path) -> tuple[Iterator[Workflow], TraceMetadata]:
    """The workflows, streamed, with all columns. A file without our metadata gets some. Raises TraceError."""
    if _is_labelled(path):
        trace = Trace(path)
        return trace.workflows(everything=True), trace.metadata
    metadata = TraceMetadata(path.name, generator="pbkv traces import", extra={"format": NAME})
    return _unlabelled(path, metadata), metadata


def _is_labelled(path: Path) -> bool:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError):
        return True  # Trace says what is wrong
    return METADATA_KEY in {**(file.schema_arrow.metadata or {}), **(file.metadata.metadata or {})}


def _unlabelled(path: Path, metadata: TraceMetadata) -> Iterator[Workflow]:
    with TemporaryDirectory(prefix="pbkv-") as folder:
        labelled = Path(folder) / "labelled.parquet"
        _label(path, labelled, metadata)
        try:
            yield from Trace(labelled).workflows(everything=True)
        except TraceError as error:
            raise TraceError(path, error.field, error.value, error.expected) from None


def _label(path: Path, labelled: Path, metadata: TraceMetadata) -> None:
    file = pq.ParquetFile(path)
    with pq.ParquetWriter(labelled, file.schema_arrow) as writer:
        for batch in file.iter_batches():
            writer.write_batch(batch)
        writer.add_key_value_metadata({METADATA_KEY: metadata.to_json()})
