"""The command line. Options become `Settings`; what is heavy is imported by the command that needs it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from pbkv import cli_study, cli_traces, cli_train
from pbkv.traces.errors import ConfigError, InputError

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
app.add_typer(cli_study.app)

_Traces = Annotated[list[Path], typer.Argument(help="Trace files, in any format that `traces import` reads.")]
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


@app.command()
def simulate(
    traces: _Traces,
    output: _Out,
    policy: Annotated[
        list[str], typer.Option(help="NAME[+PART…] or FILE.py:CLASS (docs/policies.md); may be repeated.")
    ] = ["lru"],  # noqa: B006
    profile: Annotated[str, typer.Option(help="Hardware profile: a name or a .toml file.")] = (
        "h100-llama-3.1-8b"
    ),
    concurrency: Annotated[
        list[str] | None, typer.Option(help="Closed loop: live workflows, N[,N…] [default: 48].")
    ] = None,
    open_loop: Annotated[
        bool, typer.Option("--open-loop", help="Release workflows at their arrivals.")
    ] = False,
    block_size: Annotated[int, typer.Option(help="Tokens a block.")] = 16,
    gpu_blocks: Annotated[
        list[str] | None, typer.Option(help="GPU tier, N[,N…] blocks [default: the profile's memory].")
    ] = None,
    gpu_kv_gb: Annotated[float | None, typer.Option(help="… or in GB (1e9 bytes).")] = None,
    host_blocks: Annotated[int | None, typer.Option(help="Host tier, in blocks.")] = None,
    host_kv_gb: Annotated[float | None, typer.Option(help="… or in GB (1e9 bytes).")] = None,
    host_ratio: Annotated[
        float | None, typer.Option(help="… or as a multiple of the GPU tier [default: 1].")
    ] = None,
    seed: Annotated[list[int], typer.Option(help="May be repeated: an interval over seeds.")] = [0],  # noqa: B006
    order: Annotated[
        str, typer.Option(help="Of workflows: file or shuffled; several seeds shuffle.")
    ] = "file",
    predictor: Annotated[
        str,
        typer.Option(
            help="Of policies that predict: markov:N (learns while serving), oracle, none, or a file."
        ),
    ] = "markov:3",
    steps: Annotated[int, typer.Option(help="K, how many calls ahead they look.")] = 3,
    gamma: Annotated[float, typer.Option(help="Discount of each call further ahead.")] = 0.7,
    noise: Annotated[float, typer.Option(help="λ, the share of noise in forecasts.")] = 0.0,
    rho: Annotated[
        float, typer.Option(help="ρ, the share of active cache that pbkv-aggressive may displace.")
    ] = 0.2,
    inherit: Annotated[
        str, typer.Option(help="Who reads what another agent has touched: none, learned or all.")
    ] = "none",
    host_order: Annotated[
        str, typer.Option(help="Host tier of pbkv: retired-first (then LRU) or score.")
    ] = "retired-first",
    idle_timeout_s: Annotated[
        float, typer.Option(help="A workflow silent for so long counts as ended.")
    ] = float("inf"),
    forecast_delay_s: Annotated[float, typer.Option(help="Forecasts come so late.")] = 0.0,
    prefill_reserve_tokens: Annotated[
        int | None, typer.Option(help="Left free by prefetches [default: one prefill chunk].")
    ] = None,
    pause_limit_s: Annotated[float, typer.Option(help="Longest pause of +admission.")] = 60.0,
    write_mode: Annotated[
        str, typer.Option(help="write-through, write-through-selective, write-back or exclusive.")
    ] = "write-through",
    early_offload: Annotated[
        bool,
        typer.Option("--early-offload", help="Modes that copy at eviction: copy while the link is idle."),
    ] = False,
    block_eviction: Annotated[
        bool, typer.Option("--block-eviction", help="Evict blocks and not whole nodes.")
    ] = False,
    request_order: Annotated[str, typer.Option(help="fcfs or lpm (longest prefix match).")] = "fcfs",
    batching: Annotated[
        str, typer.Option(help="mixed (vLLM) or prefill-first (SGLang): what an iteration holds.")
    ] = "mixed",
    max_batched_tokens: Annotated[
        int | None, typer.Option(help="Token budget of an iteration [default: the profile's].")
    ] = None,
    max_sequences: Annotated[int, typer.Option(help="Most requests at a time.")] = 256,
    h2d_gb_per_s: Annotated[float | None, typer.Option(help="Host to GPU [default: the profile's].")] = None,
    d2h_gb_per_s: Annotated[float | None, typer.Option(help="GPU to host [default: the profile's].")] = None,
    unknown_gap_s: Annotated[float, typer.Option(help="Tool wait where the trace has none.")] = 0.0,
    sample_every_s: Annotated[float, typer.Option(help="Of the occupancy table, simulated time.")] = 1.0,
    skip_too_long: Annotated[
        bool, typer.Option("--skip-too-long", help="Leave out workflows that do not fit into the GPU tier.")
    ] = False,
    faults: Annotated[
        str,
        typer.Option(
            help="What clients get wrong: lost-end=SHARE,late-end=S,wrong-agent=SHARE,"
            "missing-agent=SHARE,no-tool-times."
        ),
    ] = "",
    cache_events: Annotated[bool, typer.Option(help="Write cache_events.parquet.")] = True,
    overheads: Annotated[
        bool, typer.Option("--overheads", help="Measure what the policy's decisions cost; in run.json.")
    ] = False,
    token_by_token: Annotated[
        bool, typer.Option("--token-by-token", help="Reference mode: an event for each decode iteration.")
    ] = False,
    force: _Force = False,
) -> None:
    """Simulate TRACES on an engine with a GPU and a host tier; write a run folder and print its table."""
    from pbkv.cache.config import WriteMode
    from pbkv.cache.policy import PolicyOptions
    from pbkv.console import simulate_to
    from pbkv.sim.config import EngineConfig
    from pbkv.sim.faults import Faults
    from pbkv.sim.profile import load_profile
    from pbkv.sim.settings import Settings
    from pbkv.traces.sources import open_trace

    hardware = load_profile(profile)
    if h2d_gb_per_s is not None or d2h_gb_per_s is not None:
        hardware = hardware.with_link(_bytes_per_s(h2d_gb_per_s), _bytes_per_s(d2h_gb_per_s))
    _at_most_one({"--gpu-blocks": gpu_blocks, "--gpu-kv-gb": gpu_kv_gb})
    _at_most_one({"--host-blocks": host_blocks, "--host-kv-gb": host_kv_gb, "--host-ratio": host_ratio})
    _at_most_one({"--concurrency": concurrency, "--open-loop": open_loop or None})
    block_bytes = max(block_size, 1) * hardware.kv_bytes_per_token
    sizes = _numbers("--gpu-blocks", gpu_blocks or [])
    if gpu_kv_gb is not None:
        sizes = [_blocks("--gpu-kv-gb", gpu_kv_gb, block_bytes)]
    if host_kv_gb is not None:
        host_blocks = _blocks("--host-kv-gb", host_kv_gb, block_bytes)
    settings = Settings(
        profile=hardware,
        policies=tuple(_split(policy)),
        policy_options=PolicyOptions(
            predictor,
            steps,
            gamma,
            noise,
            rho,
            inherit,
            host_order,
            idle_timeout_s,
            forecast_delay_s,
            pause_limit_s,
        ),
        prefill_reserve_tokens=prefill_reserve_tokens,
        gpu_blocks=tuple(sizes),
        host_blocks=host_blocks,
        host_ratio=1.0 if host_ratio is None else host_ratio,
        concurrencies=(None,) if open_loop else tuple(_numbers("--concurrency", concurrency or ["48"])),
        seeds=tuple(seed),
        shuffle=_choice("--order", order, "file", "shuffled") == "shuffled",
        block_size=block_size,
        write_mode=WriteMode.named(write_mode),
        early_offload=early_offload,
        whole_nodes=not block_eviction,
        engine=EngineConfig(
            hardware.max_batched_tokens if max_batched_tokens is None else max_batched_tokens,
            max_sequences,
            request_order,  # type: ignore[arg-type] # checked there
            batching,  # type: ignore[arg-type] # checked there
            not token_by_token,
        ),
        unknown_gap_s=unknown_gap_s,
        sample_every_s=sample_every_s,
        skip_too_long=skip_too_long,
        faults=Faults.parse(faults),
        cache_events=cache_events,
        overheads=overheads,
    )
    with ExitStack() as stack:
        opened = [stack.enter_context(open_trace(path)) for path in traces]
        simulate_to(opened, settings, output, force)


@app.command()
def curve(
    trace: Annotated[Path, typer.Argument(help="A trace file, in any format that `traces import` reads.")],
    gpu_blocks: Annotated[list[str], typer.Option(help="Capacities, N[,N…] blocks.")],
    policy: Annotated[list[str], typer.Option(help="Eviction order; may be repeated.")] = ["lru"],  # noqa: B006
    block_size: Annotated[int, typer.Option(help="Tokens a block.")] = 16,
    order: Annotated[str, typer.Option(help="Of calls: turns (C slots take turns) or file.")] = "turns",
    concurrency: Annotated[int, typer.Option(help="Slots that take turns.")] = 48,
    seed: Annotated[int, typer.Option(help="Of policies that draw.")] = 0,
    whole_nodes: Annotated[
        bool, typer.Option("--whole-nodes", help="Evict whole nodes, not blocks.")
    ] = False,
    warm_up_calls: Annotated[int, typer.Option(help="Calls at the start that are not counted.")] = 0,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    figure: Annotated[Path | None, typer.Option(help="Also draw the curve (PNG).")] = None,
) -> None:
    """The cache alone, no clock: hit ratio by capacity, several policies in one pass over TRACE."""
    from pbkv.cache.named import make_policy
    from pbkv.console import print_curve, progress_of_calls
    from pbkv.sim.curve import hit_curve
    from pbkv.traces.sources import open_trace

    policies = _split(policy)
    with open_trace(trace) as opened, progress_of_calls("curve", opened.num_calls) as advance:
        found = hit_curve(
            opened,
            policies,
            _numbers("--gpu-blocks", gpu_blocks),
            block_size=block_size,
            order=_choice("--order", order, "turns", "file"),  # type: ignore[arg-type] # just checked
            concurrency=concurrency,
            seed=seed,
            whole_nodes=whole_nodes,
            warm_up_calls=warm_up_calls,
            progress=advance,
        )
    _note_idle_parts([(name, part) for name in policies for part in make_policy(name).other_parts])
    print_curve(trace, found, as_json=json_output, figure=figure)


app.command()(cli_train.train)


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


def _note_idle_parts(parts: Sequence[tuple[str, str]]) -> None:
    """Name the parts of policies that need a clock, where there is none."""
    if parts:
        *first, last = (f"the {part} of {policy}" for policy, part in parts)
        named = f"{', '.join(first)} and {last} do" if first else f"{last} does"
        print(f"note: curve has no clock: {named} nothing here", file=sys.stderr)


def _split(texts: Iterable[str]) -> list[str]:
    return [part.strip() for text in texts for part in text.split(",")]


def _numbers(option: str, texts: Iterable[str]) -> list[int]:
    found = []
    for part in _split(texts):
        try:
            found.append(int(part))
        except ValueError:
            raise ConfigError(option, part, "whole numbers, N[,N…]") from None
    return found


def _choice(option: str, value: str, *choices: str) -> str:
    if value not in choices:
        raise ConfigError(option, value, "one of " + ", ".join(choices))
    return value


def _at_most_one(options: Mapping[str, object]) -> None:
    given = [(option, value) for option, value in options.items() if value is not None]
    if len(given) > 1:
        raise ConfigError(given[1][0], given[1][1], f"either this or {given[0][0]}")


def _blocks(option: str, gb: float, block_bytes: int) -> int:
    if not 0 <= gb < float("inf"):
        raise ConfigError(option, gb, "a finite number ≥ 0")
    return int(gb * 1e9 // block_bytes)


def _bytes_per_s(gb_per_s: float | None) -> float | None:
    return None if gb_per_s is None else gb_per_s * 1e9
