"""The numbers of a report, as JSON: what its tables say and its figures draw, and nothing else.

Ratios are shares from 0 to 1, times are in seconds, ``…_half`` is half the 95 % interval, null means that
the data say nothing. Quantiles are at 0, 1, … 100 %.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from pbkv.analysis.ages import ages, quantiles
from pbkv.analysis.course import course_of
from pbkv.analysis.intervals import FloatArray, Interval
from pbkv.analysis.load import Cell, Setting
from pbkv.analysis.next_agent import Handovers, conditional_entropy_bits, handovers, markov_accuracy
from pbkv.analysis.summary import MEASURES, CellSummary
from pbkv.analysis.verdict import Gain, Verdict
from pbkv.analysis.view import View
from pbkv.analysis.words import sentence
from pbkv.analysis.worlds import traces_of
from pbkv.traces.errors import ConfigError

PREFETCH_PARTS = ("useful", "late", "wasted", "cancelled")


def numbers(view: View) -> dict[str, Any]:
    """The numbers of one world."""
    config = view.world.configs[0]
    found = {
        "name": view.world.name,
        "engine": view.world.engine,
        "runs": [str(path) for path in view.world.paths],
        "traces": [{name: trace.get(name) for name in ("path", "digest")} for trace in traces_of(config)],
        "num_cells": len(view.world.run.cells),
        "num_repeated_cells": view.world.num_repeated,
        "baseline": view.baseline,
        "verdicts": [_verdict(verdict) for verdict in view.verdicts],
        "settings": [_setting_row(view, cell) for cell in view.summaries],
        "knees": [{"policy": point.policy, "gpu_blocks": point.x} for point in view.knees],
        "focus": _focus(view),
        "next_agent": next_agent(view),
    }
    cleaned: dict[str, Any] = clean(found)
    return cleaned


def next_agent(view: View) -> dict[str, Any]:
    """Hand-overs between agents and how often a Markov predictor names the next one, of the first cell."""
    sequences = agent_sequences(view)
    counts: Handovers = handovers(sequences)
    several = len({agent for sequence in sequences for agent in sequence}) > 1
    options = view.world.configs[0].get("settings", {}).get("policy_options", {})
    return {
        "handovers": counts,
        "entropy_bits": conditional_entropy_bits(counts),
        "markov_1_accuracy": markov_accuracy(sequences, 1) if several else None,
        "markov_3_accuracy": markov_accuracy(sequences, 3) if several else None,
        "predictor": options.get("predictor"),
    }


def agent_sequences(view: View) -> list[tuple[str, ...]]:
    """The agents of each workflow by call index, of the first cell (the policy changes nothing of them)."""
    run = view.world.run
    calls = run.calls[run.calls["cell"] == run.cells[0].cell].sort_values("call_index", kind="stable")
    groups = calls.groupby("workflow_id", sort=False)["agent"]
    return [tuple(agents) for _, agents in groups]


def prefetch_of(view: View, policy: str) -> dict[str, float]:
    """Bytes by what became of them, over the seeds of the focus; empty where nothing was prefetched."""
    numbers = {cell.cell for cell in view.focus_cells if cell.setting.policy == policy}
    entries = [entry for entry in view.world.run.config["cells"] if entry["cell"] in numbers]
    uses = [entry["prefetch"] for entry in entries if isinstance(entry.get("prefetch"), dict)]
    sums = {part: float(sum(use.get(f"{part}_bytes", 0) for use in uses)) for part in PREFETCH_PARTS}
    return sums if any(sums.values()) else {}


def _focus(view: View) -> dict[str, Any]:
    """What is drawn of the focus, by policy."""
    run, firsts = view.world.run, {cell.setting.policy: cell for cell in view.first_cells}
    return {
        "load": _load(view.focus.load),
        "latency_s": {policy: latency_quantiles(view, policy) for policy in firsts},
        "ttft_s": {policy: ttft_quantiles(view, policy) for policy in firsts},
        "ages_s": {policy: ages(run, cell) for policy, cell in firsts.items()},
        "evicted_by_own_workflow_ratio": {policy: own_evictions(view, policy) for policy in firsts},
        "prefetch_bytes": {policy: use for policy in firsts if (use := prefetch_of(view, policy))},
        "course": {policy: _course(view, cell) for policy, cell in firsts.items()},
    }


def latency_quantiles(view: View, policy: str) -> FloatArray:
    """Of the latency of workflows of the focus, all seeds, shape (101,)."""
    chosen = view.frame[view.frame["cell"].isin(_numbers(view, policy))]
    return quantiles(chosen["jct_s"].to_numpy(np.float64))


def ttft_quantiles(view: View, policy: str) -> FloatArray:
    """Of the time to first token of calls of the focus, all seeds, shape (101,)."""
    calls = view.world.run.calls
    chosen = calls[calls["cell"].isin(_numbers(view, policy))]
    ttft_s = (chosen["first_token_at_s"] - chosen["submitted_at_s"]).dropna()
    return quantiles(ttft_s.to_numpy(np.float64))


def own_evictions(view: View, policy: str) -> float | None:
    """Of the focus' calls that missed something evicted, the share that their own workflow evicted."""
    calls = view.world.run.calls
    missed = calls[calls["cell"].isin(_numbers(view, policy)) & calls["evicted_by"].notna()]
    return float((missed["evicted_by"] == missed["workflow_id"]).mean()) if len(missed) else None


def _numbers(view: View, policy: str) -> list[int]:
    return [cell.cell for cell in view.focus_cells if cell.setting.policy == policy]


def _course(view: View, cell: Cell) -> dict[str, Any] | None:
    try:
        course = course_of(view.world.run, cell)
    except ConfigError:  # a run without samples
        return None
    names = ("middles_s", "hit_ratio", "h2d_ratio", "d2h_ratio")
    return {name: getattr(course, name) for name in names}


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        **_load(verdict.load),
        "word": verdict.word,
        "sentence": sentence(verdict),
        "baseline": verdict.baseline,
        **_interval("lost_ratio", verdict.lost_ratio),
        "gains": [_gain(gain) for gain in verdict.gains],
        "bounds": [_gain(gain) for gain in verdict.bounds],
    }


def _gain(gain: Gain) -> dict[str, Any]:
    return {"policy": gain.policy, **_interval("ratio", gain.ratio), "confidence": gain.confidence}


def _setting_row(view: View, cell: CellSummary) -> dict[str, Any]:
    row: dict[str, Any] = {"policy": cell.setting.policy, **_load(cell.setting), "seeds": cell.seeds}
    row |= {"num_workflows": cell.num_workflows, "num_calls": cell.num_calls}
    for name in MEASURES:
        row |= _interval(name, getattr(cell, name))
    for measure in ("jct_s", "ttft_s"):
        pairing = view.pairings.get((cell.setting, measure))
        row |= _interval(f"{measure}_over_baseline", None if pairing is None else pairing.ratio)
    return row


def _load(setting: Setting) -> dict[str, Any]:
    return {name: value for name, value in asdict(setting).items() if name not in ("policy", "policy_note")}


def _interval(name: str, interval: Interval | None) -> dict[str, float | None]:
    half = None if interval is None else interval.half
    return {name: None if interval is None else interval.mean, f"{name}_half": half}


def clean(value: Any) -> Any:
    """For JSON: arrays as lists, and null for what is not finite: JSON has no NaN."""
    if isinstance(value, Mapping):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return clean(value.tolist())
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [clean(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
