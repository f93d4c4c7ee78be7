"""`pbkv fidelity`: a simulation held against replays of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this module's commands to ``app``."""
    app.command()(fidelity)


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
