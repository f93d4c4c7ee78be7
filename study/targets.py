"""What a plan is to reach: ``ttft_p95=2s``, ``workflows_per_s=0.5``, ``hit_ratio=90%``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pbkv.study.measures import PERCENTILES, TIMES
from pbkv.traces.errors import ConfigError

_UNITS: Mapping[str, float] = {"": 1, "ms": 1e-3, "s": 1, "min": 60, "h": 3600}
_RATE_UNITS: Mapping[str, float] = {"": 1, "/s": 1, "/min": 1 / 60, "/h": 1 / 3600}
_RATIO_UNITS: Mapping[str, float] = {"": 1, "%": 0.01}
_TIMES: Mapping[str, str] = {
    **{f"{name}_mean": f"{name}_s" for name in TIMES},
    **{f"{name}_p{share}": f"{name}_p{share}_s" for name in TIMES for share in PERCENTILES},
}
_RATES = ("workflows_per_s", "calls_per_s", "output_tokens_per_s")
_RATIOS = ("hit_ratio", "gpu_hit_ratio")
NAMES = (*_TIMES, *_RATES, *_RATIOS)


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on a measure's column: at most (times) or at least (rates and ratios)."""

    name: str
    column: str
    bound: float
    at_most: bool

    def is_met(self, value: float | None) -> bool:
        """Whether the value is known and within the bound."""
        if value is None or math.isnan(value):
            return False
        return value <= self.bound if self.at_most else value >= self.bound

    def text(self) -> str:
        """For tables: ``ttft_p95 ≤ 2 s``."""
        unit = " s" if self.at_most else ""
        return f"{self.name} {'≤' if self.at_most else '≥'} {self.bound:g}{unit}"


def parse_target(text: str) -> Target:
    """The target that ``text`` names. Raises ConfigError."""
    name, _, value = text.partition("=")
    name, found = name.strip(), re.fullmatch(r"\s*([0-9.]+(?:e-?\d+)?)\s*([a-z/%]*)\s*", value)
    if name not in NAMES:
        raise ConfigError("--target", text, "NAME=VALUE with one of " + ", ".join(NAMES))
    units = _UNITS if name in _TIMES else _RATE_UNITS if name in _RATES else _RATIO_UNITS
    words = ", ".join(unit for unit in units if unit)
    try:
        bound = float(found[1]) * units[found[2]] if found else 0.0
    except (KeyError, ValueError):
        bound = 0.0
    if not 0 < bound < math.inf:
        raise ConfigError("--target", text, f"{name}= a number > 0, with or without {words}")
    if name in _RATIOS and bound > 1:
        raise ConfigError("--target", text, f"{name}= a share up to 1, or 100%")
    return Target(name, _TIMES.get(name, name), bound, name in _TIMES)


def mean_of(rows: Sequence[Mapping[str, Any]], column: str) -> float | None:
    """The mean over seeds; None if a cell failed or does not define the measure."""
    values = [row.get(column) for row in rows]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
