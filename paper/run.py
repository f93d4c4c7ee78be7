"""`pbkv reproduce`: every table and plot of the paper's evaluation, from generated workloads.

Traces and networks are made once into a work folder, cells run in several processes and are kept as they
end, and the results are written when all are there. A second call goes on where the first one stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pbkv.paper.cells import Job
from pbkv.paper.experiments import EXPERIMENTS, MOST_STEPS, NUM_WORKFLOWS, Arm, arm_of
from pbkv.paper.published import HOVER
from pbkv.predict.training import check_kind
from pbkv.study.cells import Kept, Row, clear_scratch, code_state, run_jobs
from pbkv.study.workers import Processes
from pbkv.traces.errors import ConfigError
from pbkv.traces.temporary import replacing

NUM_TRAINING, NUM_STOPPING, NUM_TEST = 1000, 100, 500
TRAINING_SEED = 1_000_000  # of the traces that networks learn from: no cell simulates them
_SHARES = (NUM_TRAINING, NUM_STOPPING, NUM_TEST)

Progress = Callable[[str, int, int], None]  # what, how many are done, of how many


@dataclass(frozen=True, slots=True)
class Results:
    """What was obtained: a row a cell, accuracies by seed of the training, overheads of one run."""

    seeds: Sequence[int]
    rows: Sequence[Row]
    accuracy: Sequence[dict[str, list[float]]]
    learning_curve: dict[int, list[list[float]]]
    overheads: dict[str, Any]
    course: Path

    def of(self, arm: Arm) -> list[Row]:
        """The rows of ``arm``, by seed."""
        wanted = {name: getattr(arm, name) for name in arm.__dataclass_fields__}
        return [row for row in self.rows if all(row[name] == value for name, value in wanted.items())]


def reproduce(
    work: Path, seeds: Sequence[int], experiments: Sequence[str], num_workers: int, progress: Progress
) -> Results:
    """Run what is missing. Raises ConfigError for an unknown experiment, TorchMissingError without torch."""
    for name in experiments:
        if name not in EXPERIMENTS:
            raise ConfigError("experiment", name, "one of " + ", ".join(EXPERIMENTS))
    check_kind("graph")
    work.mkdir(parents=True, exist_ok=True)
    state = code_state()
    arms = list(dict.fromkeys(arm for name in experiments for arm in EXPERIMENTS[name]()))
    workloads = list(dict.fromkeys(arm.workload for arm in arms))
    traces = _traces(work / state, workloads, seeds, progress)
    graphs, accuracy, curve = _networks(work / state, workloads, progress)
    jobs = [
        Job(arm, seed, traces[arm.workload, seed], graphs[arm.workload]) for seed in seeds for arm in arms
    ]
    kept = Kept(work / "cells.jsonl", state)
    for _ in run_jobs(jobs, kept, Processes(num_workers), lambda done: progress("cells", done, len(jobs))):
        pass
    course = _course(work / state, traces, graphs, seeds[0])
    overheads = _overheads(work / state, traces, graphs, seeds[0])
    return Results(seeds, kept.of(jobs), accuracy, curve, overheads, course)


def _traces(
    folder: Path, workloads: Sequence[str], seeds: Sequence[int], progress: Progress
) -> dict[tuple[str, int], Path]:
    from pbkv.traces.generate import generate_workload, workload_metadata
    from pbkv.traces.writer import write_trace

    folder.mkdir(parents=True, exist_ok=True)
    clear_scratch(folder)
    paths = {(name, seed): folder / f"{name}-{seed}.parquet" for name in workloads for seed in seeds}
    for number, ((name, seed), path) in enumerate(paths.items()):
        progress("traces", number, len(paths))
        if not path.exists():
            workflows = generate_workload(name, NUM_WORKFLOWS, seed)
            write_trace(path, workflows, workload_metadata(name, NUM_WORKFLOWS, seed))
    return paths


def _networks(
    folder: Path, workloads: Sequence[str], progress: Progress
) -> tuple[dict[str, Path], list[dict[str, list[float]]], dict[int, list[list[float]]]]:
    """A trained network a workload; of HoVer-like also accuracies beside Markov's, and a learning curve."""
    files = {name: folder / f"graph-{name}.safetensors" for name in workloads}
    measured = folder / "accuracy.json"
    for number, (name, path) in enumerate(files.items()):
        progress("networks", number, len(files))
        if not path.exists() or (name == HOVER.workload and not measured.exists()):
            found = _train(name, path, learning_curve=name == HOVER.workload)
            if name == HOVER.workload:
                with replacing(measured) as file:
                    file.write_text(json.dumps(found))
    accuracy: dict[str, Any] = json.loads(measured.read_text()) if measured.exists() else {}
    curve = {int(size): rows for size, rows in accuracy.get("curve", {}).items()}
    return files, accuracy.get("test", []), curve


def _train(workload: str, path: Path, *, learning_curve: bool) -> dict[str, Any]:
    from pbkv.predict.fitting import TrainingOptions
    from pbkv.predict.model_file import write_model
    from pbkv.predict.split import Split
    from pbkv.predict.trials import Recipe, compared
    from pbkv.predict.trials import learning_curve as curve_of
    from pbkv.traces.generate import generate_workload

    workflows = list(generate_workload(workload, sum(_SHARES), TRAINING_SEED))
    parts = Split(
        workflows[:NUM_TRAINING],
        workflows[NUM_TRAINING : NUM_TRAINING + NUM_STOPPING],
        workflows[NUM_TRAINING + NUM_STOPPING :],
    )
    recipe = Recipe("graph", MOST_STEPS, "column", TrainingOptions(seed=0))
    trained, accuracies = compared(recipe, parts)
    write_model(path, trained.arrays, trained.facts, force=True)
    test = {kind: [step.top1 for step in steps] for kind, steps in accuracies.items()}
    curve = {}
    if learning_curve:
        for size, at_size in curve_of(recipe, parts):
            curve[size] = [[step.top1 for step in at_size["graph"]]]
        curve[NUM_TRAINING] = [test["graph"]]
    return {"test": [test], "curve": curve}


def _course(folder: Path, traces: dict[tuple[str, int], Path], graphs: dict[str, Path], seed: int) -> Path:
    """One run with all its records, of the policies that the paper follows over time."""
    from pbkv.sim.run import simulate
    from pbkv.traces.reader import Trace

    out = folder / "course"
    if not (out / "run.json").exists():
        settings = arm_of(policy="pbkv").settings(seed, str(graphs[HOVER.workload]))
        settings = replace(settings, policies=("lru", "lae", "pbkv-he", "pbkv"))
        simulate([Trace(traces[HOVER.workload, seed])], settings, out, force=True)
    return out


def _overheads(
    folder: Path, traces: dict[tuple[str, int], Path], graphs: dict[str, Path], seed: int
) -> dict[str, Any]:
    """What PBKV's decisions cost on this machine, in one run on an otherwise idle process."""
    from pbkv.sim.run import simulate
    from pbkv.traces.reader import Trace

    settings = replace(arm_of(policy="pbkv").settings(seed, str(graphs[HOVER.workload])), overheads=True)
    result = simulate([Trace(traces[HOVER.workload, seed])], settings, folder / "overheads", force=True)[0]
    iteration = {"num": result.num_pure_decodes, "mean_s": result.decode_iteration_s}
    return {**result.overheads, "decode iteration": iteration}
