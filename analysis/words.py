"""Verdicts in words: a headline, a sentence with the numbers, and what to do."""

from __future__ import annotations

from collections.abc import Sequence

from pbkv.analysis.intervals import Interval
from pbkv.analysis.verdict import MAX_LOST_RATIO, MIN_GAIN, Gain, Verdict, counted

_ADVICE = {
    "no pressure": "Neither another policy nor more memory would change much.",
    "policy-bound": "",
    "capacity-bound": "Buy memory or admit fewer workflows at a time.",
    "undecided": "",
}


def headline(found: Sequence[Verdict]) -> str:
    """All loads in a line: "Policy-bound at 3 of 5 loads, no pressure at 2"."""
    counts = counted(found)
    if len(counts) == 1:
        word = next(iter(counts))
        return word.capitalize() if len(found) == 1 else f"{word.capitalize()} at all {len(found)} loads"
    (first, count), *others = counts.items()
    rest = ", ".join(f"{word} at {number}" for word, number in others)
    return f"{first.capitalize()} at {count} of {len(found)} loads, {rest}"


def sentence(verdict: Verdict) -> str:
    """The numbers that the word stands on, and what to do."""
    parts = {
        "no pressure": _no_pressure,
        "policy-bound": _policy_bound,
        "capacity-bound": _capacity_bound,
        "undecided": _undecided,
    }[verdict.word](verdict)
    return " ".join(filter(None, [*parts, _ADVICE[verdict.word]]))


def _no_pressure(verdict: Verdict) -> list[str]:
    lost, infinite = verdict.lost_ratio, verdict.infinite
    if lost is not None and lost.high is not None and lost.high <= MAX_LOST_RATIO:
        parts = [f"Under {verdict.baseline} only {_lost(lost)}."]
    else:
        parts = [f"Under {verdict.baseline} {_lost(lost)}, but it costs little:"]
        parts = parts if infinite is None else [*parts, f"an infinite cache {_gains(infinite)}."]
    return [
        *parts,
        *([f"The best policy, {verdict.best.policy}, {_gains(verdict.best)}."] if verdict.best else []),
    ]


def _policy_bound(verdict: Verdict) -> list[str]:
    best, infinite = verdict.best, verdict.infinite
    assert best is not None
    parts = [f"With {best.policy} the mean workflow {_gains(best, verdict.baseline)}, paired by workflow."]
    if infinite is not None and infinite.ratio.mean < 1:
        share = (1 - best.ratio.mean) / (1 - infinite.ratio.mean)
        parts.append(f"That is {100 * min(share, 1):.0f} % of what an infinite cache would save.")
    parts.append(f"Under {verdict.baseline} {_lost(verdict.lost_ratio)}.")
    return parts


def _capacity_bound(verdict: Verdict) -> list[str]:
    parts = [f"Under {verdict.baseline} {_lost(verdict.lost_ratio)}."]
    parts.append(f"{_best(verdict)} None gains {100 * MIN_GAIN:.0f} %.")
    if verdict.infinite is not None:
        parts.append(f"An infinite cache {_gains(verdict.infinite)}.")
    return parts


def _undecided(verdict: Verdict) -> list[str]:
    if verdict.lost_ratio is None:  # a server
        parts = ["Nothing is known of the prompts' tokens: what was found, and what had left the GPU."]
    else:
        parts = [f"Under {verdict.baseline} {_lost(verdict.lost_ratio)}."]
    if verdict.best is None:
        if verdict.infinite is not None:
            parts.append(f"An infinite cache {_gains(verdict.infinite)}.")
        return [*parts, "One policy alone does not say whether another would help: simulate two or more."]
    return [
        *parts,
        _best(verdict),
        "The intervals allow for more than one answer: more workflows or seeds would tell.",
    ]


def _best(verdict: Verdict) -> str:
    return "" if verdict.best is None else f"The best policy, {verdict.best.policy}, {_gains(verdict.best)}."


def _lost(lost: Interval | None) -> str:
    if lost is None:
        return "nothing is known of the prompts' tokens"
    half = "" if lost.half is None else f" ± {100 * lost.half:.{_decimals(lost)}f}"
    share = f"{100 * lost.mean:.{_decimals(lost)}f}{half} %"
    return f"{share} of the prompt tokens had left the GPU when they were needed again"


def _decimals(lost: Interval) -> int:
    return 1 if lost.mean >= 0.01 else 2


def _gains(gain: Gain, baseline: str = "") -> str:
    """ "takes 19.5 % less time than under lru (17.7 to 21.3 %, 97.5 % interval)"."""
    change = 100 * (gain.ratio.mean - 1)
    than = f" than under {baseline}" if baseline else ""
    size = f"takes {abs(change):.1f} % {'less' if change <= 0 else 'more'} time{than}"
    if gain.ratio.low is None or gain.ratio.high is None:
        return f"{size} (no interval)"
    low, high = 100 * (gain.ratio.low - 1), 100 * (gain.ratio.high - 1)
    ends = f"{-high:.1f} to {-low:.1f} % less" if change <= 0 else f"{low:.1f} to {high:.1f} % more"
    return f"{size} ({ends}; {100 * gain.confidence:.4g} % interval)".replace("-", "−").replace(
        "−bound", "-bound"
    )
