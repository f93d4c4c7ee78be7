"""What the numbers of a run say, in a word: is it the memory, the policy, or neither?

One verdict a *load*: a setting without its policy. Latencies are paired by workflow and compared with
the baseline's; of n policies compared, each interval has the confidence 1 − 0.05 / n (Bonferroni), so that
the best of many is not called better by chance. Bounds (infinite, oracles) are no candidates.

    no pressure     at most 1 % of the prompt tokens had left the GPU when they were needed again (the
                    whole interval), or an infinite cache was run and gains less than 2 % (the whole interval)
    policy-bound    not so, and a policy's interval lies wholly below the baseline's latency, with a mean
                    gain of at least 2 %: the one with the largest gain is named
    capacity-bound  not so, and each policy's interval lies wholly above 98 % of the baseline's latency:
                    buy memory or admit less
    undecided       the intervals allow for more than one of these, or there is one policy alone

"Had left the GPU" are the token classes evicted, host_hit and loading. Only the cache is judged: a
load whose prompts are all cold, or an engine short of compute, is under no pressure in this sense.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from pbkv.analysis.intervals import CONFIDENCE, Interval, mean_interval, ratio_interval
from pbkv.analysis.load import Cell, Setting
from pbkv.analysis.metrics import Pairing, pairings
from pbkv.cache.named import BOUNDS, INFINITE

if TYPE_CHECKING:
    import pandas as pd

LOST_CLASSES = ("evicted", "host_hit", "loading")
MAX_LOST_RATIO = 0.01  # of the prompt tokens: less is no pressure
MIN_GAIN = 0.02  # of the mean latency: less is not worth a policy

Word = Literal["no pressure", "policy-bound", "capacity-bound", "undecided"]


@dataclass(frozen=True, slots=True)
class Gain:
    """A policy's mean latency over the baseline's: 0.9 is a tenth less. ``half`` at ``confidence``."""

    policy: str
    ratio: Interval
    confidence: float

    @property
    def is_better(self) -> bool:
        """By its whole interval, and by as much as is worth it."""
        return self.ratio.high is not None and self.ratio.high < 1 and self.ratio.mean <= 1 - MIN_GAIN

    @property
    def is_little(self) -> bool:
        """By its whole interval it gains less than is worth it."""
        return self.ratio.low is not None and self.ratio.low > 1 - MIN_GAIN


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on one load. ``load`` is the baseline's setting; ``lost_ratio`` and gains as above."""

    word: Word
    load: Setting
    lost_ratio: Interval | None
    gains: tuple[Gain, ...]
    bounds: tuple[Gain, ...]

    @property
    def baseline(self) -> str:
        return self.load.policy

    @property
    def best(self) -> Gain | None:
        """The candidate with the lowest mean latency."""
        return min(self.gains, key=lambda gain: gain.ratio.mean, default=None)

    @property
    def infinite(self) -> Gain | None:
        return next((gain for gain in self.bounds if gain.policy == INFINITE), None)


def verdicts(frame: pd.DataFrame, cells: Sequence[Cell], baseline: str) -> list[Verdict]:
    """A verdict on each load, in the order of ``cells``; ``frame`` is `by_workflow`'s of these cells.

    A load without the baseline's cell is judged against its first policy that is no bound.
    """
    loads: dict[Setting, list[Cell]] = {}
    for cell in cells:
        loads.setdefault(load_of(cell.setting), []).append(cell)
    return [_verdict(frame, group, baseline) for group in loads.values()]


def load_of(setting: Setting) -> Setting:
    """The setting without its policy."""
    return replace(setting, policy="", policy_note="")


def baseline_of(cells: Sequence[Cell], wanted: str | None = None) -> str:
    """The policy to compare with: ``wanted``, else lru if it was run, else the first that is no bound."""
    policies = [cell.setting.policy for cell in cells]
    if wanted in policies:
        return str(wanted)
    real = [policy for policy in policies if policy not in BOUNDS]
    return "lru" if "lru" in policies else (real or policies)[0]


def _verdict(frame: pd.DataFrame, cells: Sequence[Cell], wanted: str) -> Verdict:
    baseline = baseline_of(cells, wanted)
    candidates = {cell.setting.policy for cell in cells} - {baseline, *BOUNDS}
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(candidates))
    found = pairings(frame, cells, baseline, "jct_s", confidence)
    gains = [gain for gain in _gains(found, confidence) if gain.policy in candidates]
    usual = _gains(pairings(frame, cells, baseline, "jct_s"), CONFIDENCE)
    bounds = [gain for gain in usual if gain.policy in BOUNDS]
    mine = [cell for cell in cells if cell.setting.policy == baseline]
    lost = lost_ratio(frame, mine)
    verdict = Verdict("undecided", mine[0].setting, lost, tuple(gains), tuple(bounds))
    return replace(verdict, word=word_of(lost, gains, verdict.infinite))


def word_of(lost: Interval | None, gains: Sequence[Gain], infinite: Gain | None) -> Word:
    """The rule at the head of this module."""
    has_room = lost is not None and lost.high is not None and lost.high <= MAX_LOST_RATIO
    if has_room or (infinite is not None and infinite.is_little):
        return "no pressure"
    if any(gain.is_better for gain in gains):
        return "policy-bound"
    is_pressed = lost is not None and lost.low is not None and lost.low > MAX_LOST_RATIO
    if is_pressed and gains and all(gain.is_little for gain in gains):
        return "capacity-bound"
    return "undecided"


def lost_ratio(frame: pd.DataFrame, cells: Sequence[Cell]) -> Interval | None:
    """Of the prompt tokens of ``cells`` (seeds of one setting), those that had left the GPU.

    None where that is not known: a server does not say.
    """
    found = []
    for cell in cells:
        mine = frame[frame["cell"] == cell.cell]
        lost = mine[[f"num_{name}_tokens" for name in LOST_CLASSES]].to_numpy(np.float64).sum(axis=1)
        found.append(ratio_interval(lost, mine["num_prompt_tokens"].to_numpy(np.float64)))
    if len(found) == 1:
        return found[0]
    return mean_interval(np.array([interval.mean for interval in found if interval is not None]))


def _gains(found: Sequence[Pairing], confidence: float) -> list[Gain]:
    return [Gain(pair.setting.policy, pair.ratio, confidence) for pair in found if pair.ratio is not None]


def counted(found: Sequence[Verdict]) -> Mapping[Word, int]:
    """How many loads each word stands for, the most frequent first."""
    words = [verdict.word for verdict in found]
    return dict(sorted({word: words.count(word) for word in words}.items(), key=lambda item: -item[1]))
