"""The command line: its commands, and how they end. What is heavy is imported where it is needed."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from pbkv import cli_analysis, cli_fidelity, cli_replay, cli_simulate, cli_study, cli_traces, cli_train
from pbkv.traces.errors import InputError

_INTERRUPTED = 130
_UsageError: Any = typer.BadParameter.__mro__[1]  # click's, which newer releases of typer bring themselves

app = typer.Typer(
    help="A policy lab for the KV-cache of LLM agent workflows.",
    no_args_is_help=False,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(cli_traces.app, name="traces")

_Out = Annotated[Path, typer.Option("-o", "--output", help="Folder of the run; appears when it is whole.")]
_Force = Annotated[bool, typer.Option("--force", help="Replace an earlier run.")]


def main() -> NoReturn:
    """Run the command line. Bad input prints one line and exits 2, an interrupt exits 130."""
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # others keep 30 MB of what a batch took
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up like an interrupt
    try:
        status = app(prog_name="pbkv", standalone_mode=False)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output has gone
        sys.exit(1)
    except OSError as error:
        what = error if error.filename is None else f"{error.filename}: {error.strerror}"
        print(f"error: {what}, expected to be able to use it", file=sys.stderr)
        sys.exit(2)
    except _UsageError as error:
        print(f"error: {error.format_message()} (see pbkv --help)", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        status = _INTERRUPTED
    if status == _INTERRUPTED:  # typer turns an interrupt into this status
        print("interrupted", file=sys.stderr)
    sys.exit(status if isinstance(status, int) else 0)


@app.callback(invoke_without_command=True)
def _without_command(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command()(cli_simulate.simulate)
app.command()(cli_simulate.curve)
app.command()(cli_replay.replay)
app.command()(cli_train.train)
app.add_typer(cli_study.app)
cli_analysis.register(app)
cli_fidelity.register(app)


@app.command()
def demo(output: _Out = Path("runs/demo"), force: _Force = False) -> None:
    """Generate HoVer-like workflows, put LRU under growing pressure, draw what happens."""
    from pbkv.demo import run_demo

    run_demo(output, force=force)


@app.command()
def reproduce(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the results; replaced.")] = Path(
        "docs/results/paper"
    ),
    work: Annotated[
        Path, typer.Option(help="Folder of traces, networks and finished cells: taken up again.")
    ] = Path("runs/reproduce"),
    seeds: Annotated[int, typer.Option(help="Cells of each setting, each another trace.")] = 10,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Some of: tables 1 and 2, decode step, concurrency, steps, gamma, predictor, rho, noise, "
            "faults."
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes [default: one a core].")] = None,
) -> None:
    """Repeat the evaluation of the PBKV paper on generated workloads: tables, figures, cells as Parquet."""
    from pbkv.console import reproduce_to

    reproduce_to(output, work, seeds, only, workers)


@app.command()
def info() -> None:
    """Versions, and what is installed."""
    from pbkv.console import print_info

    print_info()
