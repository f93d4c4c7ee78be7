"""Every policy on the seven real agent traces: three pressures, host ratios 0, 1 and 2, two write modes.

    python bench/real.py --data ../shared/data      # → docs/results/real/; resumes, hours on two cores

The pool is a share of what C = 24 live workflows hold (`live_blocks`): 1.6 below the band of pressure, 0.8
in it, 0.4 above. A draw is a random half of the set's workflows in random order. Half-samples without
replacement spread as the whole set's mean does (delete-half jackknife), so the interval of a mean is
Student's t times the standard deviation over draws, not divided by their root.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file runs by its path, as well as by `-m bench.real`

from bench.real_report import write_report  # noqa: E402 - needs the line above
from pbkv.cache.blocks import PathTable  # noqa: E402
from pbkv.cache.config import WriteMode  # noqa: E402
from pbkv.cache.named import POLICIES  # noqa: E402
from pbkv.paper.cells import Kept, code_state, run_jobs, simulated  # noqa: E402
from pbkv.sim.profile import load_profile  # noqa: E402
from pbkv.sim.settings import Settings  # noqa: E402
from pbkv.traces.schema import Workflow  # noqa: E402
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
PRESSURES = {"below": 1.6, "in": 0.8, "above": 0.4}
HOSTS = (
    (0.0, WriteMode.WRITE_THROUGH),
    (1.0, WriteMode.WRITE_THROUGH),
    (1.0, WriteMode.EXCLUSIVE),
    (2.0, WriteMode.WRITE_THROUGH),
    (2.0, WriteMode.EXCLUSIVE),
)
CONCURRENCY, BLOCK_SIZE, PROFILE = 24, 16, "h100-llama-3.1-8b"
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
        return {name: value for name, value in asdict(self).items() if name != "trace"}

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
        return {**self.key(), **simulated(self.trace, settings)}


def live_blocks(workflows: Sequence[Workflow]) -> int:
    """Blocks that CONCURRENCY workflows hold on average: distinct prefixes so far, mean over calls."""
    table, held = PathTable(BLOCK_SIZE), list[int]()
    for workflow in workflows:
        seen: dict[int, int] = {}
        for call in workflow.calls:
            path, start = table.path(call.segment_ids, call.segment_tokens), 0
            for key, end in zip(path.segment_keys, path.token_ends, strict=True):
                seen[key], start = end - start, end
            held.append(sum(seen.values()))
    return round(CONCURRENCY * sum(held) / len(held) / BLOCK_SIZE)


def draws(folder: Path, dataset: str, source: Path, num_draws: int) -> Iterator[tuple[int, Path, int]]:
    """(draw, its trace, blocks of the whole set's live workflows)."""
    with open_trace(source) as trace:
        workflows, metadata = list(trace.workflows(everything=True)), trace.metadata
    blocks = live_blocks(workflows)
    for draw in range(num_draws):
        path = folder / f"{dataset}-{draw}.parquet"
        if not path.exists():
            half = random.Random(f"{dataset}/{draw}").sample(workflows, len(workflows) // 2)
            write_trace(path, iter(half), replace(metadata, digest="", num_workflows=0, num_calls=0))
        yield draw, path, blocks


def cells(
    folder: Path, data: Path, sets: Sequence[str], policies: Sequence[str], num_draws: int
) -> list[Cell]:
    """All cells, one draw of all sets before the next."""
    found = [
        Cell(path, dataset, draw, pressure, round(share * blocks), *host, policy)
        for dataset in sets
        for draw, path, blocks in draws(folder, dataset, data / f"{dataset}.jsonl.gz", num_draws)
        for pressure, share in PRESSURES.items()
        for host in HOSTS
        for policy in policies
    ]
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
    jobs = cells(arguments.work, arguments.data, arguments.sets, arguments.policies, arguments.draws)
    kept = Kept(arguments.work / "cells.jsonl", code_state())
    if not arguments.report_only:
        for number, row in enumerate(run_jobs(jobs, kept, arguments.workers, lambda done: None)):
            if number % 50 == 0:
                done = f"{sum(map(kept.has, jobs)):,} of {len(jobs):,}"
                print(f"{done}: {row['dataset']} {row['policy']}", file=sys.stderr)
    write_report(kept.of([job for job in jobs if kept.has(job)]), arguments.output)


if __name__ == "__main__":
    main()
