"""Golden counts of every policy over one bundled trace: 30 HoVer-like workflows (seed 11).

A change here is a change of behaviour: it wants a reason in the commit that makes it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pbkv.analysis import load
from pbkv.cache.policy import POLICIES
from pbkv.cache.manager import WriteMode
from pbkv.sim import Settings, load_profile, simulate
from pbkv.sim.curve import hit_curve
from pbkv.traces.reader import Trace
from pbkv.traces.validate import validate

TRACE = Path(__file__).parent / "data" / "hover-30.parquet"

# Hit blocks at 800, 1600 and 3200 blocks of 16; twelve slots take turns.
CURVE = {}

# Of a simulation with 2,400 + 2,400 blocks, 12 workflows at a time: iterations; prompt tokens found on the
# GPU, found on the host, evicted; blocks demoted or deleted on the GPU, and dropped on the host.
SIMULATED = {}
WRITE_MODES = {}


def test_the_trace_is_whole() -> None:
    counts = validate(Trace(TRACE))
    assert (counts.num_workflows, counts.num_calls, counts.num_prompt_tokens) == (0, 0, 0)


def test_every_policy_has_its_numbers() -> None:
    assert set(CURVE) == set(SIMULATED) == set(POLICIES)
    assert set(WRITE_MODES) == set(WriteMode)


def test_curve() -> None:
    assert curve() == CURVE


def test_policies(tmp_path: Path) -> None:
    assert simulated(tmp_path, tuple(POLICIES), WriteMode.WRITE_THROUGH) == SIMULATED


@pytest.mark.parametrize("mode", WriteMode)
def test_write_modes(mode: WriteMode, tmp_path: Path) -> None:
    assert simulated(tmp_path, ("lru",), mode)["lru"] == WRITE_MODES[mode.value]


def curve() -> dict[str, tuple[int, ...]]:
    found = hit_curve(Trace(TRACE), list(POLICIES), (800, 1600, 3200), concurrency=12, seed=1)
    return {policy: tuple(p.hit_blocks for p in found.points if p.policy == policy) for policy in POLICIES}


def simulated(tmp_path: Path, policies: tuple[str, ...], mode: WriteMode) -> dict[str, tuple[int, ...]]:
    settings = Settings(
        load_profile("a6000-qwen3-14b"),
        policies=policies,
        gpu_blocks=(2400,),
        concurrencies=(12,),
        seeds=(1,),
        write_mode=mode,
    )
    results = simulate([Trace(TRACE)], settings, tmp_path / "run")
    run = load(tmp_path / "run")
    tokens = run.calls.groupby("cell")[
        ["num_gpu_hit_tokens", "num_host_hit_tokens", "num_evicted_tokens"]
    ].sum()
    blocks = run.cache_events.groupby(["cell", "kind"]).num_blocks.sum()
    found = {}
    for result in results:
        gone, dropped = (
            sum(int(blocks.get((result.cell.cell, kind), 0)) for kind in kinds)
            for kinds in (("demote", "evict"), ("drop",))
        )
        found[result.cell.policy] = (
            result.num_iterations,
            *map(int, tokens.loc[result.cell.cell]),
            gone,
            dropped,
        )
    return found
