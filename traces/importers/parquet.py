"""The canonical format itself: to rewrite a trace, or to label a Parquet file that has the right columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq

from pbkv.traces.errors import ConfigError, TraceError
from pbkv.traces.reader import Trace
from pbkv.traces.schema import METADATA_KEY, TEXT_LEFT_OUT, TraceMetadata, Workflow

NAME = "parquet"


def recognises(line: str) -> bool:
    return line.startswith("PAR1")


def read(path: Path, *, keeps_text: bool = False) -> tuple[Iterator[Workflow], TraceMetadata]:
    """The workflows, streamed, with all columns; texts only if they are asked for.

    A file without our metadata gets some. Raises TraceError, and ConfigError where there is no text to keep.
    """
    if not _is_labelled(path):
        if keeps_text:
            raise _no_text(path)
        metadata = TraceMetadata(path.name, generator="pbkv traces import", extra={"format": NAME})
        return _unlabelled(path, metadata), metadata
    trace = Trace(path)
    if keeps_text and not trace.metadata.has_text:
        raise _no_text(path)
    metadata = trace.metadata
    if metadata.has_text and not keeps_text:
        metadata = replace(metadata, extra={**metadata.extra, "text": TEXT_LEFT_OUT})
    return trace.workflows(everything=True, with_text=keeps_text), metadata


def _no_text(path: Path) -> ConfigError:
    return ConfigError("store text", str(path), "a trace that has text")


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
