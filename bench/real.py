"""Policies on the seven real agent traces: three pressures, host ratios 0, 1 and 2, two write modes.

    python bench/real.py --data ../shared/data      # → docs/results/real/; resumes, hours on two cores

The pools are chosen per set by LRU alone (`pools`): on its hit ratio by capacity, cache only and 24
workflows taking turns, the smallest that comes within 2 % of the way from the smallest pool's ratio to an
infinite cache's (below the band of pressure), half of the way (in it), and 10 % of it (above). The smallest
pool holds twice the call that 95 % of calls do not exceed; workflows with larger calls are left out.
A draw is a random half of the set's workflows in random order. Half-samples without
replacement spread as the whole set's mean does (delete-half jackknife), so the interval of a mean is
Student's t times the standard deviation over draws, not divided by their root.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file runs by its path, as well as by `-m bench.real`

from bench.real_report import write_report  # noqa: E402 - needs the line above
from pbkv.cache.config import WriteMode  # noqa: E402
from pbkv.sim.curve import hit_curve  # noqa: E402
from pbkv.sim.profile import load_profile  # noqa: E402
from pbkv.sim.settings import Settings  # noqa: E402
from pbkv.study.cells import Kept, clear_scratch, code_state, run_jobs, simulated  # noqa: E402
from pbkv.study.measures import means_of  # noqa: E402
from pbkv.study.workers import Processes  # noqa: E402
from pbkv.traces.reader import Trace  # noqa: E402
from pbkv.traces.sources import open_trace  # noqa: E402
from pbkv.traces.writer import write_trace  # noqa: E402

SETS = (
    "tau2_bench",
    "marble_db_star",
    "magentic_one_gaia",
    "tapeagents_gaia",
    "captain_agent_gaia",
    "sweagent_glm45_vllm",
    "claude_code_weka",
)
PRESSURES = {"below": 0.98, "in": 0.5, "above": 0.1}
HOSTS = (
    (0.0, WriteMode.WRITE_THROUGH),
    (1.0, WriteMode.WRITE_THROUGH),
    (1.0, WriteMode.EXCLUSIVE),
    (2.0, WriteMode.WRITE_THROUGH),
    (2.0, WriteMode.EXCLUSIVE),
)
CONCURRENCY, BLOCK_SIZE, PROFILE = 24, 16, "2xa6000-qwen3-32b"
POLICIES = (
    "lru",
    "slru",
    "gdsf",
    "s3-fifo",
    "sieve",
    "lae",
    "pbkv-he",
    "pbkv",
    "kvflow",
    "ttl",
    "mori",
    "lru+admission",
    "pbkv+admission",
    "pbkv-oracle",
    "belady",
    "belady-cost",
    "infinite",
)
UNKNOWN_GAP_S = 1.0  # marble, magentic and captain log no tool times


@dataclass(frozen=True, slots=True)
class Cell:
    """One simulation of one draw."""

    trace: Path
    dataset: str
    draw: int
    pressure: str
    gpu_blocks: int
    host_ratio: float
    write_mode: WriteMode
    policy: str

    def key(self) -> dict[str, Any]:
        values = {name: value for name, value in asdict(self).items() if name != "trace"}
        return {**values, "setting": f"{PROFILE}, {CONCURRENCY}, {BLOCK_SIZE}, {UNKNOWN_GAP_S}"}

    def run(self) -> dict[str, Any]:
        settings = Settings(
            profile=load_profile(PROFILE),
            policies=(self.policy,),
            gpu_blocks=(self.gpu_blocks,),
            host_ratio=self.host_ratio,
            concurrencies=(CONCURRENCY,),
            seeds=(self.draw,),
            block_size=BLOCK_SIZE,
            write_mode=self.write_mode,
            unknown_gap_s=UNKNOWN_GAP_S,
            skip_too_long=True,
            cache_events=False,
        )
        with simulated(self.trace, settings, self.trace.parent) as (result, out):
            return {**self.key(), **means_of(result, out)}


def pools(trace: Trace) -> dict[str, int]:
    """Blocks of the GPU tier by pressure."""
    sizes = sorted(call.num_held_tokens for workflow in trace.workflows() for call in workflow.calls)
    smallest = 2 * -(-sizes[int(0.95 * len(sizes))] // BLOCK_SIZE)
    capacities = [round(smallest * 2 ** (step / 3)) for step in range(28)]
    curve = hit_curve(trace, ["lru"], capacities, block_size=BLOCK_SIZE, concurrency=CONCURRENCY)
    ratios = [point.hit_ratio for point in curve.points]
    low, high = ratios[0], curve.infinite_hit_ratio
    return {
        name: next(
            (
                size
                for size, ratio in zip(capacities, ratios, strict=True)
                if ratio >= low + share * (high - low)
            ),
            capacities[-1],
        )
        for name, share in PRESSURES.items()
    }


def draws(folder: Path, dataset: str, source: Path, num_draws: int) -> tuple[list[Path], dict[str, int]]:
    """A trace a draw, and the pools of the whole set."""
    paths, known = [folder / f"{dataset}-{draw}.parquet" for draw in range(num_draws)], folder / "pools.json"
    sizes = json.loads(known.read_text()) if known.exists() else {}
    if dataset in sizes and all(path.exists() for path in paths):
        return paths, sizes[dataset]
    print(f"{dataset}: draws and pools", file=sys.stderr)
    with open_trace(source) as trace:
        workflows, metadata = list(trace.workflows(everything=True)), trace.metadata
        sizes[dataset] = pools(trace)
    for draw, path in enumerate(paths):
        half = random.Random(f"{dataset}/{draw}").sample(workflows, len(workflows) // 2)
        blank = replace(metadata, digest="", num_workflows=0, num_calls=0)
        write_trace(path, iter(half), blank, force=True)
    known.write_text(json.dumps(sizes))
    return paths, sizes[dataset]


def cells(
    folder: Path, data: Path, sets: Sequence[str], policies: Sequence[str], num_draws: int
) -> list[Cell]:
    """All cells, one draw of all sets before the next."""
    found = []
    for dataset in sets:
        paths, sizes = draws(folder, dataset, data / f"{dataset}.jsonl.gz", num_draws)
        for (draw, path), pressure, host, policy in product(enumerate(paths), PRESSURES, HOSTS, policies):
            found.append(Cell(path, dataset, draw, pressure, sizes[pressure], *host, policy))
    return sorted(found, key=lambda cell: cell.draw)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data", help="folder of the sets")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs/real", help="finished cells; taken up again"
    )
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs/results/real")
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--sets", nargs="*", default=SETS)
    parser.add_argument("--policies", nargs="*", default=POLICIES)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--report-only", action="store_true", help="of the cells that there are")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    clear_scratch(arguments.work)
    jobs = cells(arguments.work, arguments.data, arguments.sets, arguments.policies, arguments.draws)
    kept = Kept(arguments.work / "cells.jsonl", code_state())
    if not arguments.report_only:
        for number, row in enumerate(run_jobs(jobs, kept, Processes(arguments.workers), lambda done: None)):
            if number % 50 == 0:
                done = f"{sum(map(kept.has, jobs)):,} of {len(jobs):,}"
                print(f"{done}: {row['dataset']} {row['policy']}", file=sys.stderr)
    write_report(kept.of([job for job in jobs if kept.has(job)]), arguments.output)


if __name__ == "__main__":
    main()
