"""`pbkv train`: learn a predictor from traces, say how right it is, write it to a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pbkv.predict.split import Split
    from pbkv.predict.training import Trained
    from pbkv.predict.trials import ByStep, Recipe
    from pbkv.traces.reader import Trace
    from pbkv.traces.schema import Workflow

    Runs = Sequence[Mapping[str, ByStep]]
    Curve = Mapping[int, list[Mapping[str, ByStep]]]
    Report = Callable[[int, float], None]

_MEASURES = {
    "top1": "top-1 accuracy",
    "brier": "Brier score",
    "calibration_error": "expected calibration error",
}


def train(
    traces: Annotated[
        list[Path], typer.Argument(help="Trace files, in any format that `traces import` reads.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write; appears when it is whole.")
    ] = None,
    kind: Annotated[
        str, typer.Option(help="graph (the paper's network), rgcn (with relational layers) or markov:N.")
    ] = "graph",
    steps: Annotated[int, typer.Option(help="K, how many calls ahead.")] = 3,
    context: Annotated[
        str,
        typer.Option(
            help="What a call shows: column (the trace's vectors), hash (of the prompt), none, auto, or "
            "sentence:MODEL (what a model of the hub or a folder makes of its text)."
        ),
    ] = "auto",
    record_contexts: Annotated[
        Path | None,
        typer.Option(help="Of sentence:MODEL: file for the trace with its vectors, to be simulated."),
    ] = None,
    split: Annotated[
        str, typer.Option(help="Per cent of workflows that train, stop the training, test.")
    ] = "70,10,20",
    seed: Annotated[int, typer.Option(help="Of the split, the first weights and the order.")] = 0,
    epochs: Annotated[int, typer.Option(help="At most.")] = 200,
    patience: Annotated[int, typer.Option(help="Epochs without a better loss before it stops.")] = 10,
    learning_curve: Annotated[
        bool, typer.Option("--learning-curve", help="Also by number of training workflows.")
    ] = False,
    seeds: Annotated[
        int,
        typer.Option(help="Repeat with so many seeds, split included: mean ± 95 %. The first is written."),
    ] = 1,
    folds: Annotated[int | None, typer.Option(help="Cross-validate; writes no file.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Learn to foretell the next agents from TRACES; print accuracies on workflows held out."""
    from pbkv.cli_sentences import check_record, described
    from pbkv.predict.sentences import model_of
    from pbkv.predict.trials import compared, read_workflows
    from pbkv.predict.trials import learning_curve as curve_of
    from pbkv.traces.sources import open_trace

    _check(output, folds, seeds, steps, kind, epochs, patience, seed, force)
    check_record(context, record_contexts, output, len(traces), kind, force)
    with ExitStack() as stack:
        opened = [stack.enter_context(open_trace(path)) for path in traces]
        if model := model_of(context):
            context, opened = "column", described(opened, model, record_contexts, force, stack)
        workflows = read_workflows(opened)
        about = [_about(trace) for trace in opened]
    recipe = _recipe(kind, steps, context, workflows, epochs, patience, seed)
    shares = _shares(split)
    runs: list[Mapping[str, ByStep]] = []
    curve: dict[int, list[Mapping[str, ByStep]]] = {}
    first: Trained | None = None
    with _progress(epochs) as report:
        parts = _splits(workflows, shares, seed, seeds, folds)
        for number, part in enumerate(parts):
            seeded = recipe.with_seed(seed if folds else seed + number)
            trained, found = compared(seeded, part, report(f"{kind}, {number + 1} of {len(parts)}"))
            first = first or trained
            runs.append(found)
            if learning_curve and found:
                for size, at_size in curve_of(seeded, part, report("learning curve")):
                    curve.setdefault(size, []).append(at_size)
                curve.setdefault(len(part.training), []).append(found)
    if output is not None and first is not None:
        _write(output, first, about, {"shares": list(shares), "seed": seed}, force)
    _show(kind, runs, curve, folds, as_json=json_output, output=output)


def _check(
    output: Path | None,
    folds: int | None,
    seeds: int,
    steps: int,
    kind: str,
    epochs: int,
    patience: int,
    seed: int,
    force: bool,
) -> None:
    """Whatever can be known to be wrong before a trace is read."""
    from pbkv.predict.training import check_kind
    from pbkv.traces.errors import ConfigError
    from pbkv.traces.temporary import check_free_file

    check_kind(kind)
    for name, value in (("steps", steps), ("seeds", seeds), ("epochs", epochs), ("patience", patience)):
        if value < 1:
            raise ConfigError(name, value, "a number ≥ 1")
    if seed < 0:
        raise ConfigError("seed", seed, "a number ≥ 0")
    if folds is None:
        if output is None:
            raise ConfigError("output", "nothing", "-o FILE (or --folds N)")
        check_free_file(output, force)
    elif output is not None:
        raise ConfigError("output", str(output), "either this or --folds, which writes no file")
    elif seeds > 1:
        raise ConfigError("seeds", seeds, "either this or --folds")


