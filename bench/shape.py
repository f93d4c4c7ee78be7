"""The paper's shape from LRU: GPU hit ratios of the three generated workloads by concurrency.

    python bench/shape.py                # → docs/results/shape.{md,png}; about six minutes on an idle core

Each seed is another trace of 250 workflows; intervals are 95 % over seeds. The paper's figures are those
of arXiv 2605.06472; what was fitted to them, and what was not, is in docs/workloads.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file runs by its path, as well as by `-m bench.shape`

from bench.shape_report import (  # noqa: E402 - needs the line above
    anatomy,
    known,
    load,
    percent,
    seconds,
    seed_range,
    table,
    with_host,
)
from pbkv.analysis.describe import describe  # noqa: E402
from pbkv.analysis.figures import hit_ratio_by_concurrency  # noqa: E402
from pbkv.analysis.intervals import Interval  # noqa: E402
from pbkv.analysis.points import Point  # noqa: E402
from pbkv.analysis.summary import CellSummary, over_seeds, summarise  # noqa: E402
from pbkv.cache.config import WriteMode  # noqa: E402
from pbkv.sim.config import EngineConfig  # noqa: E402
from pbkv.sim.profile import load_profile  # noqa: E402
from pbkv.sim.run import simulate  # noqa: E402
from pbkv.sim.settings import Settings  # noqa: E402
from pbkv.traces.generate import generate_workload, workload_metadata  # noqa: E402
from pbkv.traces.reader import Trace  # noqa: E402
from pbkv.traces.writer import write_trace  # noqa: E402

NUM_WORKFLOWS = 250
POOL_TOKENS = 176_000  # 11,000 blocks of 16: the plateau's end on the HoVer-like workload at 48 to 50
MODEL_32B, MODEL_14B = "2xa6000-qwen3-32b", "a6000-qwen3-14b"


@dataclass(frozen=True, slots=True)
class Paper:
    """What the paper reports of LRU at its point, for one model; hit ratio in per cent."""

    hit: float
    latency_s: float
    ttft_s: float


@dataclass(frozen=True, slots=True)
class Target:
    """A workload: the paper's point and figures, the concurrencies to run, those of the sensitivity."""

    title: str
    point: int
    paper: Mapping[str, Paper]
    concurrencies: tuple[int, ...]
    around: tuple[int, ...]
    paper_curve: Mapping[int, float]


TARGETS = {
    "hover": Target(
        "HoVer-like",
        72,
        {MODEL_32B: Paper(27.09, 189.66, 16.65), MODEL_14B: Paper(28.79, 139.59, 10.90)},
        (24, 36, 42, 48, 54, 60, 66, 72, 84, 96),
        (48, 60, 72),
        {36: 77, 48: 76.5, 60: 52.5, 72: 27.1, 84: 24.3},
    ),
    "swe": Target(
        "SWE-like",
        24,
        {MODEL_32B: Paper(46.34, 271.90, 5.04), MODEL_14B: Paper(48.53, 214.74, 4.18)},
        (8, 12, 16, 20, 24, 36),
        (12, 24),
        {24: 46.34},
    ),
    "finance": Target(
        "Finance-like",
        48,
        {MODEL_32B: Paper(27.95, 130.34, 12.93), MODEL_14B: Paper(26.58, 96.11, 9.02)},
        (12, 24, 30, 36, 48, 60, 72),
        (24, 48),
        {48: 27.95},
    ),
}


@dataclass(frozen=True, slots=True)
class Variant:
    """One setting of the simulation; the defaults are the one that the workloads were fitted in."""

    profile: str = MODEL_32B
    max_batched_tokens: int = 2048
    block_size: int = 16
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
            engine=EngineConfig(max_batched_tokens=self.max_batched_tokens, max_sequences=256),
            cache_events=False,
        )


FITTED = Variant()
VARIANTS = {
    "as fitted": FITTED,
    "Qwen3-14B on one A6000": Variant(profile=MODEL_14B),
    "budget of 4,096 tokens": Variant(max_batched_tokens=4096),
    "budget of 8,192 tokens": Variant(max_batched_tokens=8192),
    "blocks of 64 tokens": Variant(block_size=64),
    "no host tier": Variant(host_ratio=0.0),
    "write-back": Variant(write_mode=WriteMode.WRITE_BACK),
    "exclusive": Variant(write_mode=WriteMode.EXCLUSIVE),
    "exclusive, host tier of ratio 2": Variant(write_mode=WriteMode.EXCLUSIVE, host_ratio=2.0),
    "1,000 workflows a run": Variant(num_workflows=1000),
}


@dataclass(slots=True)
class Lab:
    """Traces on disk, by workload and seed, and the runs over them, in a scratch folder."""

    work: Path
    traces: dict[tuple[str, int, int], Trace] = field(default_factory=dict)

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
            simulate([trace], variant.settings(concurrencies, seed), out, force=True)
            found += summarise(out)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="traces a setting of the curve (the paper: 10)")
    parser.add_argument("--few-seeds", type=int, default=4, help="traces a setting of the sensitivity")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs/results", help="folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pbkv-shape-") as work:
        lab, seeds = Lab(Path(work)), range(arguments.seeds)
        curves = {
            name: lab.runs(name, FITTED, target.concurrencies, seeds) for name, target in TARGETS.items()
        }
        few = range(arguments.few_seeds)
        parts = [
            _head(arguments),
            _curve_tables(curves),
            _anatomy_table({name: lab.trace(name, 0) for name in TARGETS}),
            _latency_table(lab, few),
            _sensitivity_table(lab, few),
        ]
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "shape.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    subtitle = f"LRU · {POOL_TOKENS:,} tokens of GPU pool · host tier of ratio 1, write-through · {MODEL_32B}"
    hit_ratio_by_concurrency(list(_points(curves)), arguments.output / "shape.png", subtitle=subtitle)


