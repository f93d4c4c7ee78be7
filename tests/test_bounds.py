"""The bounds on a real trace: they bound, in the cache alone and in a simulation."""

from __future__ import annotations

from pathlib import Path

from pbkv.analysis import load
from pbkv.sim import Settings, load_profile, simulate
from pbkv.sim.curve import hit_curve
from pbkv.traces.sources import open_trace

SIZES = (4000, 8000, 16000)  # below, in and above the band in which policies differ
POLICIES = ("lru", "lae", "pbkv-he", "pbkv-he-oracle", "belady")


def test_nothing_is_above_the_exact_future_and_that_below_the_infinite_cache(shared_data: Path) -> None:
    with open_trace(shared_data / "magentic_one_gaia.jsonl.gz") as trace:
        found = hit_curve(trace, POLICIES, SIZES)
    for size in SIZES:
        hits = {point.policy: point.hit_blocks for point in found.points if point.gpu_blocks == size}
        best = hits.pop("belady")
        assert max(hits.values()) < best < found.infinite_hit_blocks
        assert hits["lru"] < hits["pbkv-he-oracle"]


def test_no_tier_of_a_simulation_finds_more_than_the_infinite_cache(
    shared_data: Path, tmp_path: Path
) -> None:
    policies = (*POLICIES, "belady-cost", "infinite")
    settings = Settings(
        load_profile("a6000-qwen3-14b"),
        policies,
        gpu_blocks=(10_000,),
        concurrencies=(12,),
        cache_events=False,
    )
    with open_trace(shared_data / "magentic_one_gaia.jsonl.gz") as trace:
        simulate([trace], settings, tmp_path / "run")
    calls = load(tmp_path / "run").calls
    assert not calls[calls.policy == "infinite"].num_evicted_tokens.any()
    found = (calls.num_gpu_hit_tokens + calls.num_host_hit_tokens).groupby(calls.policy).sum()
    assert found["infinite"] == found.max()
    assert found["lru"] < min(found["belady"], found["belady-cost"])
