"""Importers: one module a format, each with ``NAME``, ``read(path)`` and a way to recognise it.

``recognises`` looks at the first line, ``recognises_file`` at more, ``recognises_folder`` at a folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

from pbkv.traces.errors import ConfigError, TraceError
from pbkv.traces.importers import (
    azure,
    claude_code,
    jsonl,
    lmcache,
    mooncake,
    mooncake_v1,
    mooncake_v2,
    openai_log,
    otel,
    parquet,
    tau2,
    vllm_events,
    weka,
)
from pbkv.traces.importers.lines import first_line
from pbkv.traces.importers.text import tokens_of
from pbkv.traces.schema import TraceMetadata, Workflow

Imported = tuple[Iterator[Workflow], TraceMetadata]

_MODULES = (  # in the order in which they are asked whether a file is theirs
    parquet,
    jsonl,
    mooncake_v2,
    mooncake_v1,
    mooncake,
    claude_code,
    weka,
    lmcache,
    vllm_events,
    openai_log,
    otel,
    tau2,
)
READERS: Mapping[str, Callable[..., Imported]] = {module.NAME: module.read for module in _MODULES}
_OF_BLOCKS = (mooncake, mooncake_v1, mooncake_v2, weka, lmcache, vllm_events)
_IN_BLOCKS = tuple(module.NAME for module in _OF_BLOCKS)
_IN_TEXT = tuple(module.NAME for module in (claude_code, openai_log, otel, tau2))
_IN_FOLDERS = (claude_code, lmcache, weka, tau2)


def recognise(path: Path) -> str:
    """The name of the format of ``path``, told from its content. Raises TraceError if it is none."""
    if path.is_dir():
        return _recognise_folder(path)
    line = first_line(path)
    for module in _MODULES:
        if _recognises(module, line, path):
            return str(module.NAME)
    if azure.recognises(line):
        raise TraceError(path, "format", "an arrival log", "a trace (arrivals go with --arrivals)")
    raise TraceError(path, "format", line or "an empty file", "one of " + ", ".join(READERS))


def read(
    path: Path,
    *,
    format_name: str | None = None,
    block_size: int | None = None,
    tokenizer: str | None = None,
    workflow_field: str | None = None,
    agent_field: str | None = None,
    store_text: bool = False,
) -> Imported:
    """The workflows of ``path`` (a file, or a folder of logs) and their metadata, from any format.

    ``tokenizer`` turns text into tokens, where a format has text (None: an estimate); the two fields say
    where a request/response log keeps workflow and agent. Raises TraceError for a bad file (while the
    workflows are read, too), ConfigError for an unknown ``format_name`` and an option that it does not have.
    """
    if format_name is not None and format_name not in READERS:
        raise ConfigError("format", format_name, "one of " + ", ".join(READERS))
    name = format_name or recognise(path)
    if path.is_dir() and name not in {module.NAME for module in _IN_FOLDERS}:
        raise TraceError(path, "file", "a folder", f"a file (a {name} trace is one)")
    if not path.exists():
        raise TraceError(path, "file", "nothing", "an existing file or folder")
    fields = {"workflow_field": workflow_field, "agent_field": agent_field}
    given = {key: value for key, value in fields.items() if value is not None}
    _check_options(name, given, tokenizer, store_text)
    if block_size is not None:
        _check_block_size(name, block_size)
        return READERS[name](path, block_size)
    if name in _IN_TEXT:
        return READERS[name](path, tokens_of(tokenizer), keeps_text=store_text, **given)
    return READERS[name](path, keeps_text=True) if store_text else READERS[name](path)


def _check_options(name: str, fields: Mapping[str, str], tokenizer: str | None, store_text: bool) -> None:
    if fields and name != openai_log.NAME:
        key, value = next(iter(fields.items()))
        raise ConfigError(key.replace("_", " "), value, f"none (only {openai_log.NAME} logs have one)")
    if tokenizer is not None and name not in _IN_TEXT:
        raise ConfigError("tokenizer", tokenizer, f"none (a {name} trace has no text)")
    if store_text and name not in (*_IN_TEXT, parquet.NAME):
        raise ConfigError("store text", "on", f"off (a {name} trace has no text)")


def _check_block_size(name: str, block_size: int) -> None:
    if name not in _IN_BLOCKS:
        raise ConfigError("block size", block_size, f"none (a {name} trace has no blocks)")
    if block_size < 1:
        raise ConfigError("block size", block_size, "a number ≥ 1")


def _recognises(module: ModuleType, line: str, path: Path) -> bool:
    by_line, by_file = getattr(module, "recognises", None), getattr(module, "recognises_file", None)
    return bool(by_line and by_line(line)) or bool(by_file and by_file(path))


def _recognise_folder(path: Path) -> str:
    for module in _IN_FOLDERS:
        if module.recognises_folder(path):
            return str(module.NAME)
    names = ", ".join(module.NAME for module in _IN_FOLDERS)
    raise TraceError(path, "format", "a folder without known logs", f"a folder of {names}")
