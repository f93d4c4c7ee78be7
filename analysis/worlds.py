"""Several runs as few: those of one trace, on one machine, under one set of rules are one world.

A world's run is read like any other, whether its cells stand in one folder or in many (a sweep).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pbkv.analysis.engines import SIMULATE, engine_in_words, engine_of
from pbkv.analysis.load import Cell, Run, Setting, load
from pbkv.traces.errors import TraceError

if TYPE_CHECKING:
    import pandas as pd

# Settings that a cell has of its own, or that change nothing of what is measured.
_OF_CELLS = {
    "policies",
    "gpu_blocks",
    "host_blocks",
    "host_ratio",
    "concurrencies",
    "seeds",
    "block_size",
    "write_mode",
    "cache_events",
    "overheads",
    "sample_every_s",
}


@dataclass(frozen=True)
class World:
    """Cells that differ in nothing but their `Setting` and seed, from one run folder or several.

    ``name`` is the trace's and the machine's, with what else tells worlds apart. ``num_repeated`` cells
    were there more than once: the last counts.
    """

    name: str
    run: Run
    configs: Sequence[Mapping[str, Any]]
    paths: Sequence[Path]
    num_repeated: int = 0

    @property
    def engine(self) -> str:
        """simulate, replay or openai."""
        return engine_of(self.configs[0])

    @property
    def is_replay(self) -> bool:
        """Whether a real engine acted: one of ours, or a server."""
        return self.engine != SIMULATE

    @property
    def digests(self) -> tuple[str, ...]:
        """Of the traces; empty where run.json names none."""
        return _digests(self.configs[0])


@dataclass(frozen=True)
class JoinedRun(Run):
    """Some cells of several runs under new numbers: ``numbers`` has a map from old to new for each part."""

    parts: Sequence[Run] = ()
    numbers: Sequence[Mapping[int, int]] = ()

    def has(self, table: str) -> bool:
        return all(part.has(table) for part in self.parts)

    def frame(self, table: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """As of one run; with ``columns``, the cell's number must be among them."""
        import pandas as pd

        frames = []
        for part, numbers in zip(self.parts, self.numbers, strict=True):
            frame = part.frame(table, columns)
            frame = frame[frame["cell"].isin(list(numbers))]
            frames.append(frame.assign(cell=frame["cell"].map(numbers).astype("int32")))
        return pd.concat(frames, ignore_index=True)

    def batches(self, table: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        at = list(columns).index("cell")
        for part, numbers in zip(self.parts, self.numbers, strict=True):
            for batch in part.batches(table, columns):
                cells = [numbers.get(cell, -1) for cell in batch.column(at).to_pylist()]
                batch = batch.set_column(at, "cell", pa.array(cells, pa.int32()))
                yield batch.filter(pa.array(np.array(cells) >= 0))


def find_runs(path: Path) -> list[Path]:
    """``path`` if it is a run's folder, else all runs below it (a sweep's), by name.

    Raises TraceError if there is none.
    """
    if (path / "run.json").is_file() or not path.is_dir():
        return [path]
    found = sorted(file.parent for file in path.rglob("run.json") if not _is_hidden(file, path))
    if not found:
        raise TraceError(path, "run", "a folder without run.json", "a run's folder, or one with runs in it")
    return found


def worlds_of(paths: Sequence[Path]) -> list[World]:
    """The worlds of all runs at or below ``paths``, in the order given. Raises TraceError as `load` does."""
    groups: dict[str, list[Run]] = {}
    for path in dict.fromkeys(folder for given in paths for folder in find_runs(given)):
        run = load(path)
        groups.setdefault(_key(run.config), []).append(run)
    worlds = [_world(runs) for runs in groups.values()]
    return _told_apart(worlds)


def selected(run: Run, cells: Sequence[Cell]) -> Run:
    """The run as if it had these cells only."""
    return replace(run, cells=list(cells))


def _world(runs: Sequence[Run]) -> World:
    found: dict[tuple[Setting, int], tuple[int, Cell]] = {}
    num_cells = 0
    for part, run in enumerate(runs):
        for cell in run.cells:
            found[cell.setting, cell.seed] = (part, cell)
            num_cells += 1
    config = runs[0].config
    return World(
        _name(config),
        runs[0] if len(runs) == 1 and len(found) == num_cells else _joined(runs, list(found.values())),
        [run.config for run in runs],
        [run.path for run in runs],
        num_cells - len(found),
    )


def _joined(runs: Sequence[Run], found: Sequence[tuple[int, Cell]]) -> JoinedRun:
    numbers: list[dict[int, int]] = [{} for _ in runs]
    cells = []
    for number, (part, cell) in enumerate(found):
        numbers[part][cell.cell] = number
        cells.append(replace(cell, cell=number))
    entries = [{**_entry(runs[part], cell), "cell": number} for number, (part, cell) in enumerate(found)]
    config = {**runs[0].config, "cells": entries}
    return JoinedRun(runs[0].path.parent, config, cells, runs, numbers)


def _entry(run: Run, cell: Cell) -> Mapping[str, Any]:
    entries: Sequence[Mapping[str, Any]] = run.config["cells"]
    return next(entry for entry in entries if entry["cell"] == cell.cell)


def _key(config: Mapping[str, Any]) -> str:
    """What cells must share to be compared, as text."""
    rules = {name: value for name, value in _dict(config, "settings").items() if name not in _OF_CELLS}
    parts = [engine_of(config), _digests(config), config.get("profile"), rules]
    return json.dumps(parts, sort_keys=True, default=str)


def _digests(config: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(trace.get("digest", "")) for trace in traces_of(config))


def traces_of(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The traces of run.json; none in a file that names none."""
    found = config.get("trace")
    return [trace for trace in found if isinstance(trace, dict)] if isinstance(found, list) else []


def _dict(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def _name(config: Mapping[str, Any]) -> str:
    names = [Path(str(trace.get("path", ""))).name.split(".")[0] for trace in traces_of(config)]
    profile = str(_dict(config, "profile").get("name", ""))
    name = " on ".join(filter(None, [" + ".join(filter(None, names)), profile])) or "unnamed trace"
    return name if engine_of(config) == SIMULATE else f"{name}, {engine_in_words(config)}"


def _told_apart(worlds: Sequence[World]) -> list[World]:
    """Worlds of one name get what their rules differ in behind it, or a number."""
    named = []
    for index, world in enumerate(worlds):
        others = [other for other in worlds if other.name == world.name and other is not world]
        difference = _difference(world, others) if others else ""
        number = f"{index + 1}" if others and not difference else ""
        named.append(replace(world, name=" · ".join(filter(None, [world.name, difference, number]))))
    return named


def _difference(world: World, others: Sequence[World]) -> str:
    mine = flat_rules(world.configs[0])
    theirs = [flat_rules(other.configs[0]) for other in others]
    names = [name for name in mine if any(other.get(name) != mine[name] for other in theirs)]
    return ", ".join(f"{name.rpartition('.')[2]} {mine[name]}" for name in names)


def flat_rules(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of run.json that are no cell's own, by dotted name."""
    return _flat(_dict(config, "settings"))


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if before or name not in _OF_CELLS:
            flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {f"{before}{name}": value}
    return flat


def _is_hidden(file: Path, below: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(below).parts)
