"""The paper's experiments as cells: what they are, that they run, and that what has ended is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from pbkv.cache.named import POLICIES
from pbkv.paper.cells import Job
from pbkv.paper.experiments import EXPERIMENTS, FAULTS, Arm, arm_of, faulty_arm
from pbkv.paper.published import END_TO_END
from pbkv.paper.run import reproduce
from pbkv.study.cells import Kept, run_jobs
from pbkv.study.workers import Processes
from pbkv.traces.errors import ConfigError

TRACE = Path(__file__).parents[1] / "data" / "hover-30.parquet"


def job(policy: str, seed: int = 0) -> Job:
    return Job(arm_of(policy=policy, predictor="markov:3", concurrency=12), seed, TRACE, Path("none"))


def test_arms_are_of_known_policies_and_differ() -> None:
    arms = [arm for experiment in EXPERIMENTS.values() for arm in experiment()]
    assert {arm.policy.partition("+")[0] for arm in arms} <= set(POLICIES)
    for experiment in EXPERIMENTS.values():
        assert len(set(experiment())) == len(experiment())


def test_an_arm_says_nothing_of_what_its_policy_does_not_look_at() -> None:
    """So that LRU's cell is one cell, whatever the experiment."""
    assert arm_of(policy="lru", gamma=0.9, predictor="oracle") == arm_of(policy="lru")
    assert arm_of(policy="pbkv", rho=0.4) == arm_of(policy="pbkv")


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_can_be_set(name: str) -> None:
    sound, faulty = (faulty_arm("lae", fault).settings(0, "") for fault in ("none", name))
    assert (faulty == sound) == (name == "none")


def test_what_has_ended_is_kept_and_not_run_again(tmp_path: Path) -> None:
    jobs, file = [job("lru"), job("lae")], tmp_path / "cells.jsonl"
    first = list(run_jobs(jobs[:1], Kept(file, "now"), Processes(1), lambda done: None))
    again = list(run_jobs(jobs, Kept(file, "now"), Processes(1), lambda done: None))
    assert [row["policy"] for row in first + again] == ["lru", "lae"]
    kept = Kept(file, "now")
    assert [row["policy"] for row in kept.of(jobs)] == ["lru", "lae"]
    assert 0 < kept.of(jobs)[0]["gpu_hit_ratio"] < 1


def test_an_unknown_experiment_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="experiment: got tables, expected one of"):
        reproduce(tmp_path / "work", [0], ["tables"], 1, lambda *_: None)
    assert not (tmp_path / "work").exists()


def test_the_published_rows_are_those_of_the_abstract() -> None:
    """Up to 1.85 times over LRU, and 1.26 over KVFlow."""
    rows = END_TO_END[Arm().profile]
    assert round(rows["hover"]["lru"].latency_s / rows["hover"]["pbkv"].latency_s, 2) == 1.85
    assert round(rows["finance"]["kvflow"].latency_s / rows["finance"]["pbkv"].latency_s, 2) == 1.26
