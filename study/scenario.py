"""A scenario file (TOML): the settings of a sweep, whose combinations are its cells. docs/sweep.md."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pbkv.cache.config import WriteMode
from pbkv.study.cell import GIB, Policy, PreparedTrace, StudyCell
from pbkv.study.cells import text_of
from pbkv.study.policies import read_policies, read_shared_options
from pbkv.study.toml_table import FLAG, TEXT, Kind, TomlTable, named_as, number, one_of, whole
from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    from pbkv.sim.profile import HardwareProfile

OPEN_LOOP = "open-loop"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_SETTINGS: Mapping[str, Kind] = {
    "block_size": whole(1),
    "shuffle": FLAG,
    "early_offload": FLAG,
    "whole_nodes": FLAG,
    "watermark_ratio": number(0),
    "prefill_reserve_tokens": whole(0),
    "unknown_gap_s": number(0),
    "skip_too_long": FLAG,
    "faults": TEXT,
}
_ENGINE: Mapping[str, Kind] = {
    "max_batched_tokens": whole(1),
    "max_sequences": whole(1),
    "request_order": one_of("fcfs", "lpm"),
    "batching": one_of("mixed", "prefill-first"),
}
_WRITE_MODES = one_of(*WriteMode)
_CONCURRENCY = Kind(
    f'a whole number ≥ 1, or "{OPEN_LOOP}"', lambda v: v == OPEN_LOOP or (type(v) is int and v >= 1)
)


@dataclass(frozen=True, slots=True)
class TraceSource:
    """A trace as the scenario names it; of several thousand workflows perhaps only the first ones."""

    name: str
    path: Path
    num_workflows: int | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """What to sweep over. ``gpu_sizes`` and ``host_sizes`` are (unit, values): blocks, GiB, or a ratio."""

    text: str
    traces: Sequence[TraceSource]
    policies: Sequence[Policy]
    profiles: Sequence[tuple[str, HardwareProfile]]
    gpu_sizes: tuple[str, Sequence[float]]
    host_sizes: tuple[str, Sequence[float]]
    concurrencies: Sequence[int | None]
    seeds: Sequence[int]
    write_modes: Sequence[str]
    settings: tuple[tuple[str, Any], ...]
    engine: tuple[tuple[str, Any], ...]

    def num_cells(self) -> int:
        """How many combinations there are; equal ones, if any, are simulated once."""
        sizes = max(1, len(self.gpu_sizes[1])) * len(self.host_sizes[1])
        dimensions = (
            self.traces,
            self.policies,
            self.profiles,
            self.concurrencies,
            self.seeds,
            self.write_modes,
        )
        for values in dimensions:
            sizes *= len(values)
        return sizes

    def cells(self, traces: Sequence[PreparedTrace], scratch: str = "", records: str = "") -> list[StudyCell]:
        """All combinations, seeds varying slowest and policies fastest."""
        found = [
            StudyCell(
                trace,
                policy,
                name,
                profile_digest(profile),
                *sizes,
                concurrency,
                seed,
                write_mode,
                self.settings,
                self.engine,
                scratch,
                records,
            )
            for seed, trace, (name, profile), concurrency, write_mode in product(
                self.seeds, traces, self.profiles, self.concurrencies, self.write_modes
            )
            for sizes in self._capacities(profile)
            for policy in self.policies
        ]
        return list(dict.fromkeys(found))

    def _capacities(self, profile: HardwareProfile) -> list[tuple[int, int]]:
        block_bytes = dict(self.settings).get("block_size", 16) * profile.kv_bytes_per_token
        unit, sizes = self.gpu_sizes
        blocks = {"blocks": 1.0, "gib": GIB / block_bytes}
        gpu = [int(size * blocks[unit]) for size in sizes] or [profile.default_kv_bytes // block_bytes]
        unit, hosts = self.host_sizes
        return [
            (size, round(size * host) if unit == "ratio" else int(host * blocks[unit]))
            for size, host in product(gpu, hosts)
        ]


def profile_digest(profile: HardwareProfile) -> str:
    """Tells a profile from another of its name."""
    return hashlib.sha256(text_of(profile.to_dict()).encode()).hexdigest()[:16]


def read_scenario(path: Path) -> Scenario:
    """The scenario in file ``path``; its paths are relative to its folder. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
        raw = tomllib.loads(text)
    except OSError as error:
        raise ConfigError("scenario", str(path), f"a readable file ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(str(path), "bytes that are not UTF-8", "TOML") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(path), str(error), "TOML") from None
    return parse_scenario(raw, text, path)


def parse_scenario(raw: Mapping[str, Any], text: str, path: Path) -> Scenario:
    """The scenario that the tables ``raw`` describe; every setting is checked. Raises ConfigError."""
    table, folder = TomlTable(raw, str(path), ": "), path.parent
    traces = _traces(table, folder)
    profiles = _profiles(table, folder)
    shared = read_shared_options(table, folder)
    scenario = Scenario(
        text,
        traces,
        read_policies(table, folder, shared),
        profiles,
        _sizes(table, {"gpu_blocks": ("blocks", whole(1)), "gpu_gib": ("gib", number(0, above=True))}, ()),
        _sizes(
            table,
            {
                "host_ratios": ("ratio", number(0)),
                "host_blocks": ("blocks", whole(0)),
                "host_gib": ("gib", number(0)),
            },
            (1.0,),
        ),
        tuple(
            None if value == OPEN_LOOP else value
            for value in table.take_list("concurrencies", _CONCURRENCY, (48,))
        ),
        table.take_list("seeds", whole(0), (0,)),
        table.take_list("write_modes", _WRITE_MODES, (WriteMode.WRITE_THROUGH.value,)),
        _values(table, "settings", _SETTINGS),
        _values(table, "engine", _ENGINE),
    )
    table.finish()
    _check(scenario, str(path))
    return scenario


def _traces(table: TomlTable, folder: Path) -> list[TraceSource]:
    words = "a path, or a table of path, name, num_workflows"
    items = table.items("traces", words)
    if not items:
        raise ConfigError(table.field("traces"), "nothing", f"a list, each {words}")
    found: list[TraceSource] = []
    for index, item in enumerate(items):
        where = f"{table.field('traces')}[{index}]"
        inner = TomlTable({"path": item} if isinstance(item, str) else item, where)
        path = inner.take("path", TEXT)
        if path is None:
            raise ConfigError(inner.field("path"), "nothing", "the path of a trace")
        name = inner.take("name", TEXT, Path(path).name.partition(".")[0])
        num_workflows = inner.take("num_workflows", whole(1))
        inner.finish()
        if not _NAME.fullmatch(name):
            raise ConfigError(inner.field("name"), name, "letters, digits and . _ + -: it names a folder")
        if name in [source.name for source in found]:
            raise ConfigError(inner.field("name"), name, "a name of its own for each trace")
        if not (folder / path).is_file():
            raise ConfigError(inner.field("path"), str(folder / path), "a file that exists")
        found.append(TraceSource(name, folder / path, num_workflows))
    return found


def _profiles(table: TomlTable, folder: Path) -> list[tuple[str, HardwareProfile]]:
    from pbkv.sim.profile import load_profile

    found = []
    for index, name in enumerate(table.take_list("profiles", TEXT, ("h100-llama-3.1-8b",))):
        name = str(folder / name) if name.endswith(".toml") else name
        with named_as(f"{table.field('profiles')}[{index}]"):
            found.append((name, load_profile(name)))
    return found


def _sizes(
    table: TomlTable, units: Mapping[str, tuple[str, Kind]], default: tuple[float, ...]
) -> tuple[str, Sequence[float]]:
    table.one_at_most(*units)
    unit = next(iter(units.values()))[0]
    values: tuple[float, ...] = default
    for key, (name, kind) in units.items():
        given = table.take_list(key, kind)
        if given:
            unit, values = name, given
    return unit, values


def _values(table: TomlTable, key: str, kinds: Mapping[str, Kind]) -> tuple[tuple[str, Any], ...]:
    inner = TomlTable(table.raw(key) if table.has(key) else {}, table.field(key))
    found = {name: inner.take(name, kind) for name, kind in kinds.items()}
    inner.finish()
    return tuple((name, value) for name, value in sorted(found.items()) if value is not None)


def _check(scenario: Scenario, where: str) -> None:
    """Build the settings of a cell of each policy, profile and size, so that no cell fails by a slip."""
    nothing = PreparedTrace("", "", "", 0)
    for cell in {(cell.policy, cell.profile): cell for cell in scenario.cells([nothing])}.values():
        try:
            cell.make_settings()
        except ConfigError as error:
            field = f"{where}: {cell.policy.label}: {error.field}"
            raise ConfigError(field, error.value, error.expected) from None
    for cell in scenario.cells([nothing]):
        if cell.gpu_blocks < 1:
            raise ConfigError(f"{where}: gpu_gib", cell.gpu_blocks, "at least one block")
