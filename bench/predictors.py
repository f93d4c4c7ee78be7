"""Accuracy of the predictors, beside the PBKV paper's and on real traces.

    python bench/predictors.py         # → docs/results/predict/; about fifteen minutes of one core

HoVer-like: 1,000 workflows to train on, 100 that stop the training, 500 to test, three traces of other
seeds. The real sets lie beside the checkout (../shared/data) and are left out where they do not.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file runs by its path, as well as by `-m bench.predictors`

from bench.predictors_report import (  # noqa: E402 - needs the line above
    draw_curve,
    hover_table,
    order_of_rows,
    real_table,
    write_report,
)
from bench.probes import on_x  # noqa: E402
from bench.rivals import TRUNKS, perceptron, sequence  # noqa: E402
from pbkv.predict.accuracy import Accuracy, measured  # noqa: E402
from pbkv.predict.fitting import TrainingOptions  # noqa: E402
from pbkv.predict.markov import Markov  # noqa: E402
from pbkv.predict.oracle import Oracle  # noqa: E402
from pbkv.predict.split import Split, folds  # noqa: E402
from pbkv.predict.training import Trained  # noqa: E402
from pbkv.predict.trials import Recipe, compared, learning_curve, read_workflows  # noqa: E402
from pbkv.traces.generate import generate_workload, workload_metadata  # noqa: E402
from pbkv.traces.schema import Workflow  # noqa: E402
from pbkv.traces.sources import open_trace  # noqa: E402
from pbkv.traces.writer import write_trace  # noqa: E402

STEPS = 3
NUM_TRAINING, NUM_STOPPING, NUM_TEST = 1000, 100, 500
SEEDS = (1, 2, 3)
NUM_FOLDS = 5
SHORT_ONLY = ("claude_code_weka",)  # up to 561 calls a workflow: sequences would take longer than all else
REAL_SETS = ("tau2_bench", "marble_db_star", "magentic_one_gaia", "tapeagents_gaia", "claude_code_weka")

ByStep = Sequence[Accuracy]
Runs = list[Mapping[str, ByStep]]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "predict")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--sizes", type=int, nargs=3, default=[NUM_TRAINING, NUM_STOPPING, NUM_TEST])
    parser.add_argument("--sets", nargs="*", default=list(REAL_SETS))
    parser.add_argument("--work", type=Path, help="keeps here what is done; a second call goes on from it")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    sizes, data = options.sizes, options.data
    parts = [kept(options.work, f"hover-{seed}", partial(hover, seed, sizes)) for seed in options.seeds]
    sets = {
        name: kept(options.work, name, partial(real_set, data / f"{name}.jsonl.gz"))
        for name in options.sets
        if _is_there(data, name)
    }
    report(options, parts, sets)


def report(
    options: argparse.Namespace, parts: Sequence[dict[str, Any]], sets: Mapping[str, dict[str, Any]]
) -> None:
    """Tables, figure and numbers of what `hover` gave a seed and `real_set` a set."""
    runs = [measures(part["run"]) for part in parts]
    curves = {
        int(size): [measures(part["learning_curve"][size]) for part in parts]
        for size in parts[0]["learning_curve"]
    }
    draw_curve(curves, options.out / "learning_curve.png")
    found = {
        "hover": [part["run"] for part in parts],
        "learning_curve": {size: [plain(at) for at in found] for size, found in curves.items()},
        "cost_us_a_call": parts[0]["cost_us_a_call"],
        "real": {name: found["folds"] for name, found in sets.items()},
    }
    (options.out / "predictors.json").write_text(json.dumps(found, indent=1) + "\n")
    real = {name: [measures(fold) for fold in found["folds"]] for name, found in sets.items()}
    write_report(
        options.out / "predictors.md",
        sizes=options.sizes,
        seeds=options.seeds,
        hover=hover_table(runs, STEPS),
        order=order_of_rows(runs, 0),
        real=real_table(real, STEPS),
        costs=parts[0]["cost_us_a_call"],
        cpu_s=sum(part["cpu_s"] for part in [*parts, *sets.values()]),
    )


def kept(work: Path | None, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``make`` gives and the processor time it took; from ``work``, where it was made before."""
    path = None if work is None else work / f"{name}.json"
    if path is not None and path.exists():
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    started_s = process_time()
    made = make()
    made["cpu_s"] = process_time() - started_s
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(made))
    return made


