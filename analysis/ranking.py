"""Policies in the order of their workflow latency, simulated and replayed: the same order or not.

A simulator may be wrong in seconds and still right in what it is asked for: which policy is better, and
by how much. The latter is the speedup over a baseline, the former Kendall's tau.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from pbkv.analysis.load import Setting


@dataclass(frozen=True, slots=True)
class Speedup:
    """Mean workflow latency of the baseline over the policy's, in both worlds."""

    policy: str
    simulated: float
    replayed: float
    lowest: float  # over the repeats: each against the same repeat of the baseline
    highest: float

    @property
    def error(self) -> float:
        return self.simulated / self.replayed - 1


@dataclass(frozen=True, slots=True)
class Ranking:
    """Policies at the same capacities and load, best first; ``setting`` is that of one of them.

    ``kendall_tau``: of all pairs of policies, those in the same order less those in the other, as a share.
    ``repeat_taus``: the same of each repeat's own order, so that one sees what chance does.
    """

    setting: Setting
    simulated: tuple[str, ...]
    replayed: tuple[str, ...]
    kendall_tau: float
    repeat_taus: tuple[float, ...]
    speedups: tuple[Speedup, ...]

    @property
    def is_identical(self) -> bool:
        return self.simulated == self.replayed


def rank(
    setting: Setting,
    simulated_s: Mapping[str, float],
    replayed_s: Mapping[str, Sequence[float]],
    baseline: str,
) -> Ranking:
    """Rank by mean latency: ``simulated_s`` by policy, ``replayed_s`` by policy and repeat.

    Every policy has the same number of repeats. There are no speedups where the baseline is not there.
    """
    means = {policy: sum(values) / len(values) for policy, values in replayed_s.items()}
    repeats = [
        dict(zip(replayed_s, values, strict=True)) for values in zip(*replayed_s.values(), strict=True)
    ]
    others = [policy for policy in simulated_s if policy != baseline and baseline in simulated_s]
    return Ranking(
        setting,
        _ordered(simulated_s),
        _ordered(means),
        kendall_tau(simulated_s, means),
        tuple(kendall_tau(simulated_s, repeat) for repeat in repeats),
        tuple(_speedup(policy, baseline, simulated_s, means, repeats) for policy in others),
    )


def kendall_tau(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Of pairs in the same order less pairs in the other, as a share of all pairs.

    A tie in one counts as neither, a tie in both as agreement.

    1 for fewer than two policies. Quadratic in their number. (Kendall's tau-a.)
    """
    pairs = list(combinations(one, 2))
    signs = [_sign(one[a] - one[b]) * _sign(other[a] - other[b]) for a, b in pairs]
    ties = sum(one[a] == one[b] and other[a] == other[b] for a, b in pairs)  # the same in both: agreed
    return (sum(signs) + ties) / len(pairs) if pairs else 1.0


def _speedup(
    policy: str,
    baseline: str,
    simulated_s: Mapping[str, float],
    means: Mapping[str, float],
    repeats: Sequence[Mapping[str, float]],
) -> Speedup:
    each = [repeat[baseline] / repeat[policy] for repeat in repeats]
    simulated, replayed = (times[baseline] / times[policy] for times in (simulated_s, means))
    return Speedup(policy, simulated, replayed, min(each), max(each))


def _ordered(times_s: Mapping[str, float]) -> tuple[str, ...]:
    """Best first; equal ones by name."""
    return tuple(sorted(times_s, key=lambda policy: (times_s[policy], policy)))


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
