"""The policy `warm-first` against all others on generated workloads: cells in runs/beyond/, resumable.

    python bench/beyond.py            # everything, about an hour on one core; then bench/beyond_report.py

Parts: ``paper`` (the paper's setting, ten seeds), ``concurrency`` (36 to 96), ``scarce`` (no limit on running
requests: vLLM's batches, 24 workflows at a time, the pool in the band of pressure), ``faults`` and ``mix``.
``NAME-handed``: the same calls, but each prompt is the whole transcript so far (what each agent reads is
appended), as where agents hand a conversation on. ``drift``: 125 workflows HoVer-like, then 125
Finance-like. ``mix``: the three in turn. Ablations are `warm-first` without one ingredient; they exist
here alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file runs by its path, as well as by `-m bench.beyond`

from bench.beyond_ablations import ABLATIONS, register  # noqa: E402 - needs the line above
from bench.real import pools  # noqa: E402
from pbkv.cache.config import WriteMode  # noqa: E402
from pbkv.cache.policy import PolicyOptions  # noqa: E402
from pbkv.paper.experiments import (  # noqa: E402
    BATCHING,
    CONCURRENCIES,
    MAX_BATCHED_TOKENS,
    MAX_SEQUENCES,
    NUM_WORKFLOWS,
    POOL_BLOCKS,
)
from pbkv.paper.published import MODEL_32B  # noqa: E402
from pbkv.serve.config import EngineConfig  # noqa: E402
from pbkv.serve.faults import Faults  # noqa: E402
from pbkv.sim.profile import load_profile  # noqa: E402
from pbkv.sim.settings import Settings  # noqa: E402
from pbkv.study.cells import Kept, clear_scratch, code_state, run_jobs, simulated  # noqa: E402
from pbkv.study.measures import means_of  # noqa: E402
from pbkv.study.workers import Processes  # noqa: E402
from pbkv.traces.generate import generate_workload, workload_metadata  # noqa: E402
from pbkv.traces.reader import Trace  # noqa: E402
from pbkv.traces.writer import write_trace  # noqa: E402

if TYPE_CHECKING:
    from pbkv.traces.schema import Call, Workflow

THROUGH, EXCLUSIVE = "write-through", "exclusive"
CONCURRENCY = {"hover": 72, "swe": 24, "finance": 48}
SCARCE_CONCURRENCY, SCARCE_PROFILE = 24, "2xa6000-qwen3-32b"
SCARCE = {"hover": "above", "swe": "in", "finance": "above", "hover-handed": "above", "swe-handed": "in"}
NEW, BEGUN = "warm-first", "lru+warm"
MAIN = ("lru", "lae", "pbkv", "ttl", BEGUN, "pbkv+warm", NEW, "infinite", "infinite+warm")
LOADED = ("lru", "pbkv", BEGUN, NEW)
TEN_SEEDS = (*LOADED, "infinite+warm")
FEW = 3  # seeds of the rest of the paper's setting
SCARCE_MAIN = ("lru", "lae", "pbkv", BEGUN, NEW, "belady", "infinite")
FAULTS: dict[str, dict[str, Any]] = {
    "none": {},
    "noise 10 %": {"noise": 0.1},
    "noise 20 %": {"noise": 0.2},
    "noise 40 %": {"noise": 0.4},
    "10 % of ends lost": {"faults": "lost-end=0.1"},
    "all ends lost": {"faults": "lost-end=1"},
    "30 % of agents wrong": {"faults": "wrong-agent=0.3"},
    "all agents missing": {"faults": "missing-agent=1"},
    "no tool times": {"faults": "no-tool-times"},
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One simulation. ``pressure`` "" is the paper's engine and pool, else the scarce setting's."""

    folder: Path
    part: str
    workload: str
    seed: int
    policy: str
    write_mode: str = THROUGH
    host_ratio: float = 1.0
    concurrency: int = 0
    pressure: str = ""
    faults: str = ""
    noise: float = 0.0
    early: bool = False

    def key(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name not in ("folder", "part")}

    def run(self) -> dict[str, Any]:
        register()
        trace = trace_of(self.folder, self.workload, self.seed)
        with simulated(trace, self._settings(), self.folder) as (result, out):
            return {**self.key(), **means_of(result, out)}

    def _settings(self) -> Settings:
        scarce = bool(self.pressure)
        blocks = pool_of(self.folder, self.workload, self.pressure) if scarce else POOL_BLOCKS
        paper = EngineConfig(MAX_BATCHED_TOKENS, MAX_SEQUENCES, batching=BATCHING)
        return Settings(
            profile=load_profile(SCARCE_PROFILE if scarce else MODEL_32B),
            policies=(self.policy,),
            policy_options=PolicyOptions(noise=self.noise),
            gpu_blocks=(blocks,),
            host_ratio=self.host_ratio,
            concurrencies=(self.concurrency,),
            seeds=(self.seed,),
            write_mode=WriteMode(self.write_mode),
            early_offload=self.early,
            engine=None if scarce else paper,
            faults=Faults.parse(self.faults),
            cache_events=False,
        )


# ---------------------------------------------------------------------- traces


def trace_of(folder: Path, workload: str, seed: int) -> Path:
    """The trace, made if it is missing."""
    path = folder / f"{workload}-{seed}.parquet"
    if not path.exists():
        base = workload.partition("-")[0] if workload not in ("drift", "mix") else "hover"
        metadata = workload_metadata(base, NUM_WORKFLOWS, seed)
        write_trace(path, _workflows(workload, seed), metadata)
    return path


