"""The limits that a run of bench/peers.py is judged by, and the judgement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ahead", "pass", "miss", "behind", "reported", "not measured"]

# Linear growth is judged on one run of the long trace: 10 % is what single runs scatter by.
_LINEAR = 1.10


@dataclass(frozen=True, slots=True)
class Limit:
    """``must`` is required, ``ahead`` is the aim; with neither, a number is only reported."""

    key: str
    gate: str
    what: str
    unit: str
    must: float | None
    ahead: float | None
    at_least: bool = False

    def verdict(self, value: float | None) -> Verdict:
        """ahead ⊂ pass; without a ``must`` a missed aim is "behind", not "miss"."""
        if value is None:
            return "not measured"
        if self.must is None and self.ahead is None:
            return "reported"
        if self.ahead is not None and self._holds(value, self.ahead):
            return "ahead"
        if self.must is None:
            return "behind"
        return "pass" if self._holds(value, self.must) else "miss"

    def _holds(self, value: float, limit: float) -> bool:
        return value >= limit if self.at_least else value <= limit


LIMITS = (
    Limit("a_time", "A", "whole CLI beside the peer: wall time, median of pairs", "×", 1.0, 0.36),
    Limit("a_memory", "A", "whole CLI beside the peer: peak memory, median of pairs", "×", 1.0, 0.52),
    Limit("b_loop", "B", "the loop alone", "calls/s", 10_000.0, 22_000.0, at_least=True),
    # Calls a second depend on the machine; beside the peer's own they do not.
    Limit("b_beside", "B", "the loop alone over the peer's loop, median of pairs", "×", None, None),
    Limit("c_time", "C", "long trace: wall time over linear growth", "×", _LINEAR, None),
    Limit("c_memory", "C", "long trace: peak memory over linear growth", "×", _LINEAR, None),
    Limit("c_per_reference", "C", "long trace: peak memory for 1 M block references", "MB", None, 17.0),
    Limit("g_size", "G", "records as Parquet, all files", "MB", 2.0, None),
    Limit("g_time", "G", "writing the records", "s", 0.4, None),
    Limit("h_module", "H", "python -m pbkv --help, median", "s", 0.18, None),
    Limit("h_script", "H", "pbkv --help, median", "s", 0.18, None),
)


@dataclass(frozen=True, slots=True)
class Judged:
    """A limit, what was measured (None: it was not), and what follows."""

    limit: Limit
    value: float | None
    verdict: Verdict


def judge(values: Mapping[str, float | None]) -> list[Judged]:
    """Each limit with its value. Raises KeyError if ``values`` holds a key that no limit has."""
    unknown = values.keys() - {limit.key for limit in LIMITS}
    if unknown:
        raise KeyError(f"no such limit: {', '.join(sorted(unknown))}")
    measured = [(limit, values.get(limit.key)) for limit in LIMITS]
    return [Judged(limit, value, limit.verdict(value)) for limit, value in measured]


def growth_over_linear(small: float, large: float, num_small: int, num_large: int) -> float:
    """``large`` over ``small`` scaled up by the number of calls; 1 or less means linear or better."""
    return (large / num_large) / (small / num_small)
