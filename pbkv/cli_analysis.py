"""`pbkv report`, `pbkv compare` and `pbkv timeline`: what runs say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pbkv.analysis.compare import Comparison

_WORSE = 1

_Runs = Annotated[
    list[Path], typer.Argument(metavar="RUN…", help="Run folders, or folders with runs in them (a sweep).")
]
_Json = Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")]


def report(
    runs: _Runs,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The page; replaced [default: report.html].")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="The policy to compare with [default: lru, or the first].")
    ] = None,
    json_output: _Json = False,
) -> None:
    """Write RUN… as one HTML page that needs nothing else: verdict, tables, figures."""
    from pbkv.analysis.report import engine_notes, report_numbers, views_of, write_report
    from pbkv.analysis.words import headline

    if json_output and output is None:
        _print_json(report_numbers(views_of(runs, baseline)))
        return
    page = Path("report.html") if output is None else output
    views = write_report(runs, page, baseline)
    if json_output:
        _print_json(report_numbers(views))
        return
    for view in views:
        typer.echo(f"{view.world.name}: {headline(view.verdicts)}")
    for note in engine_notes(views):
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"report: {page}")


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A run's folder, or FOLDER:POLICY. The baseline.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Likewise: what is judged.")],
    measure: Annotated[
        list[str],
        typer.Option(help="jct_s, ttft_s, tpot_s, hit_ratio, gpu_hit_ratio, host_hit_ratio; repeatable."),
    ] = ["jct_s", "ttft_s", "hit_ratio"],  # noqa: B006
    fail_if_worse: Annotated[
        str | None,
        typer.Option(
            metavar="MARGIN",
            help="Exit 1 if, by a whole interval, a measure of B is worse than A's by more, as in 2%.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    json_output: _Json = False,
) -> None:
    """Compare run B with run A, paired by workflow: ratios of means with 95 % bootstrap intervals."""
    from dataclasses import asdict

    from pbkv.analysis.compare import compare as compared
    from pbkv.analysis.compare import open_side
    from pbkv.analysis.sides import differing_engines, notes

    margin = None if fail_if_worse is None else _share("--fail-if-worse", fail_if_worse)
    runs = open_side(a), open_side(b)
    found = compared(*runs, measure, seed)
    worse = [] if margin is None else [comparison for comparison in found if comparison.is_worse(margin)]
    engines = differing_engines(*runs)
    if json_output:
        _print_json([{**asdict(comparison), "is_worse": comparison in worse} for comparison in found])
        for note in notes(*runs):
            typer.echo(f"note: {note}", err=True)
    else:
        _print_comparisons(found, worse, notes(*runs))
    if worse:
        also = f" ({engines})" if engines else ""
        typer.echo(f"worse by more than {fail_if_worse}: {len(worse)} of {len(found)}{also}", err=True)
        raise typer.Exit(_WORSE)


def timeline(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="JSON file; replaced.")] = Path("trace.json"),
    cell: Annotated[int | None, typer.Option(help="Number of the cell [default: the first].")] = None,
) -> None:
    """Write a cell of RUN as a timeline for ui.perfetto.dev or chrome://tracing."""
    from pbkv.analysis.load import load
    from pbkv.analysis.timeline import write_timeline

    count = write_timeline(load(run), output, cell)
    typer.echo(f"{output}: {count:,} events")


def register(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    for command in (report, compare, timeline):
        app.command()(command)


def _share(option: str, text: str) -> float:
    from pbkv.traces.errors import ConfigError

    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise ConfigError(option, text, "a share from 0 to below 1, as in 0.02 or 2%")
    return share


def _print_json(found: object) -> None:
    import json

    from pbkv.analysis.numbers import clean

    typer.echo(json.dumps(clean(found), indent=1, ensure_ascii=False))


def _print_comparisons(
    found: Sequence[Comparison], worse: Sequence[Comparison], notes: Sequence[str]
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    names = _names(found)
    kept = [at for at in range(3) if len({name[at] for name in names}) > 1]  # the rest stands in the title
    for header in (*(("setting", "A", "B")[at] for at in kept), "measure"):
        table.add_column(header, overflow="fold")
    for header in ("of A", "of B", "B vs A", "95 % interval", "n"):
        table.add_column(header, justify="right", no_wrap=True)
    for comparison, named in zip(found, names, strict=True):
        style = "bold red" if comparison in worse else ""
        texts = [*(named[at] for at in kept), comparison.measure, *_texts(comparison)]
        table.add_row(*(Text(text, style) for text in texts))
    console = Console()
    title = [f"{name}: {names[0][at]}" for at, name in ((1, "A"), (2, "B")) if at not in kept]
    console.print(Text(" · ".join(title), style="bold"))
    console.print(table)
    console.print("paired by workflow, bootstrap; n: pairs of workflows", style="dim")
    if most := max(row.num_unpaired for row in found):
        notes = [*notes, f"up to {most:,} workflows of a setting are on one side only and left out"]
    for note in notes:
        console.print(Text(f"note: {note}", "yellow"), soft_wrap=True)


def _names(found: Sequence[Comparison]) -> list[tuple[str, str, str]]:
    """The setting and the two policies of each row; sides that differ in more are written out."""
    from dataclasses import replace

    from pbkv.analysis.labels import distinct

    if any(replace(row.a, policy="") != replace(row.b, policy="") for row in found):
        names = distinct([side for row in found for side in (row.a, row.b)])
        return [("", names[2 * at], names[2 * at + 1]) for at in range(len(found))]
    sizes = {(row.a.gpu_blocks, row.a.host_blocks) for row in found}
    follows = len(sizes) == len({row.a.gpu_blocks for row in found})  # the host tier from the GPU tier
    settings = distinct([row.a for row in found], besides=["policy", "host"] if follows else ["policy"])
    return [(name, row.a.label, row.b.label) for name, row in zip(settings, found, strict=True)]


def _texts(comparison: Comparison) -> list[str]:
    scale = 1 if comparison.measure.endswith("_s") else 100
    unit = "s" if scale == 1 else "%"
    ends = "–"
    if comparison.low is not None and comparison.high is not None:
        ends = f"{_change(comparison.low)[:-1]} to {_change(comparison.high)}"
    means = [f"{scale * mean:.4g} {unit}" for mean in (comparison.mean_a, comparison.mean_b)]
    return [*means, _change(comparison.ratio), ends, f"{comparison.num_workflows:,}"]


def _change(ratio: float) -> str:
    if ratio != ratio:  # NaN: of nothing, as of a hit ratio of 0
        return "–"
    return f"{100 * (ratio - 1):+.1f}%"