def _workflows(workload: str, seed: int) -> Iterator[Workflow]:
    if workload == "drift":
        half = NUM_WORKFLOWS // 2
        yield from _apart("hover", half, seed)
        yield from _apart("finance", half, seed)
    elif workload == "mix":
        for flows in zip(*(_apart(name, NUM_WORKFLOWS // 3, seed) for name in CONCURRENCY), strict=True):
            yield from flows
    elif workload.endswith("-handed"):
        for flow in generate_workload(workload.partition("-")[0], NUM_WORKFLOWS, seed):
            yield replace(flow, calls=_handed(flow.calls))
    else:
        yield from generate_workload(workload, NUM_WORKFLOWS, seed)


def _handed(calls: Sequence[Call]) -> list[Call]:
    """Each prompt is all that was read so far, in the order in which it was first read."""
    transcript, handed = dict[int, int](), []
    for call in calls:
        for segment, num_tokens in zip(call.segment_ids, call.segment_tokens, strict=True):
            transcript.setdefault(segment, num_tokens)
        prompt = tuple(transcript), tuple(transcript.values())
        handed.append(call._replace(segment_ids=prompt[0], segment_tokens=prompt[1], segment_kinds=None))
    return handed


def _apart(name: str, num_workflows: int, seed: int) -> Iterator[Workflow]:
    """Workflows whose ids and segments are not those of other workloads."""
    index, number = list(CONCURRENCY).index(name), len(CONCURRENCY)
    for flow in generate_workload(name, num_workflows, seed):
        calls = [
            call._replace(
                segment_ids=tuple(segment * number + index for segment in call.segment_ids),
                output_id=None if call.output_id is None else call.output_id * number + index,
            )
            for call in flow.calls
        ]
        yield replace(flow, workflow_id=f"{name}/{flow.workflow_id}", calls=calls)


def pool_of(folder: Path, workload: str, pressure: str) -> int:
    """Blocks of the GPU tier, chosen on seed 0 by LRU alone as in bench/real.py."""
    known = folder / "pools.json"
    sizes: dict[str, dict[str, int]] = json.loads(known.read_text()) if known.exists() else {}
    if workload not in sizes:
        sizes[workload] = pools(Trace(trace_of(folder, workload, 0)))
        known.write_text(json.dumps(sizes))
    return sizes[workload][pressure]


# ---------------------------------------------------------------------- cells


def cells(folder: Path) -> list[Cell]:
    """All of them, what matters most first."""
    found: list[Cell] = []
    for seed, workload, policy in product(range(10), CONCURRENCY, MAIN):
        if seed < FEW or policy in TEN_SEEDS:
            found.append(_paper(folder, "paper", workload, seed, policy))
    for at, policy in product(CONCURRENCIES, LOADED):
        found.append(Cell(folder, "concurrency", "hover", 0, policy, concurrency=at))
    hosts = ((1.0, THROUGH), (0.0, THROUGH), (1.0, EXCLUSIVE))
    for (ratio, mode), (workload, pressure) in product(hosts, SCARCE.items()):
        policies = (*SCARCE_MAIN, *ABLATIONS) if (ratio, mode) == (1.0, THROUGH) else SCARCE_MAIN
        found += [_scarce(folder, "scarce", workload, 0, p, pressure, mode, ratio) for p in policies]
    for given, policy in product(FAULTS.values(), ("lae", "pbkv", NEW)):
        found.append(replace(_paper(folder, "faults", "hover", 0, policy), **given))
        found.append(replace(_scarce(folder, "faults", "hover", 0, policy, "above"), **given))
    for seed, workload, policy in product(range(FEW), CONCURRENCY, LOADED):
        found.append(replace(_paper(folder, "exclusive", workload, seed, policy), write_mode=EXCLUSIVE))
    for workload, policy in product(("drift", "mix"), ("lae", *LOADED)):
        found.append(Cell(folder, "mix", workload, 0, policy, concurrency=48))
        found.append(_scarce(folder, "mix", workload, 0, policy, "in"))
    for workload, policy in product(CONCURRENCY, ABLATIONS):
        found.append(_paper(folder, "ablation", workload, 0, policy))
    for seed, workload, policy in product(range(1, FEW), SCARCE, ("lru", "lae", "pbkv", BEGUN, NEW)):
        found.append(_scarce(folder, "scarce", workload, seed, policy, SCARCE[workload]))
    return found


def _paper(folder: Path, part: str, workload: str, seed: int, policy: str) -> Cell:
    return Cell(folder, part, workload, seed, policy, concurrency=CONCURRENCY[workload])


def _scarce(
    folder: Path,
    part: str,
    workload: str,
    seed: int,
    policy: str,
    pressure: str,
    mode: str = THROUGH,
    ratio: float = 1.0,
) -> Cell:
    return Cell(folder, part, workload, seed, policy, mode, ratio, SCARCE_CONCURRENCY, pressure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs/beyond", help="finished cells; taken up again"
    )
    parser.add_argument("--parts", nargs="*", help="only these parts")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    clear_scratch(arguments.work)
    jobs = [c for c in cells(arguments.work) if not arguments.parts or c.part in arguments.parts]
    for cell in jobs:
        if cell.pressure:
            pool_of(arguments.work, cell.workload, cell.pressure)
    kept = Kept(arguments.work / "cells.jsonl", code_state())
    for number, row in enumerate(run_jobs(jobs, kept, Processes(arguments.workers), lambda done: None)):
        if number % 50 == 0:
            print(f"{sum(map(kept.has, jobs)):,} of {len(jobs):,}: {row['workload']}", file=sys.stderr)


if __name__ == "__main__":
    main()
