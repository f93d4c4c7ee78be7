"""The result of a benchmark as JSON-able facts and as Markdown."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.gates import Judged
from bench.measure import Run

Facts = dict[str, Any]


def facts(run: Run) -> Facts:
    return {
        "command": shlex.join(run.command),
        "wall_s": round(run.wall_s, 4),
        "cpu_s": round(run.cpu_s, 4),
        "peak_bytes": run.peak_bytes,
    }


def gate_facts(judged: Iterable[Judged]) -> list[Facts]:
    return [
        {
            "gate": one.limit.gate,
            "what": one.limit.what,
            "unit": one.limit.unit,
            "value": one.value,
            "must": one.limit.must,
            "ahead": one.limit.ahead,
            "at_least": one.limit.at_least,
            "verdict": one.verdict,
        }
        for one in judged
    ]


def without_paths(result: Facts, names: Sequence[tuple[Path, str]]) -> Facts:
    """The same result with this machine's folders named by their role; the longest path goes first."""
    text = json.dumps(result)
    for path, name in sorted(names, key=lambda pair: -len(str(pair[0]))):
        text = text.replace(str(path), name)
    shortened: Facts = json.loads(text.replace(sys.executable, "python"))
    return shortened


def markdown(result: Facts) -> str:
    parts = [_head(result), _gates(result["gates"]), _short(result["short"])]
    if result["long"]:
        parts.append(_long(result["long"]))
    parts += [_where(result), _outcomes(result["outcomes"]), _commands(result)]
    if result["profile"]:
        parts.append(f"## Profile\n\n```\n{result['profile']}\n```")
    return "\n\n".join(parts) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table, its first column to the left and the rest to the right."""
    lines = [" | ".join(header), " | ".join(["---", *["---:"] * (len(header) - 1)])]
    lines += [" | ".join(map(str, row)) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def number(value: float | None) -> str:
    """Three significant digits or whole thousands; a dash for what was not measured."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _head(result: Facts) -> str:
    machine, versions = result["machine"], result["versions"]
    core = machine["pinned_to_core"]
    return (
        "# pbkv beside AISimulate\n\n"
        f"{result['date']}. {machine['cpu']}, {machine['num_cores']} cores, {machine['memory_gb']} GB, "
        f"{machine['system']}, Python {machine['python']}; "
        f"{'not pinned' if core is None else f'pinned to core {core}'}; load before "
        f"{machine['load_before'][0]}, after {machine['load_after'][0]}. "
        f"pbkv {versions['pbkv']}, AISimulate {versions['aisimulate'] or 'not given'}. "
        "Whole processes, in turns, one uncounted run of each first; memory is the largest resident set "
        "of a process. Made by `bench/peers.py`; all numbers are in the JSON file beside this one."
    )


def _gates(gates: list[Facts]) -> str:
    def limit(gate: Facts, name: str) -> str:
        sign = "≥" if gate["at_least"] else "≤"
        return "" if gate[name] is None else f"{sign} {number(gate[name])}"

    rows = [
        [
            f"{gate['gate']}. {gate['what']} ({gate['unit']})",
            number(gate["value"]),
            limit(gate, "must"),
            limit(gate, "ahead"),
            gate["verdict"],
        ]
        for gate in gates
    ]
    return "## Gates\n\n" + table(["gate", "measured", "must", "ahead", "verdict"], rows)


_RUN_HEADER = ["run", "wall s", "CPU s", "peak MB", "loop s", "loop calls/s"]


def _run_row(name: str, run: Facts) -> list[str]:
    loop_s = run.get("loop_s")
    per_s = run["num_calls"] / loop_s if loop_s and run["num_calls"] else None
    cells = [run["wall_s"], run["cpu_s"], run["peak_bytes"] / 1e6, loop_s, per_s]
    return [name, *map(number, cells)]


def _short(short: Facts) -> str:
    rows = []
    for turn, run in enumerate(short["pbkv"], 1):
        rows.append(_run_row(f"pbkv {turn}", run))
        if short["peer"]:
            rows.append(_run_row(f"AISimulate {turn}", short["peer"][turn - 1]))
    imported = short["import"]
    note = f"Importing the trace once (not counted): {number(imported['wall_s'])} s."
    return f"## Short trace\n\n{table(_RUN_HEADER, rows)}\n\n{note}"


def _long(long: Facts) -> str:
    trace = long["trace"]
    rows = [_run_row("pbkv", long["pbkv"])]
    if long["peer"]:
        rows.append(_run_row("AISimulate", long["peer"]))
    held = trace["result"]
    note = (
        f"{held['num_calls']:,} calls of {held['num_workflows']:,} workflows, "
        f"{held['num_block_references']:,} block references: {trace['copies']} copies of the short trace, "
        f"{number(trace['period_s'])} s apart (its makespan), by bench/scale.py. "
        f"Importing it (not counted): {number(long['import']['wall_s'])} s, "
        f"{number(long['import']['peak_bytes'] / 1e6)} MB."
    )
    return f"## Long trace\n\n{note}\n\n{table(_RUN_HEADER, rows)}"


def _where(result: Facts) -> str:
    """pbkv's whole time in parts: medians over the counted runs, by its own clock."""
    runs = result["short"]["pbkv"]
    whole_s = median(run["wall_s"] for run in runs)
    known: list[tuple[str, float]] = []
    for name, key in (("the loop", "loop_s"), ("writing the records", "records_s")):
        if all(run[key] is not None for run in runs):
            known.append((name, median(run[key] for run in runs)))
    rest = whole_s - sum(seconds for _, seconds in known)
    rows = [*known, ("the rest: start-up, reading the trace, the table", rest), ("whole", whole_s)]
    parts = table(
        ["part", "s", "share"], [[name, number(s), f"{100 * s / whole_s:.0f} %"] for name, s in rows]
    )
    sizes = ", ".join(f"{name} {number(size / 1e3)} kB" for name, size in runs[0]["record_bytes"].items())
    return f"## Where pbkv's time goes\n\n{parts}\n\nRecords: {sizes}."


def _outcomes(outcomes: Facts) -> str:
    """What the two simulated, side by side: their cost models differ, so the seconds need not agree."""
    ours, theirs = outcomes["pbkv"], outcomes.get("peer", {})
    rows = [[name, number(value), number(theirs.get(name))] for name, value in ours.items()]
    note = "Not a gate. The two have different cost models: an order of magnitude is what can be compared."
    return f"## What was simulated\n\n{note}\n\n{table(['', 'pbkv', 'AISimulate'], rows)}"


def _commands(result: Facts) -> str:
    short, long = result["short"], result["long"]
    runs = [short["import"], short["pbkv"][0], *short["peer"][:1]]
    if long:
        runs += [long["import"], long["pbkv"], *([long["peer"]] if long["peer"] else [])]
    return "## Commands\n\n```\n" + "\n".join(run["command"] for run in runs) + "\n```"
