"""Golden counts of every policy over one bundled trace: 30 HoVer-like workflows (seed 11).

The trace is data: it is what the generator made when these numbers were first counted, and stays so
although the generator has moved on and makes other workflows from that seed.

A change here is a change of behaviour: it wants a reason in the commit that makes it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pbkv.analysis import load
from pbkv.cache.config import WriteMode
from pbkv.cache.named import POLICIES
from pbkv.sim import Settings, load_profile, simulate
from pbkv.sim.curve import hit_curve
from pbkv.traces.reader import Trace
from pbkv.traces.validate import validate

TRACE = Path(__file__).parent / "data" / "hover-30.parquet"

# Hit blocks at 800, 1600 and 3200 blocks of 16; twelve slots take turns.
CURVE = {
    "lru": (6428, 9186, 21236),
    "fifo": (6428, 9186, 21236),
    "lfu": (6896, 9303, 13190),
    "slru": (6896, 9303, 13190),
    "random": (7610, 12061, 18434),
    "lae": (6894, 11206, 21268),
    "pbkv-he": (11556, 17377, 21268),
    "pbkv": (11556, 17377, 21268),  # no host tier, nothing to prefetch
    "pbkv-aggressive": (11556, 17377, 21268),
    "infinite": (21268, 21268, 21268),
    "pbkv-he-oracle": (12806, 18467, 21268),
    "pbkv-oracle": (12806, 18467, 21268),
    "belady": (13284, 18780, 21268),
    "belady-cost": (13284, 18780, 21268),  # unit costs
    "kvflow": (6932, 9288, 21236),
    "kvflow-evict": (6932, 9288, 21236),
    "kvflow-prefetch": (6428, 9186, 21236),
    "kvflow-no-status": (6932, 9288, 21236),
    "ttl": (6428, 9186, 21236),  # without a clock no wait is worth a pin
    "kvflow-context": (9782, 16326, 21268),
    "mori": (9478, 15581, 21268),
    "gdsf": (6860, 9437, 16588),
    "s3-fifo": (7317, 10485, 17762),
    "sieve": (6896, 9303, 13190),
    "warm-first": (10750, 16618, 21268),
}

# Of a simulation with 2,400 + 2,400 blocks, 12 workflows at a time: iterations; prompt tokens found on the
# GPU, found on the host, evicted; blocks demoted or deleted on the GPU, and dropped on the host.
SIMULATED = {
    "lru": (539, 261408, 10528, 66464, 9521, 8863),
    "fifo": (539, 261408, 10528, 66464, 9521, 8863),
    "lfu": (532, 199312, 1296, 137792, 13344, 13263),
    "slru": (536, 199440, 2704, 136256, 13339, 13170),
    "random": (543, 247808, 1760, 88832, 10337, 10227),
    "lae": (657, 323728, 0, 14672, 5578, 5578),
    "pbkv-he": (582, 328256, 144, 10000, 5301, 5292),
    "pbkv": (582, 328320, 80, 10000, 5301, 5292),
    "pbkv-aggressive": (610, 327456, 0, 10944, 5328, 5315),
    "infinite": (655, 338400, 0, 0, 0, 0),
    "pbkv-he-oracle": (581, 329696, 0, 8704, 5178, 5173),
    "pbkv-oracle": (581, 329696, 0, 8704, 5178, 5173),
    "belady": (650, 332400, 0, 6000, 5025, 5025),
    "belady-cost": (650, 332400, 0, 6000, 5025, 5025),
    "kvflow": (542, 273200, 5312, 59888, 8775, 8443),  # fixed prompts never leave: nothing to prefetch
    "kvflow-evict": (542, 273200, 5312, 59888, 8775, 8443),
    "kvflow-prefetch": (539, 261408, 10528, 66464, 9521, 8863),
    "kvflow-no-status": (542, 273200, 5312, 59888, 8775, 8443),
    "ttl": (533, 268704, 5248, 64176, 8979, 8651),
    "kvflow-context": (649, 330240, 2208, 5952, 5238, 5002),
    "mori": (626, 319776, 0, 18624, 5799, 5794),
    "gdsf": (536, 235488, 5568, 97344, 11136, 10788),
    "s3-fifo": (552, 235408, 18192, 84800, 11079, 9942),
    "sieve": (525, 227520, 4224, 106656, 11620, 11356),
    "warm-first": (640, 333904, 96, 4400, 4960, 4954),
}
WRITE_MODES = {
    "write-through": (539, 261408, 10528, 66464, 9521, 8863),
    "write-through-selective": (562, 269472, 27152, 41776, 8959, 3355),
    "write-back": (695, 264960, 72992, 176, 9250, 3298),
    "exclusive": (698, 254720, 83680, 0, 9880, 2293),
}


def test_the_trace_is_whole() -> None:
    counts = validate(Trace(TRACE))
    assert (counts.num_workflows, counts.num_calls, counts.num_prompt_tokens) == (30, 373, 453072)


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
