"""What shape.py runs: the paper's figures for LRU, settings of the simulation, traces and runs over them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pbkv.analysis.describe import describe
from pbkv.analysis.summary import CellSummary, over_seeds, summarise
from pbkv.cache.config import WriteMode
from pbkv.paper.experiments import (
    BATCHING,
    BLOCK_SIZE,
    MAX_BATCHED_TOKENS,
    MAX_SEQUENCES,
    NUM_WORKFLOWS,
    POOL_BLOCKS,
)
from pbkv.paper.published import (
    BY_CONCURRENCY,
    END_TO_END,
    FINANCE,
    HOVER,
    MODEL_14B,
    MODEL_32B,
    SWE,
    Application,
    Published,
)
from pbkv.serve.config import Batching, EngineConfig
from pbkv.sim.profile import load_profile
from pbkv.sim.run import CellResult, simulate
from pbkv.sim.settings import Settings
from pbkv.traces.generate import generate_workload, workload_metadata
from pbkv.traces.reader import Trace
from pbkv.traces.writer import write_trace

POOL_TOKENS = POOL_BLOCKS * BLOCK_SIZE
NUM_FITTED = 4  # seeds below it were looked at while fitting


@dataclass(frozen=True, slots=True)
class Target:
    """A workload: the paper's point and figures, the concurrencies to run, those of the sensitivity."""

    title: str
    point: int
    paper: Mapping[str, Published]
    concurrencies: tuple[int, ...]
    around: tuple[int, ...]
    paper_curve: Mapping[float, float]


def _target(
    app: Application, concurrencies: tuple[int, ...], around: tuple[int, ...], curve: Mapping[float, float]
) -> Target:
    lru = {model: rows[app.workload]["lru"] for model, rows in END_TO_END.items()}
    return Target(app.title, app.concurrency, lru, concurrencies, around, curve)


TARGETS = {
    "hover": _target(HOVER, (24, 36, 42, 48, 54, 60, 66, 72, 84, 96), (48, 60, 72), BY_CONCURRENCY["lru"]),
    "swe": _target(SWE, (8, 12, 16, 20, 24, 36), (12, 24), {24: 46.34}),
    "finance": _target(FINANCE, (12, 24, 30, 36, 48, 60, 72), (24, 48), {48: 27.95}),
}


@dataclass(frozen=True, slots=True)
class Variant:
    """One setting of the simulation; the defaults are the one that the workloads were fitted in."""

    profile: str = MODEL_32B
    batching: Batching = BATCHING
    max_batched_tokens: int = MAX_BATCHED_TOKENS
    max_sequences: int = MAX_SEQUENCES
    block_size: int = BLOCK_SIZE
    write_mode: WriteMode = WriteMode.WRITE_THROUGH
    host_ratio: float = 1.0
    num_workflows: int = NUM_WORKFLOWS

    def settings(self, concurrencies: Sequence[int], seed: int) -> Settings:
        return Settings(
            profile=load_profile(self.profile),
            gpu_blocks=(POOL_TOKENS // self.block_size,),
            host_ratio=self.host_ratio,
            concurrencies=tuple(concurrencies),
            seeds=(seed,),
            block_size=self.block_size,
            write_mode=self.write_mode,
            engine=EngineConfig(self.max_batched_tokens, self.max_sequences, batching=self.batching),
            cache_events=False,
        )


FITTED = Variant()
VARIANTS = {
    "as fitted": FITTED,
    "Qwen3-14B on one A6000": Variant(profile=MODEL_14B),
    "max_sequences 16": Variant(max_sequences=16),
    "mixed batches": Variant(batching="mixed"),
    "mixed batches, 2,048 tokens, max_sequences 256": Variant(
        batching="mixed", max_batched_tokens=2048, max_sequences=256
    ),
    "blocks of 64 tokens": Variant(block_size=64),
    "no host tier": Variant(host_ratio=0.0),
    "write-back": Variant(write_mode=WriteMode.WRITE_BACK),
    "exclusive": Variant(write_mode=WriteMode.EXCLUSIVE),
    "1,000 workflows a run": Variant(num_workflows=1000),
}


@dataclass(slots=True)
class Lab:
    """Traces on disk, by workload and seed, and the runs over them, in a scratch folder."""

    work: Path
    traces: dict[tuple[str, int, int], Trace] = field(default_factory=dict)
    results: dict[tuple[str, Variant, int], list[CellResult]] = field(default_factory=dict)

    def trace(self, name: str, seed: int, num_workflows: int = NUM_WORKFLOWS) -> Trace:
        key = name, seed, num_workflows
        if key not in self.traces:
            path = self.work / f"{name}-{seed}-{num_workflows}.parquet"
            metadata = workload_metadata(name, num_workflows, seed)
            write_trace(path, generate_workload(name, num_workflows, seed), metadata)
            self.traces[key] = Trace(path)
        return self.traces[key]

    def cells(
        self, name: str, variant: Variant, concurrencies: Sequence[int], seeds: Sequence[int]
    ) -> list[CellSummary]:
        """One summary a concurrency; intervals over the seeds' traces."""
        return over_seeds(self.runs(name, variant, concurrencies, seeds))

    def runs(
        self, name: str, variant: Variant, concurrencies: Sequence[int], seeds: Sequence[int]
    ) -> list[CellSummary]:
        """One summary a concurrency and seed."""
        found: list[CellSummary] = []
        for seed in seeds:
            print(f"{name}, seed {seed}: {variant}", file=sys.stderr)
            out = self.work / "run"
            trace = self.trace(name, seed, variant.num_workflows)
            for result in simulate([trace], variant.settings(concurrencies, seed), out, force=True):
                self.results.setdefault((name, variant, result.cell.concurrency or 0), []).append(result)
            found += summarise(out)
        return found

    def pure_decodes(self, name: str, variant: Variant, concurrency: int) -> float:
        """Share of the iterations run so far that had no prefill."""
        results = self.results[name, variant, concurrency]
        return sum(r.num_pure_decodes for r in results) / sum(r.num_iterations for r in results)

    def decode_step_s(self, name: str, variant: Variant) -> float:
        """A pure decode iteration of a full batch, each sequence as long as the median prompt."""
        context = variant.max_sequences * round(describe(self.trace(name, 0)).prompt_tokens.median)
        return load_profile(variant.profile).cost.decode_run_s(variant.max_sequences, context, 1)
