"""What a trace's footer says: its metadata and the columns that it has."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pbkv.traces.errors import TraceError
from pbkv.traces.schema import METADATA_KEY, NEW_TEXTS, SCHEMA, SCHEMA_VERSION, TraceMetadata


def opened(path: Path) -> pq.ParquetFile:
    if not path.is_file():
        raise TraceError(path, "file", "nothing", "an existing file")
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise TraceError(path, "file", str(error), "a Parquet file") from None


def metadata_of(path: Path, file: pq.ParquetFile) -> TraceMetadata:
    raw = (file.schema_arrow.metadata or {}).get(METADATA_KEY) or (file.metadata.metadata or {}).get(
        METADATA_KEY
    )
    if raw is None:
        raise TraceError(
            path, "metadata", "no 'pbkv' entry", "a file made by `pbkv traces import` or `generate`"
        )
    try:
        metadata = TraceMetadata.from_json(raw)
    except (ValueError, TypeError, AttributeError):
        raise TraceError(path, "metadata", raw.decode(errors="replace"), "a JSON object") from None
    if metadata.schema_version != SCHEMA_VERSION:
        raise TraceError(path, "schema_version", metadata.schema_version, f"{SCHEMA_VERSION}")
    return metadata


def check_columns(path: Path, schema: pa.Schema) -> None:
    for expected in SCHEMA:
        if expected.name not in schema.names:
            raise TraceError(path, "columns", f"no column {expected.name!r}", ", ".join(SCHEMA.names))
        _check_type(path, schema, expected)
    if NEW_TEXTS.name in schema.names:
        _check_type(path, schema, NEW_TEXTS)


def _check_type(path: Path, schema: pa.Schema, expected: pa.Field) -> None:
    found = schema.field(expected.name).type
    if not _is_readable_as(found, expected.type):
        raise TraceError(path, expected.name, f"values of type {found}", f"values of type {expected.type}")


def _is_readable_as(found: pa.DataType, expected: pa.DataType) -> bool:
    """Whether values of type ``found`` are of the kind of ``expected``, in whatever width."""
    kinds = pa.types
    if kinds.is_struct(expected):
        names = [found.field(i).name for i in range(found.num_fields)] if kinds.is_struct(found) else []
        return all(f.name in names and _is_readable_as(found.field(f.name).type, f.type) for f in expected)
    if kinds.is_list(expected):
        return kinds.is_list(found) and _is_readable_as(found.value_type, expected.value_type)
    if kinds.is_string(expected):
        found = found.value_type if kinds.is_dictionary(found) else found
        return bool(kinds.is_string(found) or kinds.is_large_string(found))
    if kinds.is_floating(expected):
        return bool(kinds.is_floating(found) or kinds.is_integer(found))
    return bool(kinds.is_integer(found))
