"""Hardware profiles: a machine and a model as a TOML file, calibrated or derived from datasheets.

A calibrated profile has the tables [cost], [kv] and [link]; a derived one [gpu], [model], [precision],
[memory], [efficiency], [overhead], [link] and, for several GPUs, [parallel]. Either may have [engine], the
usual limit of its batches, and [source], free text. The shipped ones lie in ``profiles/``; each number
stands there with its source.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from pbkv.cache.known import MissCosts
from pbkv.sim.cost_model import CostModel, LinkModel
from pbkv.sim.roofline import Efficiency, Gpu, Memory, Model, Overhead, Parallel, Precision, Roofline
from pbkv.traces.errors import ConfigError


@dataclass(frozen=True, slots=True)
class HardwareProfile:
    """What an engine's replica costs in seconds and holds in bytes; all its GPUs together.

    ``default_kv_bytes`` is the memory left for KV, ``max_batched_tokens`` the engine's usual token budget
    of an iteration on it, ``inputs`` the profile's file as it was read.
    """

    name: str
    cost: CostModel
    kv_bytes_per_token: int
    default_kv_bytes: int
    link: LinkModel
    max_batched_tokens: int = 8192
    inputs: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def with_link(
        self, h2d_bytes_per_s: float | None = None, d2h_bytes_per_s: float | None = None
    ) -> HardwareProfile:
        """The profile with a direction of the link at exactly this rate (``LinkModel.with_bandwidth``)."""
        return replace(self, link=self.link.with_bandwidth(h2d_bytes_per_s, d2h_bytes_per_s))

    @property
    def miss_costs(self) -> MissCosts:
        """What it takes to compute a token in a full prefill batch, or to copy it up.

        The fixed cost of an iteration and the gathering of context are left out: other tokens share them.
        """
        budget, cost, link = self.max_batched_tokens, self.cost, self.link
        full_s = cost.iteration_s(budget, 0, 0.0, 0, 0) - cost.t0_s
        load_s_per_token = self.kv_bytes_per_token / link.h2d_bytes_per_s
        return MissCosts(full_s / budget, cost.a_p, link.latency_s, load_s_per_token)

    def to_dict(self) -> dict[str, Any]:
        """For run.json. Its ``cost``, ``kv`` and ``link`` are the tables of an equal calibrated profile."""
        return {
            "name": self.name,
            "cost": self.cost.to_dict(),
            "kv": {"bytes_per_token": self.kv_bytes_per_token, "memory_bytes": self.default_kv_bytes},
            "link": self.link.to_dict(),
            "engine": {"max_batched_tokens": self.max_batched_tokens},
            "inputs": dict(self.inputs),
        }


def shipped_profiles() -> tuple[str, ...]:
    """Names that ``load_profile`` knows without a path, sorted."""
    names = (entry.name for entry in files("pbkv.sim").joinpath("profiles").iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def load_profile(name_or_path: str) -> HardwareProfile:
    """The shipped profile of that name, or the one in a file whose path ends in .toml. Raises ConfigError."""
    if name_or_path.endswith(".toml"):
        return parse_profile(_read_text(Path(name_or_path)), Path(name_or_path).stem, name_or_path)
    if name_or_path not in shipped_profiles():
        expected = f"one of {', '.join(shipped_profiles())}, or a path that ends in .toml"
        raise ConfigError("profile", name_or_path, expected)
    text = files("pbkv.sim").joinpath("profiles", f"{name_or_path}.toml").read_text(encoding="utf-8")
    return parse_profile(text, name_or_path, f"profile {name_or_path}")


def parse_profile(text: str, name: str, where: str) -> HardwareProfile:
    """The profile that ``text`` (TOML) describes; errors call the text ``where``. Raises ConfigError."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(where, str(error), "TOML") from None
    return _calibrated(raw, name, where) if "cost" in raw else _derived(raw, name, where)


@dataclass(frozen=True, slots=True)
class _Kv:
    bytes_per_token: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class _EngineDefaults:
    max_batched_tokens: int = 8192


_DERIVED: dict[str, type[Any]] = {
    "gpu": Gpu,
    "model": Model,
    "precision": Precision,
    "memory": Memory,
    "efficiency": Efficiency,
    "overhead": Overhead,
    "parallel": Parallel,
}
_RATIOS = {"utilisation", "efficiency", "gemm", "attention", "weights", "kv"}
_MAY_BE_ZERO = {"reserve_bytes", "allreduce_s", "iteration_s", "sequence_s", "kv_passes"}
_LEAST = {"ridge_exponent": 1.0}


