"""`pbkv calibrate`, `pbkv fidelity`: the simulator beside machines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pbkv.cli_options import choice

if TYPE_CHECKING:
    from pbkv.replay.calibrate import Calibration, Errors


def register(app: typer.Typer) -> None:
    """Add this module's commands to ``app``."""
    app.command()(calibrate)
    app.command()(fidelity)


def calibrate(
    output: Annotated[Path, typer.Option("-o", "--output", help="Profile to write, a .toml file.")],
    model: Annotated[
        str,
        typer.Option(
            help="A name on the hub, a folder, a GGUF file, or random:llama-8b, random:qwen3-8b, random:tiny."
        ),
    ] = "random:llama-8b",
    device: Annotated[str, typer.Option(help="cuda, cuda:N or cpu.")] = "cuda",
    dtype: Annotated[
        str | None, typer.Option(help="bfloat16, float16 or float32 [default: bfloat16; cpu: float32].")
    ] = None,
    block_size: Annotated[int, typer.Option(help="Tokens a page.")] = 32,
    max_batched_tokens: Annotated[
        int | None, typer.Option(help="Largest iteration [default: 8192; cpu: 1024].")
    ] = None,
    max_context: Annotated[
        int | None, typer.Option(help="Longest context [default: 32768; cpu: 4096].")
    ] = None,
    max_sequences: Annotated[int | None, typer.Option(help="Most sequences [default: 256; cpu: 32].")] = None,
    repeats: Annotated[int, typer.Option(help="Of each measurement; the median counts.")] = 7,
    layout: Annotated[str, typer.Option(help="Of the pools: page-first or layer-first.")] = "page-first",
    compile_backend: Annotated[
        str | None, typer.Option("--compile", help="torch.compile with this backend, e.g. inductor.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the iterations held out.")] = 0,
    threads: Annotated[
        int | None, typer.Option(help="Of torch on a CPU: 1 where others use its cores too.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Measure iterations and copies of MODEL on this machine; write a profile for `simulate --profile`."""
    from pbkv.console import command_line
    from pbkv.replay.calibrated import Wanted, calibrate_to

    wanted = Wanted(
        model,
        device,
        dtype,
        block_size,
        max_batched_tokens,
        max_context,
        max_sequences,
        repeats,
        choice("--layout", layout, "page-first", "layer-first"),  # type: ignore[arg-type] # checked
        compile_backend,
        seed,
        threads,
    )
    with _progress("calibrate") as advance:
        found = calibrate_to(output, wanted, force=force, command=command_line(), progress=advance)
    if json_output:
        print(json.dumps({"profile": str(output), **_calibration_dict(found)}, indent=1))
    else:
        print(f"{_calibration_text(found)}\nprofile: {output}")


def fidelity(
    simulated: Annotated[Path, typer.Argument(help="Folder of a simulated run.")],
    replayed: Annotated[list[Path], typer.Argument(help="Folders of replays of it; several are repeats.")],
    baseline: Annotated[str, typer.Option(help="Policy that speedups are over.")] = "lru",
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    figure: Annotated[Path | None, typer.Option(help="Also draw it (PNG).")] = None,
) -> None:
    """How near a simulation is to its replays: errors, hits, decisions, ranking of policies."""
    from pbkv.analysis.fidelity import compare
    from pbkv.analysis.fidelity_report import draw, to_dict, to_markdown
    from pbkv.analysis.load import load

    found = compare(load(simulated), [load(folder) for folder in replayed], baseline=baseline)
    if figure is not None:
        draw(found, figure)
    print(json.dumps(to_dict(found), indent=1) if json_output else to_markdown(found))


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar over measurements, on terminals only; yields what to tell (done, all)."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda num_done, total: bar.update(task, completed=num_done, total=total)


def _calibration_text(found: Calibration) -> str:
    fit, link = found.iterations, found.link
    knots = ", ".join(f"{tokens}: {1e3 * (fit.t0_s + seconds):.3g}" for tokens, seconds in fit.lin)
    rates = ", ".join(
        f"{way}{' beside the other' if busy else ''} {rate / 1e9:.3g} GB/s"
        for (way, busy), rate in link.bytes_per_s.items()
    )
    held, verdict = found.held_out, "reached" if found.is_accepted else "MISSED"
    return "\n".join(
        [
            f"iteration, ms by tokens: {knots}",
            f"a_p {fit.a_p:.3g}  a_g {fit.a_g:.3g}  a_d {fit.a_d:.3g}  a_s {fit.a_s:.3g}  (s)",
            f"link: latency {1e6 * link.latency_s:.3g} µs, {rates}",
            f"fitted iterations:   {_errors_text(found.fitted)}",
            f"held-out iterations: {_errors_text(held)}  (bars: MAPE 5 %, p95 10 %: {verdict})",
            f"copies:              {_errors_text(found.copies)}",
        ]
    )


def _errors_text(errors: Errors) -> str:
    return f"MAPE {errors.mape:.1%}, p95 {errors.p95:.1%}, bias {errors.bias:+.1%} over {errors.number}"


def _calibration_dict(found: Calibration) -> dict[str, Any]:
    rates = {f"{way}{'_contended' if busy else ''}": r for (way, busy), r in found.link.bytes_per_s.items()}
    return {
        "iterations": asdict(found.iterations),
        "link": {"latency_s": found.link.latency_s, "bytes_per_s": rates},
        "fitted": asdict(found.fitted),
        "held_out": asdict(found.held_out),
        "copies": asdict(found.copies),
        "held_out_s": [{"predicted": one, "measured": other} for one, other in found.held_out_s],
        "is_accepted": found.is_accepted,
    }
