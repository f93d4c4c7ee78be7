"""Trained predictors on disk: a safetensors file with all that is needed to use one.

Its metadata holds, under ``pbkv``, a JSON object with the fields of `Facts`. The arrays of a ``graph``
or ``rgcn`` are those of `pbkv.predict.network`; those of ``markov`` are counts (`pbkv.predict.saved`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pbkv.traces.errors import ConfigError
from pbkv.traces.temporary import check_free_file, replacing

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray[Any, Any]]

FORMAT_VERSION = 1
_METADATA_KEY = "pbkv"
_EXPECTED = "a file made by `pbkv train`"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file says of itself.

    ``kind``: graph, rgcn or markov:N. ``agents``: the columns, in order; END is the last one.
    ``context_kind`` and ``num_context_dims``: what a call must show (`pbkv.predict.context`). ``traces``:
    path, source, digest and counts of each. ``split``: per cent, seed, and workflows in each part.
    ``training``: seed, epochs and the like. ``accuracy``: by step, on the test part.
    """

    kind: str
    agents: Sequence[str]
    num_steps: int
    context_kind: str = "none"
    num_context_dims: int = 0
    is_conditional: bool = True
    traces: Sequence[Mapping[str, object]] = ()
    split: Mapping[str, object] = field(default_factory=dict)
    training: Mapping[str, object] = field(default_factory=dict)
    accuracy: Sequence[Mapping[str, float]] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


def write_model(path: Path, arrays: Arrays, facts: Facts, *, force: bool = False) -> None:
    """Write ``path`` under a temporary name and rename it. Raises ConfigError if it is taken."""
    from safetensors.numpy import save

    check_free_file(path, force)
    data = save(dict(arrays), {_METADATA_KEY: json.dumps(asdict(facts), sort_keys=True)})
    with replacing(path) as file:
        file.write_bytes(data)


def read_model(path: Path) -> tuple[dict[str, np.ndarray[Any, Any]], Facts]:
    """The arrays of ``path`` and its facts. Raises ConfigError if it is not a file of `write_model`."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ConfigError("predictor", str(path), "an existing file")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    except (SafetensorError, OSError, ValueError):
        raise ConfigError("predictor", str(path), f"{_EXPECTED} (this is no safetensors file)") from None
    if _METADATA_KEY not in metadata:
        raise ConfigError("predictor", str(path), f"{_EXPECTED} (this one lacks its metadata)")
    return arrays, _facts(path, metadata[_METADATA_KEY])


def _facts(path: Path, text: str) -> Facts:
    try:
        raw = json.loads(text)
        version = raw["format_version"]
        facts = Facts(**{name: raw[name] for name in Facts.__dataclass_fields__})
    except (ValueError, TypeError, KeyError):
        raise ConfigError("predictor", str(path), f"{_EXPECTED} (its metadata is broken)") from None
    if version != FORMAT_VERSION:
        raise ConfigError("predictor", f"{path}, format {version}", f"format {FORMAT_VERSION}")
    return facts