def _calibrated(raw: Mapping[str, Any], name: str, where: str) -> HardwareProfile:
    _check_keys(raw, {"cost", "kv", "link"}, {"engine", "source"}, where, "table")
    kv = _table(_Kv, raw["kv"], f"{where}: kv")
    return HardwareProfile(
        name,
        _cost(raw["cost"], f"{where}: cost"),
        kv.bytes_per_token,
        kv.memory_bytes,
        _link(raw, where),
        _max_batched_tokens(raw, where),
        raw,
    )


def _derived(raw: Mapping[str, Any], name: str, where: str) -> HardwareProfile:
    needed = {*_DERIVED, "link"} - {"parallel"}
    _check_keys(raw, needed, {"parallel", "engine", "source"}, where, "table")
    tables = {key: _table(_DERIVED[key], raw[key], f"{where}: {key}") for key in _DERIVED if key in raw}
    with _prefixed(f"{where}: model."):
        tables["model"].check()
    with _prefixed(f"{where}: parallel."):
        roofline = Roofline(**tables)
    with _prefixed(f"{where}: gpu."):
        kv_memory_bytes = roofline.kv_memory_bytes
    return HardwareProfile(
        name,
        roofline.cost_model(),
        roofline.kv_bytes_per_token,
        kv_memory_bytes,
        _link(raw, where),
        _max_batched_tokens(raw, where),
        raw,
    )


def _max_batched_tokens(raw: Mapping[str, Any], where: str) -> int:
    return _table(_EngineDefaults, raw.get("engine", {}), f"{where}: engine").max_batched_tokens


def _cost(raw: object, where: str) -> CostModel:
    names = {item.name for item in fields(CostModel) if item.init}
    table = _mapping(raw, where)
    _check_keys(table, names, set(), where, "key")
    knots = table["lin"]
    if not isinstance(knots, list) or any(not isinstance(knot, list) or len(knot) != 2 for knot in knots):
        raise ConfigError(f"{where}.lin", knots, "a list of [tokens, seconds]")
    with _prefixed(f"{where}."):
        return CostModel(**{**table, "lin": tuple((tokens, seconds) for tokens, seconds in knots)})


def _link(raw: Mapping[str, Any], where: str) -> LinkModel:
    table = _mapping(raw["link"], f"{where}: link")
    _check_keys(table, {item.name for item in fields(LinkModel)}, set(), f"{where}: link", "key")
    with _prefixed(f"{where}: link."):
        return LinkModel(**table)


_T = TypeVar("_T")


def _table(kind: type[_T], raw: object, where: str) -> _T:
    """A dataclass of numbers and names from a TOML table."""
    table = _mapping(raw, where)
    items = fields(kind)  # type: ignore[arg-type]  # a dataclass
    optional = {item.name for item in items if item.default is not MISSING}
    _check_keys(table, {item.name for item in items} - optional, optional, where, "key")
    return kind(
        **{
            item.name: _value(item.name, str(item.type), table[item.name], where)
            for item in items
            if item.name in table
        }
    )


def _value(key: str, kind: str, raw: object, where: str) -> object:
    if kind == "str":
        if isinstance(raw, str) and raw:
            return raw
        raise ConfigError(f"{where}.{key}", raw, "a text")
    least = _LEAST.get(key, 0.0)
    expected = f"{'a whole' if kind == 'int' else 'a finite'} number"
    expected += f" ≥ {least:g}" if least or key in _MAY_BE_ZERO else " > 0"
    expected += " and ≤ 1" if key in _RATIOS else ""
    if isinstance(raw, bool) or not isinstance(raw, int if kind == "int" else int | float):
        raise ConfigError(f"{where}.{key}", raw, expected)
    most = 1.0 if key in _RATIOS else math.inf
    if not least <= raw <= most or raw == math.inf or (not raw and key not in _MAY_BE_ZERO):
        raise ConfigError(f"{where}.{key}", raw, expected)
    return raw


def _mapping(raw: object, where: str) -> Mapping[str, Any]:
    if not isinstance(raw, Mapping):
        raise ConfigError(where, raw, "a table")
    return raw


def _check_keys(raw: Mapping[str, Any], needed: set[str], optional: set[str], where: str, noun: str) -> None:
    unknown, missing = sorted(set(raw) - needed - optional), sorted(needed - set(raw))
    separator = ": " if noun == "table" else "."
    if unknown:
        known = ", ".join(sorted(needed | optional))
        raise ConfigError(f"{where}{separator}{unknown[0]}", f"an unknown {noun}", f"one of {known}")
    if missing:
        raise ConfigError(f"{where}{separator}{missing[0]}", "nothing", f"this {noun}, as it has no default")


@contextmanager
def _prefixed(where: str) -> Iterator[None]:
    """Say in which file and table a field lies whose own check has failed."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(where + error.field, error.value, error.expected) from None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("profile", str(path), f"a readable UTF-8 file ({error})") from None
