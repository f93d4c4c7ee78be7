"""Importers: one module a format, each with ``recognises(first line)`` and ``read(path)``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pbkv.traces.errors import ConfigError, TraceError
from pbkv.traces.importers import azure, jsonl, mooncake, mooncake_v2, parquet
from pbkv.traces.importers.lines import first_line
from pbkv.traces.schema import TraceMetadata, Workflow

Imported = tuple[Iterator[Workflow], TraceMetadata]

READERS: Mapping[str, Callable[..., Imported]] = {
    module.NAME: module.read for module in (parquet, jsonl, mooncake_v2, mooncake)
}
_RECOGNISERS: Mapping[str, Callable[[str], bool]] = {
    module.NAME: module.recognises for module in (parquet, jsonl, mooncake_v2, mooncake)
}
_IN_BLOCKS = (mooncake.NAME, mooncake_v2.NAME)


def recognise(path: Path) -> str:
    """The name of the format of ``path``, told from its content. Raises TraceError if it is none."""
    line = first_line(path)
    for name, recognises in _RECOGNISERS.items():
        if recognises(line):
            return name
    if azure.recognises(line):
        raise TraceError(path, "format", "an arrival log", "a trace (arrivals go with --arrivals)")
    raise TraceError(path, "format", line or "an empty file", "one of " + ", ".join(READERS))


def read(path: Path, *, format_name: str | None = None, block_size: int | None = None) -> Imported:
    """The workflows of ``path`` and their metadata, from any format.

    Raises TraceError for a bad file (while the workflows are read, too), ConfigError for an unknown
    ``format_name`` or a ``block_size`` where the format has no blocks.
    """
    name = format_name or recognise(path)
    if name not in READERS:
        raise ConfigError("format", name, "one of " + ", ".join(READERS))
    if block_size is None:
        return READERS[name](path)
    if name not in _IN_BLOCKS:
        raise ConfigError("block size", block_size, f"none (a {name} trace has no blocks)")
    if block_size < 1:
        raise ConfigError("block size", block_size, "a number ≥ 1")
    return READERS[name](path, block_size)
