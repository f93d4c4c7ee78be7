"""`pbkv traces`: import, validate, describe, generate and export traces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pbkv.traces.importers import Imported
    from pbkv.traces.schema import TraceMetadata, Workflow

app = typer.Typer(help="Import, check, describe, generate and export traces.")

_Trace = Annotated[Path, typer.Argument(metavar="TRACE", help="A trace in any format that import reads.")]
_Out = Annotated[Path, typer.Option("-o", "--output", help="File to write; appears when it is whole.")]
_Force = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]


@app.callback(invoke_without_command=True)
def _without_command(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("import")
def import_(
    source_file: Annotated[
        Path, typer.Argument(metavar="SRC", help="A log or trace, plain or gzipped, or a folder.")
    ],
    output: _Out,
    format_name: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="agent-jsonl, claude-code, lmcache, mooncake, mooncake-v1, mooncake-v2, openai, otel, "
            "parquet, tau2, vllm-events or weka [default: told from content].",
        ),
    ] = None,
    force: _Force = False,
    arrivals: Annotated[
        Path | None, typer.Option(help="Azure CSV: workflow i arrives when its request i did.")
    ] = None,
    arrival_scale: Annotated[
        float | None, typer.Option(help="Factor on those arrivals; 0.5 doubles the load [default: 1].")
    ] = None,
    block_size: Annotated[
        int | None, typer.Option(help="Tokens a block (logs of block hashes) [default: the log's].")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Name on the hub, or tokenizer.json, for logs of text [default: characters/4]."),
    ] = None,
    workflow_field: Annotated[
        str | None, typer.Option(help="Field of an openai log that names the workflow (a.b: b within a).")
    ] = None,
    agent_field: Annotated[
        str | None, typer.Option(help="Field of an openai log that names the agent.")
    ] = None,
    store_text: Annotated[
        bool,
        typer.Option("--store-text", help="Keep what prompts say with the trace [default: leave it out]."),
    ] = False,
    source: Annotated[str | None, typer.Option(help="Where the trace comes from, for its metadata.")] = None,
    licence: Annotated[str | None, typer.Option(help="Its licence, likewise.")] = None,
) -> None:
    """Turn SRC into a canonical Parquet trace."""
    from pbkv.traces import importers
    from pbkv.traces.writer import write_trace

    imported = importers.read(
        source_file,
        format_name=format_name,
        block_size=block_size,
        tokenizer=tokenizer,
        workflow_field=workflow_field,
        agent_field=agent_field,
        store_text=store_text,
    )
    workflows, metadata = _with_arrivals(imported, arrivals, arrival_scale)
    metadata = _labelled(metadata, source, licence)
    written = write_trace(output, _watched("import", workflows), metadata, force=force)
    typer.echo(_written(output, written) + _findings(written))
    for name in ("num_dropped_not_before", "num_merged_delays"):
        if name in metadata.extra:
            typer.echo(
                f"note: {name.removeprefix('num_').replace('_', ' ')}: {metadata.extra[name]}", err=True
            )


@app.command()
def validate(trace: _Trace) -> None:
    """Read all of TRACE and check it."""
    from pbkv.traces.sources import open_trace
    from pbkv.traces.validate import validate as validated

    with open_trace(trace) as opened:
        counts = validated(opened)
    typer.echo(
        f"{trace}: in order: {counts.num_workflows:,} workflows, {counts.num_calls:,} calls, "
        f"{counts.num_segments:,} segments, {counts.num_prompt_tokens:,} prompt and "
        f"{counts.num_output_tokens:,} output tokens"
    )


@app.command()
def describe(
    trace: _Trace,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    figure: Annotated[Path | None, typer.Option(help="Also draw the call graph (PNG).")] = None,
) -> None:
    """Print what TRACE holds, or draw its call graph."""
    import json

    from rich.console import Console

    from pbkv.analysis.describe import as_table
    from pbkv.analysis.describe import describe as described
    from pbkv.traces.errors import ConfigError
    from pbkv.traces.sources import open_trace

    if figure is not None and not figure.parent.is_dir():
        raise ConfigError("--figure", str(figure), f"an existing folder {figure.parent}")
    with open_trace(trace) as opened:
        description = described(opened)
    if figure is not None:
        from pbkv.analysis.call_graph import call_graph

        call_graph(description.handovers, figure, subtitle=_subtitle(trace, description.metadata))
    if json_output:
        typer.echo(json.dumps(description.to_dict(), indent=1, ensure_ascii=False))
    else:
        Console().print(as_table(description))


@app.command()
def generate(
    workload: Annotated[str, typer.Argument(help="hover, swe, finance or the path of a .toml file.")],
    output: _Out,
    workflows: Annotated[int, typer.Option(help="How many.")] = 250,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal traces.")] = 0,
    force: _Force = False,
) -> None:
    """Generate a synthetic trace of WORKLOAD."""
    from pbkv.traces.generate import generate_workload, workload_metadata
    from pbkv.traces.writer import write_trace

    metadata = workload_metadata(workload, workflows, seed)
    generated = generate_workload(workload, workflows, seed)
    written = write_trace(output, _watched("generate", generated), metadata, force=force)
    typer.echo(_written(output, written))


@app.command()
def export(
    trace: _Trace,
    output: _Out,
    block_size: Annotated[int, typer.Option(help="Tokens a block.")] = 64,
    force: _Force = False,
) -> None:
    """Write TRACE as agentic Mooncake v2 (.gz: gzipped)."""
    from pbkv.traces.export_mooncake_v2 import export as exported
    from pbkv.traces.sources import open_trace

    with open_trace(trace) as opened:
        num_calls = exported(opened, output, block_size=block_size, force=force)
    typer.echo(f"{output}: {num_calls:,} calls")


def _with_arrivals(imported: Imported, arrivals: Path | None, scale: float | None) -> Imported:
    from dataclasses import replace

    from pbkv.traces.errors import ConfigError
    from pbkv.traces.importers.azure import lay_over, read_arrivals

    workflows, metadata = imported
    if arrivals is None:
        if scale is not None:
            raise ConfigError("--arrival-scale", scale, "--arrivals with it")
        return imported
    laid = lay_over(workflows, read_arrivals(arrivals), 1.0 if scale is None else scale)
    extra = {**metadata.extra, "arrivals": arrivals.name, "arrival_scale": 1.0 if scale is None else scale}
    return laid, replace(metadata, extra=extra)


def _labelled(metadata: TraceMetadata, source: str | None, licence: str | None) -> TraceMetadata:
    from dataclasses import replace

    return replace(metadata, source=source or metadata.source, licence=licence or metadata.licence)


def _watched(title: str, workflows: Iterable[Workflow]) -> Iterator[Workflow]:
    """The workflows; on a terminal, stderr shows how many have passed."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn(title), MofNCompleteColumn(), TextColumn("workflows"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield from progress.track(workflows)


def _written(output: Path, metadata: TraceMetadata) -> str:
    return f"{output}: {metadata.num_workflows:,} workflows, {metadata.num_calls:,} calls"


def _findings(metadata: TraceMetadata) -> str:
    """What the import had to assume and to leave out, for its closing line."""
    extra = metadata.extra
    parts = [f"tokens {extra['tokens']}"] if "tokens" in extra else []
    if "num_prompt_tokens_logged" in extra:
        logged, imported = (extra[f"num_prompt_tokens_{which}"] for which in ("logged", "imported"))
        parts.append(f"prompt tokens {imported:,}, in the log {logged:,}")
    if metadata.has_text:
        parts.append("text stored")
    counts = extra.get("counts")
    if isinstance(counts, dict):
        parts.extend(f"{name}: {number:,}" for name, number in sorted(counts.items()) if number)
    return "".join(f"; {part}" for part in parts)


def _subtitle(trace: Path, metadata: TraceMetadata) -> str:
    return f"{trace.name} · {metadata.num_workflows:,} workflows, {metadata.num_calls:,} calls"
