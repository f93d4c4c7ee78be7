"""What commands show: progress on stderr (terminals only), tables and JSON on stdout."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

import pbkv
from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    from pbkv.replay.openai import Prompts
    from pbkv.replay.openai_client import Server
    from pbkv.replay.settings import ReplaySettings
    from pbkv.serve.cell import CellResult
    from pbkv.serve.settings import Cell, RunSettings
    from pbkv.sim.curve import Curve
    from pbkv.sim.settings import Settings
    from pbkv.traces.reader import Trace

_PACKAGES = ("simpy", "numpy", "pandas", "pyarrow", "typer", "rich", "matplotlib", "safetensors")
_OPTION_NAMES = {"num_steps": "steps"}  # of the command line, where it is another
_TORCH_PACKAGES = ("torch", "transformers")


def simulate_to(traces: Sequence[Trace], settings: Settings, output: Path, force: bool) -> None:
    """Simulate with a progress bar and print the run's table."""
    from pbkv.sim.run import simulate

    _run_to(simulate, "simulate", traces, settings, output, force)


def replay_to(
    traces: Sequence[Trace],
    settings: ReplaySettings,
    model: Any,
    output: Path,
    force: bool,
    record: Path | None,
) -> None:
    """Replay with a progress bar and print the run's table."""
    from pbkv.replay.run import replay

    def run(traces: Sequence[Trace], settings: Any, out: Path, **options: Any) -> list[CellResult]:
        return replay(traces, settings, model, out, record=record, **options)

    _run_to(run, "replay", traces, settings, output, force)
    if record is not None:
        print(f"trace with the model's context vectors: {record}")


def send_to(
    traces: Sequence[Trace],
    settings: RunSettings,
    server: Server,
    prompts: Prompts,
    output: Path,
    force: bool,
) -> None:
    """Send to a server with a progress bar and print the run's table."""
    from pbkv.replay.openai import replay_openai

    def run(traces: Sequence[Trace], settings: Any, out: Path, **options: Any) -> list[CellResult]:
        return replay_openai(traces, settings, server, out, prompts=prompts, **options)

    _run_to(run, "replay", traces, settings, output, force)


def _warn_of_unused(settings: RunSettings) -> None:
    """Name on stderr the options that were given and change nothing."""
    unused = [_OPTION_NAMES.get(name, name).replace("_", "-") for name in settings.unused_options()]
    if unused:
        policies = ", ".join(settings.policies)
        print(f"warning: --{', --'.join(unused)}: not used by {policies}", file=sys.stderr)


def _run_to(
    run: Callable[..., list[CellResult]],
    title: str,
    traces: Sequence[Trace],
    settings: RunSettings,
    output: Path,
    force: bool,
) -> None:
    _warn_of_unused(settings)
    num_calls, num_cells = sum(trace.num_calls for trace in traces), len(settings.cells())
    with progress_of_calls(title, num_calls * num_cells) as advance:

        def report(cell: Cell, num_done: int) -> None:
            advance(cell.cell * num_calls + num_done)

        results = run(traces, settings, output, force=force, command=command_line(), progress=report)
    print_run(output)
    if settings.skip_too_long:
        fewest, most = (pick(result.num_workflows for result in results) for pick in (min, max))
        played = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,} (it depends on the GPU tier)"
        num_workflows = sum(trace.metadata.num_workflows for trace in traces)
        print(f"workflows that fit: {played} of {num_workflows:,}")


@contextmanager
def progress_of_calls(title: str, num_calls: int) -> Iterator[Callable[[int], None]]:
    """A bar over ``num_calls`` calls; yields what to call with those done so far."""
    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("calls"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=num_calls)
        yield lambda num_done: progress.update(task, completed=num_done)


def reproduce_to(
    output: Path, work: Path, num_seeds: int, only: Sequence[str] | None, num_workers: int | None
) -> None:
    """Run the paper's experiments with a progress bar a stage, and write their report."""
    from pbkv.paper.experiments import EXPERIMENTS
    from pbkv.paper.report import check_output, write_report
    from pbkv.paper.run import reproduce

    check_output(output)

    for name, value in (("seeds", num_seeds), ("workers", num_workers)):
        if value is not None and value < 1:
            raise ConfigError(name, value, "a number ≥ 1")
    chosen = list(only or EXPERIMENTS)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        stages: dict[str, TaskID] = {}

        def report(stage: str, num_done: int, num_all: int) -> None:
            if stage not in stages:
                stages[stage] = progress.add_task(stage, total=num_all)
            progress.update(stages[stage], completed=num_done)

        results = reproduce(work, range(num_seeds), chosen, num_workers or os.cpu_count() or 1, report)
    write_report(results, chosen, command_line(), output)
    print(f"{output}: {len(results.rows):,} cells, paper.md and figures")


def print_run(folder: Path) -> None:
    """The run's table, and where its records are."""
    from pbkv.analysis.summary import summarise
    from pbkv.analysis.table import ConsoleTable

    console = Console()
    console.print(ConsoleTable(summarise(folder)))
    console.print(f"records: {folder}", style="dim", soft_wrap=True, highlight=False)


def print_curve(trace: Path, curve: Curve, *, as_json: bool, figure: Path | None) -> None:
    """The curve as a table or as JSON, and as a picture if ``figure`` names a file."""
    if figure is not None:
        _draw_curve(trace, curve, figure)
    if as_json:
        found = {"trace": str(trace), **asdict(curve), "infinite_hit_ratio": curve.infinite_hit_ratio}
        print(json.dumps(found, indent=1))
    else:
        _print_curve_table(curve)


def _print_curve_table(curve: Curve) -> None:
    console = Console()
    load = f"{curve.concurrency} slots take turns" if curve.order == "turns" else "file order"
    title = f"hit ratio, cache only · {curve.num_calls:,} calls, {load} · {curve.block_size}-token blocks"
    console.print(title, style="bold", highlight=False)
    console.print(_curve_table(curve))
    console.print(f"an infinite cache: {curve.infinite_hit_ratio:.2%}", style="dim", highlight=False)


def _curve_table(curve: Curve) -> Table:
    policies = list(dict.fromkeys(point.policy for point in curve.points))
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("GPU blocks", justify="right")
    for policy in policies:
        table.add_column(policy, justify="right")
    ratios = {(point.gpu_blocks, point.policy): point.hit_ratio for point in curve.points}
    for size in dict.fromkeys(point.gpu_blocks for point in curve.points):
        table.add_row(f"{size:,}", *(f"{ratios[size, policy]:.2%}" for policy in policies))
    return table


def _draw_curve(trace: Path, curve: Curve, figure: Path) -> None:
    from pbkv.analysis.figures import hit_ratio_by_capacity
    from pbkv.analysis.intervals import Interval
    from pbkv.analysis.points import Point

    points = [Point(p.policy, p.gpu_blocks, Interval(p.hit_ratio, None, 1)) for p in curve.points]
    subtitle = f"{trace.name} · cache only · blocks of {curve.block_size} tokens"
    hit_ratio_by_capacity(points, figure, subtitle=subtitle, infinite_ratio=curve.infinite_hit_ratio)


def print_info() -> None:
    """Versions of pbkv and of what it stands on."""
    print(f"pbkv {pbkv.__version__}\npython {platform.python_version()}")
    for package in _PACKAGES:
        print(package, _version(package) or "not installed")
    for package in _TORCH_PACKAGES:
        print(package, _version(package) or "not installed (pip install 'pbkv[torch]')")


def command_line() -> str:
    """The command as it was typed."""
    return shlex.join(["pbkv", *sys.argv[1:]])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