def hover(seed: int, sizes: Sequence[int]) -> dict[str, Any]:
    """Accuracies, those by training workflows, and what a forecast costs."""
    split = generated("hover", sizes, seed)
    options = TrainingOptions(seed=seed)
    recipe = Recipe("graph", STEPS, "column", options)
    trained, found = timed(f"hover, seed {seed}", lambda: compared(recipe, split))
    found |= rivals(split, "column", options)
    found |= timed("probes on x", lambda: on_x(split, STEPS))
    curve = {}
    for size, at_size in learning_curve(recipe, split):
        say(f"  {size} workflows: {at_size['graph'][0].top1:.3f}")
        curve[str(size)] = plain(at_size)
    curve[str(len(split.training))] = plain(found)
    costs = cost_of(trained, split.test)
    return {"run": plain(found), "learning_curve": curve, "cost_us_a_call": costs}


def rivals(
    split: Split, context_kind: str, options: TrainingOptions, *, sequences: bool = True
) -> dict[str, ByStep]:
    """The other networks of the paper's table, and a recurrent one; without ``sequences`` the quick ones."""
    rgcn = Recipe("rgcn", STEPS, context_kind, options)
    arms: dict[str, Callable[[], ByStep]] = {
        "rgcn": lambda: measured(rgcn.train(split).predictor, split.test, STEPS),
        "MLP, small": lambda: perceptron(split, STEPS, context_kind, options),
    }
    for name in TRUNKS if sequences else ():
        arms[name] = partial(sequence, name, split, STEPS, context_kind, options)
    return {name: timed(name, arm) for name, arm in arms.items()}


def generated(workload: str, sizes: Sequence[int], seed: int) -> Split:
    """A trace of the workload, written and read again as a user's would be, cut in file order."""
    total, (num_training, num_stopping, _) = sum(sizes), sizes
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.parquet"
        write_trace(path, generate_workload(workload, total, seed), workload_metadata(workload, total, seed))
        with open_trace(path) as trace:
            workflows = read_workflows([trace])
    end = num_training + num_stopping
    return Split(workflows[:num_training], workflows[num_training:end], workflows[end:])


def cost_of(trained: Trained, workflows: Sequence[Workflow]) -> dict[str, float]:
    """Microseconds of processor time a forecast, ends of workflows included; the best of five rounds."""
    offline = Markov(3, STEPS, learns_online=False)
    offline.learn(workflows)
    predictors: dict[str, Any] = {
        "graph": trained.predictor,
        "markov:3, learning": Markov(3, STEPS),
        "markov:3, from a file": offline,
        "oracle": Oracle(STEPS),
    }
    num_calls = sum(len(workflow.calls) for workflow in workflows)
    costs = {}
    for name, predictor in predictors.items():
        costs[name] = min(_round_s(predictor, workflows) for _ in range(5)) / num_calls * 1e6
    return costs


def _round_s(predictor: Any, workflows: Sequence[Workflow]) -> float:
    started_s = process_time()
    for workflow in workflows:
        for position in range(len(workflow.calls)):
            predictor.forecast(workflow, position)
        predictor.end(workflow)
    return process_time() - started_s


def real_set(path: Path) -> dict[str, Any]:
    """Each fold's accuracies; Markov also has the workflows that stop the network's training."""
    with open_trace(path) as trace:
        workflows = read_workflows([trace])
    found: Runs = []
    for number, part in enumerate(folds(workflows, NUM_FOLDS, seed=0)):
        options = TrainingOptions(seed=number)
        whole = replace(part, training=[*part.training, *part.stopping])
        fold: dict[str, ByStep] = {}
        for kind in ("hash", "none"):
            trained = timed(
                f"{path.name}, fold {number + 1}, context {kind}",
                lambda kind=kind, part=part, options=options: Recipe("graph", STEPS, kind, options).train(
                    part
                ),
            )
            fold[f"graph, {kind}"] = measured(trained.predictor, part.test, STEPS)
        is_short = path.name.removesuffix(".jsonl.gz") not in SHORT_ONLY
        others = rivals(part, "hash", options, sequences=is_short)
        fold |= {f"{name}, hash": accuracy for name, accuracy in others.items()}
        for order in (1, 3):
            markov = Recipe(f"markov:{order}", STEPS).train(whole)
            fold[f"markov:{order}"] = measured(markov.predictor, part.test, STEPS)
        found.append(fold)
    return {"folds": [plain(fold) for fold in found]}


def measures(run: Mapping[str, list[dict[str, Any]]]) -> dict[str, ByStep]:
    return {name: [Accuracy(**step) for step in steps] for name, steps in run.items()}


def plain(run: Mapping[str, ByStep]) -> dict[str, list[dict[str, float]]]:
    return {name: [step.to_dict() for step in steps] for name, steps in run.items()}


def timed(title: str, work: Any) -> Any:
    started_s = perf_counter()
    found = work()
    say(f"{title}: {perf_counter() - started_s:.1f} s")
    return found


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _is_there(folder: Path, name: str) -> bool:
    is_there = (folder / f"{name}.jsonl.gz").is_file()
    if not is_there:
        say(f"left out: {name} is not in {folder}")
    return is_there


if __name__ == "__main__":
    main()
