"""Options that a policy uses: what is not listed as used changes no decision, what is listed can."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from pbkv.cache.named import POLICIES
from pbkv.cache.options_used import options_used, unused_options
from pbkv.cache.policy import PolicyOptions, PrefillCost
from pbkv.serve.faults import Faults
from pbkv.sim.profile import load_profile
from pbkv.sim.run import simulate
from pbkv.sim.settings import Settings
from pbkv.study.measures import measured
from pbkv.traces.reader import Trace

TRACE = Path(__file__).parents[1] / "data" / "hover-30.parquet"
OTHERS: dict[str, Any] = {
    "predictor": "none",
    "num_steps": 1,
    "gamma": 0.1,
    "noise": 1.0,
    "rho": 1.0,
    "inherit": "all",
    "host_order": "score",
    "idle_timeout_s": 2.0,
    "forecast_delay_s": 20.0,
    "pause_limit_s": 0.5,
    "prefill_cost": PrefillCost(0.0, 1e-6, 1.0),
}
COMPOSED = ("lru+admission", "lru+prefetch", "lae+prefetch", "ttl:3")


def outcome(policy: str, options: PolicyOptions, out: Path) -> str:
    """A digest of when every call ran and what it found, under pressure and with ends that are lost."""
    settings = Settings(
        load_profile("2xa6000-qwen3-32b"),
        policies=(policy,),
        policy_options=options,
        gpu_blocks=(1200,),
        host_ratio=1.0,
        concurrencies=(12,),
        faults=Faults(lost_end_ratio=0.3),
        cache_events=False,
    )
    (result,) = simulate([Trace(TRACE)], settings, out)
    return str(measured(result, out)["records_digest"])


def _with(others: dict[str, Any]) -> PolicyOptions:
    return replace(PolicyOptions(), **others)


def test_every_option_is_tried() -> None:
    assert set(OTHERS) == {field.name for field in fields(PolicyOptions)}


@pytest.mark.parametrize("policy", [*POLICIES, *COMPOSED])
def test_what_is_not_used_changes_nothing(policy: str, tmp_path: Path) -> None:
    unused = {name: value for name, value in OTHERS.items() if name not in options_used(policy)}
    usual = outcome(policy, PolicyOptions(), tmp_path / "usual")
    assert outcome(policy, _with(unused), tmp_path / "other") == usual


@pytest.mark.parametrize(
    ("policy", "name"),
    [
        *(("pbkv-aggressive", name) for name in sorted(options_used("pbkv-aggressive") - {"rho"})),
        ("lae", "idle_timeout_s"),
        ("warm-first", "predictor"),
        ("warm-first", "num_steps"),
        ("lru+admission", "pause_limit_s"),
        ("gdsf", "prefill_cost"),
    ],
)
def test_what_is_used_can_change_something(policy: str, name: str, tmp_path: Path) -> None:
    usual = outcome(policy, PolicyOptions(), tmp_path / "usual")
    assert outcome(policy, _with({name: OTHERS[name]}), tmp_path / "other") != usual


def test_options_that_nobody_uses_are_found() -> None:
    options = PolicyOptions(gamma=0.5, rho=0.4)
    assert unused_options(options, ["lru", "pbkv"]) == ["rho"]
    assert unused_options(options, ["lru", "pbkv-aggressive"]) == []
    assert unused_options(options, ["lru"]) == ["gamma", "rho"]
    assert unused_options(options, ["mine.py:Class"]) == []  # whatever it may use
    assert unused_options(PolicyOptions(), ["lru"]) == []
