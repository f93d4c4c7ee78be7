"""The verdict's rule, on intervals that are given and on records that are made for each word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pbkv.analysis.intervals import Interval
from pbkv.analysis.load import load
from pbkv.analysis.metrics import by_workflow
from pbkv.analysis.verdict import Gain, Verdict, Word, baseline_of, verdicts, word_of
from pbkv.analysis.words import headline, sentence

WriteRun = Callable[..., Path]
Tables = dict[str, list[dict[str, Any]]]
LITTLE, MUCH, OPEN = Interval(0.004, 0.002, 9), Interval(0.3, 0.1, 9), Interval(0.012, 0.01, 9)


def _gain(mean: float, half: float | None, policy: str = "pbkv") -> Gain:
    return Gain(policy, Interval(mean, half, 9), 0.95)


@pytest.mark.parametrize(
    ("lost", "gains", "infinite", "word"),
    [
        (LITTLE, [], None, "no pressure"),
        (LITTLE, [_gain(0.9, 0.01)], None, "no pressure"),  # it gains, but not by what left the GPU
        (MUCH, [_gain(0.9, 0.01)], _gain(1.0, 0.01), "no pressure"),  # memory is not what is slow
        (MUCH, [_gain(0.9, 0.01)], None, "policy-bound"),
        (MUCH, [_gain(1.1, 0.01), _gain(0.97, 0.02, "lae")], None, "policy-bound"),
        (MUCH, [_gain(0.99, 0.001)], None, "capacity-bound"),  # better, but by less than is worth it
        (MUCH, [_gain(1.2, 0.1)], _gain(0.5, 0.01), "capacity-bound"),
        (MUCH, [_gain(0.97, 0.04)], None, "undecided"),  # may be as good or much better
        (MUCH, [_gain(1.0, 0.04)], None, "undecided"),
        (MUCH, [_gain(1.0, 0.001), _gain(0.97, None, "lae")], None, "undecided"),
        (MUCH, [], None, "undecided"),
        (OPEN, [_gain(1.0, 0.001)], None, "undecided"),  # is there pressure at all?
        (Interval(0.004, None, 1), [], None, "undecided"),
        (None, [], None, "undecided"),
    ],
)
def test_the_rule(lost: Interval | None, gains: list[Gain], infinite: Gain | None, word: Word) -> None:
    assert word_of(lost, gains, infinite) == word


def _make(factor: float, num_lost: int) -> Callable[[Tables], None]:
    """Latencies of lae are ``factor`` times lru's; each call of 1000 tokens loses so many."""

    def edit(tables: Tables) -> None:
        lengths: dict[str, float] = {}
        for row in tables["workflows"]:
            rng = np.random.default_rng(len(lengths))
            lengths.setdefault(row["workflow_id"], float(rng.uniform(10, 30)))
            scale = factor if row["policy"] == "lae" else 1.0
            row["ended_at_s"] = row["released_at_s"] + scale * lengths[row["workflow_id"]]
        for row in tables["calls"]:
            row |= {f"num_{name}_tokens": 0 for name in ("host_hit", "loading", "partial", "cold")}
            row |= {"num_prompt_tokens": 1000, "num_gpu_hit_tokens": 1000 - num_lost}
            row["num_evicted_tokens"] = num_lost

    return edit


def _verdicts(folder: Path, baseline: str = "lru") -> list[Verdict]:
    run = load(folder)
    return verdicts(by_workflow(run), run.cells, baseline)


@pytest.mark.parametrize(
    ("factor", "num_lost", "word"),
    [(0.8, 300, "policy-bound"), (1.01, 300, "capacity-bound"), (0.8, 5, "no pressure")],
)
def test_records_made_for_a_word(write_run: WriteRun, factor: float, num_lost: int, word: Word) -> None:
    folder = write_run([{"policy": "lru"}, {"policy": "lae"}], edit=_make(factor, num_lost))
    (verdict,) = _verdicts(folder)
    assert verdict.word == word
    assert verdict.lost_ratio is not None
    assert verdict.lost_ratio.mean == pytest.approx(num_lost / 1000)
    assert verdict.best is not None
    assert verdict.best.ratio.mean == pytest.approx(factor)


def test_one_policy_alone_is_undecided_under_pressure(write_run: WriteRun) -> None:
    (verdict,) = _verdicts(write_run([{"policy": "pbkv"}], edit=_make(1, 300)))
    assert (verdict.word, verdict.baseline, verdict.best) == ("undecided", "pbkv", None)
    assert "simulate two or more" in sentence(verdict)


def test_bounds_are_no_candidates_and_many_candidates_widen_the_intervals(write_run: WriteRun) -> None:
    policies = ["lru", "lae", "slru", "infinite", "belady"]
    (verdict,) = _verdicts(write_run([{"policy": policy} for policy in policies]))
    assert [gain.policy for gain in verdict.gains] == ["lae", "slru"]
    assert {gain.confidence for gain in verdict.gains} == {0.975}
    assert [gain.policy for gain in verdict.bounds] == ["infinite", "belady"]
    assert verdict.infinite is verdict.bounds[0]
    (alone,) = _verdicts(write_run([{"policy": "lru"}, {"policy": "lae"}], "two"))
    (lae, other) = (found.gains[0].ratio for found in (verdict, alone))
    assert lae.mean == pytest.approx(other.mean)
    assert lae.half is not None
    assert other.half is not None
    assert lae.half > 1.1 * other.half


def test_each_load_has_its_verdict_and_the_headline_counts_them(write_run: WriteRun) -> None:
    cells = [{"policy": policy, "gpu_blocks": size} for size in (256, 512) for policy in ("lru", "lae")]
    found = _verdicts(write_run(cells, edit=_make(0.8, 300)))
    assert [verdict.load.gpu_blocks for verdict in found] == [256, 512]
    assert headline(found) == "Policy-bound at all 2 loads"
    assert headline(found[:1]) == "Policy-bound"
    assert "20.0 % less time than under lru (20.0 to 20.0 % less; 95 % interval)" in sentence(found[0])


def test_the_baseline_is_the_one_wanted_then_lru_then_the_first_that_is_no_bound(write_run: WriteRun) -> None:
    cells = load(write_run([{"policy": policy} for policy in ("infinite", "lae", "lru")])).cells
    assert [baseline_of(cells, wanted) for wanted in ("lae", None, "mori")] == ["lae", "lru", "lru"]
    assert baseline_of(cells[:2]) == "lae"
    assert baseline_of(cells[:1]) == "infinite"