def _points(curves: Mapping[str, Sequence[CellSummary]]) -> Iterator[Point]:
    for name, runs in curves.items():
        for cell in over_seeds(runs):
            yield Point("lru", load(cell), known(cell.gpu_hit_ratio), TARGETS[name].title)
    for at, hit in TARGETS["hover"].paper_curve.items():
        yield Point("lru", at, Interval(hit / 100, None, 1), "HoVer of the paper")


def _head(arguments: argparse.Namespace) -> str:
    return (
        "# The shape of LRU on the generated workloads\n\n"
        "Made by `python bench/shape.py`; what the workloads are and how they were fitted: "
        "[docs/workloads.md](../workloads.md). "
        f"Closed loop, {NUM_WORKFLOWS} workflows, LRU, GPU pool of {POOL_TOKENS:,} tokens (11,000 blocks of "
        "16), "
        f"host tier of the same size, write-through, {MODEL_32B}, at most 2,048 tokens an iteration and 256 "
        "sequences, fcfs, unless a row says otherwise. Hit ratios in per cent of prompt tokens found on the "
        f"GPU: mean ± 95 % interval over {arguments.seeds} seeds in the first tables, over "
        f"{arguments.few_seeds} in the rest; each seed is another trace."
    )


def _curve_tables(curves: Mapping[str, Sequence[CellSummary]]) -> str:
    parts = ["## By concurrency\n\n![GPU hit ratio by concurrency](shape.png)"]
    for name, runs in curves.items():
        target = TARGETS[name]
        rows = [
            (
                str(load(cell)),
                percent(cell.gpu_hit_ratio),
                seed_range(runs, cell),
                f"{target.paper_curve[load(cell)]:.1f}" if load(cell) in target.paper_curve else "",
                percent(cell.host_hit_ratio),
                percent(cell.evicted_ratio),
                seconds(cell.jct_s),
                seconds(cell.ttft_s),
            )
            for cell in over_seeds(runs)
        ]
        header = (
            target.title,
            "GPU hit",
            "lowest to highest seed",
            "paper",
            "host hit",
            "miss: evicted",
            "latency s",
            "TTFT s",
        )
        parts.append(table(header, rows))
    return "\n\n".join(parts)


def _anatomy_table(traces: Mapping[str, Trace]) -> str:
    """What the traces of seed 0 are made of."""
    rows = []
    for name, trace in traces.items():
        about = describe(trace)
        live, ended, fixed, gap_s = anatomy(list(trace.workflows(everything=True)))
        rows.append(
            (
                TARGETS[name].title,
                f"{about.num_calls / about.num_workflows:.1f}",
                f"{about.prompt_tokens.median:,}",
                f"{about.num_output_tokens / about.num_calls:.1f}",
                f"{100 * about.reuse_ratio:.1f}",
                f"{100 * fixed:.1f}",
                f"{gap_s:.1f}",
                f"{live:.0f}",
                f"{ended:.0f}",
            )
        )
    header = (
        "workload",
        "calls a workflow",
        "prompt tokens, median",
        "output tokens, mean",
        "infinite-cache reuse %",
        "fixed prompts, % of prompt tokens",
        "outside the LLM, s a workflow",
        "private blocks, mean over calls",
        "private blocks at the end, median",
    )
    return "## What the traces are made of (seed 0)\n\n" + table(header, rows)


def _latency_table(lab: Lab, seeds: Sequence[int]) -> str:
    """At the paper's points, both models: ratios only, the paper's seconds are not to be matched."""
    rows = []
    for name, target in TARGETS.items():
        latencies: dict[str, float] = {}
        for profile, paper in target.paper.items():
            cell = lab.cells(name, replace(FITTED, profile=profile), [target.point], seeds)[0]
            latency_s, ttft_s = known(cell.jct_s).mean, known(cell.ttft_s).mean
            latencies[profile] = latency_s
            row = (
                f"{target.title}, {target.point}",
                profile,
                percent(cell.gpu_hit_ratio),
                f"{paper.hit:.1f}",
            )
            rows.append((*row, f"{latency_s / ttft_s:.1f}", f"{paper.latency_s / paper.ttft_s:.1f}"))
        ours = latencies[MODEL_32B] / latencies[MODEL_14B]
        papers = target.paper[MODEL_32B].latency_s / target.paper[MODEL_14B].latency_s
        rows.append(
            (
                f"{target.title}, {target.point}",
                "latency, 32B over 14B",
                "",
                "",
                f"{ours:.2f}",
                f"{papers:.2f}",
            )
        )
    header = ("workload, concurrent", "profile", "GPU hit", "paper", "latency over TTFT", "paper")
    return "## At the paper's points\n\n" + table(header, rows)


def _sensitivity_table(lab: Lab, seeds: Sequence[int]) -> str:
    loads = [(name, at) for name, target in TARGETS.items() for at in target.around]
    rows = []
    for label, variant in VARIANTS.items():
        cells = [label]
        for name, target in TARGETS.items():
            found = lab.cells(name, variant, target.around, seeds)
            cells += [with_host(cell) for cell in found]
        rows.append(tuple(cells))
    header = ("GPU hit (+ host hit)", *(f"{TARGETS[name].title} {at}" for name, at in loads))
    return "## Sensitivity\n\n" + table(header, rows)


if __name__ == "__main__":
    main()
