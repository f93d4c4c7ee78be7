"""The commands `sweep` and `plan`: many simulations as one study."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    from pbkv.study.workers import Workers

app = typer.Typer()

_Out = Annotated[Path, typer.Option("-o", "--output", help="Folder of the study; taken up again.")]
_Workers = Annotated[int | None, typer.Option(help="Processes [default: one a core].")]
_Ray = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Run on a Ray cluster instead: its address, auto, or local."),
]


@app.command()
def sweep(
    scenario: Annotated[Path, typer.Argument(help="A scenario file (TOML, docs/sweep.md).")],
    output: _Out,
    workers: _Workers = None,
    ray: _Ray = None,
    keep_records: Annotated[
        bool, typer.Option("--keep-records", help="Also a Parquet file a cell, with a row a workflow.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run again what failed in an earlier call.")
    ] = False,
) -> None:
    """Simulate every combination of SCENARIO's settings; one Parquet data set, a row a cell."""
    from pbkv.console import command_line
    from pbkv.study.dataset import content_digest
    from pbkv.study.policies import unused_options
    from pbkv.study.scenario import read_scenario
    from pbkv.study.sweep import sweep as run_sweep

    read, where = read_scenario(scenario), _where(workers, ray)
    if unused := unused_options(read.policies):
        print(f"warning: {scenario}: {', '.join(unused)}: no policy there uses it", file=sys.stderr)
    started_at_s = perf_counter()
    with _progress("sweep", output) as report:
        result = run_sweep(
            read,
            output,
            where,
            report,
            keep_records=keep_records,
            retry_failed=retry_failed,
            command=command_line(),
        )
    num_cells, num_failed = len(result.rows), len(result.failures)
    again = f", {result.num_outdated:,} of other code were run again" if result.num_outdated else ""
    cpu_s = sum(row.get("cpu_s", 0.0) for row in result.rows)
    print(
        f"{num_cells:,} cells: {num_cells - num_failed:,} ok, {num_failed:,} failed; "
        f"{result.num_taken_up:,} were there{again}; {perf_counter() - started_at_s:.1f} s, "
        f"of all cells {cpu_s:.1f} s of CPU time"
    )
    _print_reasons(result.failures)
    if num_equal := read.num_cells() - num_cells:
        print(f"{num_equal:,} more combinations are equal to one of these: run once")
    print(f"{output}/cells: content {content_digest(output)}")
    if num_failed == num_cells:
        raise typer.Exit(1)


def _print_reasons(failures: Sequence[Mapping[str, Any]]) -> None:
    reasons: dict[str, int] = {}
    for row in failures:
        reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
    for reason, count in reasons.items():
        print(f"failed, {count:,} ×: {reason}")


def _where(workers: int | None, ray: str | None) -> Workers:
    from pbkv.study.workers import Processes, RayCluster, load_ray

    if workers is not None and workers < 1:
        raise ConfigError("--workers", workers, "a number ≥ 1")
    num_workers = workers or os.cpu_count() or 1
    if ray is None:
        return Processes(num_workers)
    load_ray()
    return RayCluster(ray, num_workers)


@contextmanager
def _progress(title: str, output: Path) -> Iterator[Callable[[int, int], None]]:
    """A bar over cells on stderr; after an interrupt or with a full disk, how to go on."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console, columns = (
        Console(stderr=True),
        (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("cells"), TimeRemainingColumn()),
    )
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task(title, total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total)
    except (KeyboardInterrupt, OSError):
        if (output / ".work" / "cells.jsonl").exists():
            print(f"{output} keeps the cells that have ended: the same command goes on", file=sys.stderr)
        raise


@app.command()
def plan(
    trace: Annotated[Path, typer.Argument(help="A trace file, in any format that `traces import` reads.")],
    output: _Out,
    target: Annotated[
        list[str],
        typer.Option(
            help="NAME=VALUE, all to be met; {jct,ttft,tpot}_{mean,p50,p90,p95,p99}=2s|500ms, "
            "{workflows,calls,output_tokens}_per_s=0.5, {gpu_hit,hit}_ratio=90%."
        ),
    ],
    policy: Annotated[list[str], typer.Option(help="NAME[+PART…] or FILE.py:CLASS; may be repeated.")] = [  # noqa: B006
        "lru",
        "pbkv",
    ],
    profile: Annotated[str, typer.Option(help="Hardware profile: a name or a .toml file.")] = (
        "h100-llama-3.1-8b"
    ),
    concurrency: Annotated[int, typer.Option(help="Closed loop: live workflows.")] = 48,
    open_loop: Annotated[
        bool, typer.Option("--open-loop", help="Release workflows at their arrivals.")
    ] = False,
    host_ratio: Annotated[
        str, typer.Option(help="Host tiers to search with, as multiples of the GPU tier, R[,R…].")
    ] = "0,1",
    most_gpu_gib: Annotated[
        float | None, typer.Option(help="Largest GPU tier [default: the profile's memory].")
    ] = None,
    step: Annotated[float, typer.Option(help="How much larger the next GPU tier is, a share.")] = 0.05,
    seed: Annotated[list[int], typer.Option(help="May be repeated: means over seeds.")] = [0],  # noqa: B006
    block_size: Annotated[int, typer.Option(help="Tokens a block.")] = 16,
    unknown_gap_s: Annotated[float, typer.Option(help="Tool wait where the trace has none.")] = 0.0,
    num_workflows: Annotated[int | None, typer.Option("--workflows", help="Only the first so many.")] = None,
    workers: _Workers = None,
    ray: _Ray = None,
) -> None:
    """Search for the smallest GPU and host memory with which each policy meets the targets."""
    from pbkv.console import command_line
    from pbkv.sim.profile import load_profile
    from pbkv.study.cell import GIB
    from pbkv.study.plan import Question, make_plan
    from pbkv.study.plan_report import plan_text, write_plan
    from pbkv.study.policies import make_policy
    from pbkv.study.scenario import TraceSource
    from pbkv.study.targets import parse_target

    if most_gpu_gib is not None and not 0 < most_gpu_gib < float("inf"):
        raise ConfigError("--most-gpu-gib", most_gpu_gib, "a finite number > 0")
    question = Question(
        TraceSource(trace.name.partition(".")[0], trace, num_workflows),
        profile,
        load_profile(profile),
        [make_policy(name.strip(), "", {}) for text in policy for name in text.split(",")],
        [parse_target(text) for text in target],
        _ratios(host_ratio),
        None if open_loop else concurrency,
        tuple(seed),
        None if most_gpu_gib is None else int(most_gpu_gib * GIB),
        step,
        settings=(("block_size", block_size), ("unknown_gap_s", unknown_gap_s)),
    )
    where = _where(workers, ray)
    with _progress("plan", output) as report:
        found = make_plan(question, output, where, report, command_line())
    write_plan(found, output)
    print(plan_text(found).partition("\n\nEvery size")[0])
    print(f"\n{output}: plan.md with every size, plan.png, plan.json, cells")


def _ratios(text: str) -> tuple[float, ...]:
    try:
        found = tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        found = ()
    if not found or not all(0 <= ratio < float("inf") for ratio in found):
        raise ConfigError("--host-ratio", text, "finite numbers ≥ 0, R[,R…]")
    return found
