"""The paper's shape from LRU: GPU hit ratios of the three generated workloads by concurrency.

    python bench/shape.py                # → docs/results/shape.{md,png}; about twelve minutes on an idle core

Each seed is another trace of 250 workflows; intervals are 95 % over seeds. The paper's figures are those
of arXiv 2605.06472; what was fitted to them, and what was not, is in docs/workloads.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file runs by its path, as well as by `-m bench.shape`

from bench.shape_lab import (  # noqa: E402 - needs the line above
    FITTED,
    NUM_FITTED,
    POOL_TOKENS,
    TARGETS,
    VARIANTS,
    Lab,
)
from bench.shape_report import (  # noqa: E402
    anatomy,
    known,
    load,
    percent,
    seconds,
    seed_range,
    with_host,
)
from pbkv.analysis.describe import describe  # noqa: E402
from pbkv.analysis.figures import hit_ratio_by_concurrency  # noqa: E402
from pbkv.analysis.intervals import Interval  # noqa: E402
from pbkv.analysis.points import Point  # noqa: E402
from pbkv.analysis.summary import CellSummary, over_seeds  # noqa: E402
from pbkv.analysis.table import markdown  # noqa: E402
from pbkv.paper.experiments import (  # noqa: E402
    BATCHING,
    BLOCK_SIZE,
    MAX_BATCHED_TOKENS,
    MAX_SEQUENCES,
    NUM_WORKFLOWS,
    POOL_BLOCKS,
)
from pbkv.paper.published import MODEL_14B, MODEL_32B  # noqa: E402
from pbkv.traces.reader import Trace  # noqa: E402


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
        f"Closed loop, {NUM_WORKFLOWS} workflows, LRU, GPU pool of {POOL_TOKENS:,} tokens ({POOL_BLOCKS:,} "
        f"blocks of {BLOCK_SIZE}), host tier of the same size, write-through, {MODEL_32B}, "
        f"{BATCHING} batches, chunks of {MAX_BATCHED_TOKENS:,} tokens, {MAX_SEQUENCES} running requests, "
        "fcfs, unless a row says otherwise. Hit ratios in per cent of prompt tokens found on the "
        f"GPU: mean ± 95 % interval over {arguments.seeds} seeds in the first tables, over "
        f"{arguments.few_seeds} in the rest; each seed is another trace."
    )


def _curve_tables(curves: Mapping[str, Sequence[CellSummary]]) -> str:
    parts = ["## By concurrency\n\n![GPU hit ratio by concurrency](shape.png)"]
    for name, runs in curves.items():
        target = TARGETS[name]
        held_out = {load(cell): cell for cell in over_seeds(runs[NUM_FITTED * len(target.concurrencies) :])}
        rows = [
            (
                str(load(cell)),
                percent(cell.gpu_hit_ratio),
                percent(held_out[load(cell)].gpu_hit_ratio) if held_out else "",
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
            f"seeds {NUM_FITTED} on",
            "lowest to highest seed",
            "paper",
            "host hit",
            "miss: evicted",
            "latency s",
            "TTFT s",
        )
        parts.append(markdown(header, rows))
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
    return "## What the traces are made of (seed 0)\n\n" + markdown(header, rows)


def _latency_table(lab: Lab, seeds: Sequence[int]) -> str:
    """At the paper's points, both models: ratios only, the paper's seconds are not to be matched."""
    rows = []
    for name, target in TARGETS.items():
        latencies: dict[str, float] = {}
        for profile, paper in target.paper.items():
            variant = replace(FITTED, profile=profile)
            cell = lab.cells(name, variant, [target.point], seeds)[0]
            latency_s, ttft_s = known(cell.jct_s).mean, known(cell.ttft_s).mean
            latencies[profile] = latency_s
            row = (
                f"{target.title}, {target.point}",
                profile,
                percent(cell.gpu_hit_ratio),
                f"{paper.hit:.1f}",
            )
            ratios = f"{latency_s / ttft_s:.1f}", f"{paper.latency_s / paper.ttft_s:.1f}"
            pure = f"{100 * lab.pure_decodes(name, variant, target.point):.1f}"
            rows.append((*row, *ratios, pure, f"{1000 * lab.decode_step_s(name, variant):.0f}"))
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
                "",
                "",
            )
        )
    header = (
        "workload, concurrent",
        "profile",
        "GPU hit",
        "paper",
        "latency over TTFT",
        "paper",
        "pure decode, % of iterations",
        "such an iteration, ms",
    )
    return "## At the paper's points\n\n" + markdown(header, rows)


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
    return "## Sensitivity\n\n" + markdown(header, rows)


if __name__ == "__main__":
    main()