def _recipe(
    kind: str, steps: int, context: str, workflows: Sequence[Workflow], epochs: int, patience: int, seed: int
) -> Recipe:
    from pbkv.predict.context import check_kind
    from pbkv.predict.network import RELATIONS
    from pbkv.predict.training import context_kind_of
    from pbkv.predict.trials import Recipe

    if context != "auto":
        check_kind(context)
    if kind not in RELATIONS:
        return Recipe(kind, steps)
    from pbkv.predict.fitting import TrainingOptions

    options = TrainingOptions(num_epochs=epochs, patience=patience, seed=seed)
    return Recipe(kind, steps, context_kind_of(context, workflows), options)


def _shares(text: str) -> tuple[float, ...]:
    from pbkv.predict.split import check_shares
    from pbkv.traces.errors import ConfigError

    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError("split", text, "three numbers, TRAINING,STOPPING,TEST in per cent") from None
    check_shares(shares)
    return shares


def _splits(
    workflows: Sequence[Workflow], shares: Sequence[float], seed: int, num_seeds: int, num_folds: int | None
) -> Sequence[Split]:
    from pbkv.predict.split import folds, split

    if num_folds is not None:
        return folds(workflows, num_folds, seed)
    return [split(workflows, shares, seed + number) for number in range(num_seeds)]


def _about(trace: Trace) -> dict[str, object]:
    metadata = trace.metadata
    names = ("source", "digest", "num_workflows", "num_calls")
    contexts = {name: metadata.extra[name] for name in ("contexts",) if name in metadata.extra}
    return {"path": str(trace.path), **{name: getattr(metadata, name) for name in names}, **contexts}


def _write(
    output: Path, trained: Trained, about: Sequence[Mapping[str, object]], split: dict[str, Any], force: bool
) -> None:
    from dataclasses import replace

    from pbkv.predict.model_file import write_model

    facts = replace(trained.facts, traces=about, split={**trained.facts.split, **split})
    write_model(output, trained.arrays, facts, force=force)


@contextmanager
def _progress(num_epochs: int) -> Iterator[Callable[[str], Report]]:
    """A bar a training, on a terminal's stderr; yields what makes a report for a title."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epochs at most{task.fields[loss]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("train", total=num_epochs, loss="")

        def report_for(title: str) -> Report:
            progress.reset(task, description=title, loss="")
            return lambda epoch, loss: progress.update(task, completed=epoch, loss=f", loss {loss:.3f}")

        yield report_for


def _show(
    kind: str, runs: Runs, curve: Curve, folds: int | None, *, as_json: bool, output: Path | None
) -> None:
    if as_json:
        import json

        found = {"runs": _plain(runs), "learning_curve": {size: _plain(at) for size, at in curve.items()}}
        print(json.dumps(found, indent=1))
        return
    from rich.console import Console

    console = Console()
    if not any(runs):
        console.print("nothing to measure on: the split leaves no workflow to test", highlight=False)
    else:
        over = f"{folds} folds" if folds else f"{len(runs)} seeds" if len(runs) > 1 else "one seed"
        num_calls = sum(run[kind][0].num_calls for run in runs)
        console.print(f"on {num_calls:,} calls held out, {over}", style="bold", highlight=False)
        console.print(_table([(name, [run[name] for run in runs]) for name in runs[0]], list(_MEASURES)))
        if verdict := _verdict(kind, runs):
            console.print(verdict, highlight=False)
    if curve:
        console.print(f"{kind} by number of training workflows", style="bold", highlight=False)
        rows = [(f"{size:,}", [found[kind] for found in at]) for size, at in curve.items()]
        console.print(_table(rows, ["top1"]))
    if output is not None:
        console.print(f"written: {output}", style="dim", soft_wrap=True, highlight=False)


def _verdict(kind: str, runs: Runs) -> str | None:
    """What to use instead, where counting does as well one step ahead."""
    from statistics import fmean

    means = {name: fmean(run[name][0].top1 for run in runs) for name in runs[0]}
    best = max(means, key=means.__getitem__)  # of equals the first, which is the one asked for
    if kind.startswith("markov:") or best == kind:
        return None
    return f"{best} is better here ({means[best]:.3f} against {means[kind]:.3f} one step ahead): prefer it"


def _table(rows: Sequence[tuple[str, Sequence[ByStep]]], measures: Sequence[str]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    num_steps = len(rows[0][1][0])
    for step in range(num_steps):
        table.add_column(f"step {step + 1}", justify="right")
    for measure in measures:
        table.add_row(f"[bold]{_MEASURES[measure]}[/bold]")
        for name, runs in rows:
            table.add_row(
                name, *(_interval([run[step] for run in runs], measure) for step in range(num_steps))
            )
    return table


def _interval(values: Sequence[object], measure: str) -> str:
    """Mean ± half a 95 % interval, steps that no workflow reached left out."""
    import numpy as np

    from pbkv.analysis.intervals import mean_interval

    numbers = np.array([getattr(value, measure) for value in values])
    interval = mean_interval(numbers[np.isfinite(numbers)])
    if interval is None:
        return "–"
    return f"{interval.mean:.3f}" + ("" if interval.half is None else f" ± {interval.half:.3f}")


def _plain(runs: Runs) -> list[dict[str, list[dict[str, float]]]]:
    return [{name: [step.to_dict() for step in found] for name, found in run.items()} for run in runs]
