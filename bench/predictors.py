"""Accuracy of the predictors, beside the PBKV paper's and on real traces.

    python bench/predictors.py         # → docs/results/predict/; about twelve minutes on one core

HoVer-like: 1,000 workflows to train on, 100 that stop the training, 500 to test, three traces of other
seeds. The real sets lie beside the checkout (../shared/data) and are left out where they do not.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file runs by its path, as well as by `-m bench.predictors`

from bench.gru import gru  # noqa: E402 - needs the line above
from bench.predictors_report import (  # noqa: E402 - needs the line above
    draw_curve,
    hover_table,
    real_table,
    write_report,
)
from bench.probes import linear_probe, nearest_neighbours  # noqa: E402
from pbkv.predict.accuracy import Accuracy, measured  # noqa: E402
from pbkv.predict.examples import agents_of, examples_of  # noqa: E402
from pbkv.predict.graph_train import TrainingOptions  # noqa: E402
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
NO_GRU = ("claude_code_weka",)  # its workflows of up to 561 calls would take as long as all else together
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
    options = parser.parse_args(arguments)
    started_s, started_cpu_s = perf_counter(), process_time()
    options.out.mkdir(parents=True, exist_ok=True)
    runs, curves, costs = hover(options.seeds, options.sizes)
    draw_curve(curves, options.out / "learning_curve.png")
    real = {
        name: real_set(options.data / f"{name}.jsonl.gz")
        for name in options.sets
        if _is_there(options.data, name)
    }
    found = {
        "hover": [plain(run) for run in runs],
        "learning_curve": {size: [plain(at) for at in found] for size, found in curves.items()},
        "cost_us_a_call": costs,
        "real": {name: [plain(fold) for fold in found] for name, found in real.items()},
    }
    (options.out / "predictors.json").write_text(json.dumps(found, indent=1) + "\n")
    write_report(
        options.out / "predictors.md",
        sizes=options.sizes,
        seeds=options.seeds,
        hover=hover_table(runs, STEPS),
        real=real_table(real, STEPS),
        costs=costs,
        wall_s=perf_counter() - started_s,
        cpu_s=process_time() - started_cpu_s,
    )


def hover(seeds: Sequence[int], sizes: Sequence[int]) -> tuple[Runs, dict[int, Runs], dict[str, float]]:
    """Accuracies a seed, those by training workflows, and what a forecast costs (first seed)."""
    runs: Runs = []
    curves: dict[int, Runs] = {}
    costs: dict[str, float] = {}
    for seed in seeds:
        split = generated("hover", sizes, seed)
        recipe = Recipe("graph", STEPS, "column", TrainingOptions(seed=seed))
        trained, found = timed(
            f"hover, seed {seed}", lambda recipe=recipe, split=split: compared(recipe, split)
        )
        options = recipe.options
        found["gru"] = timed("gru", lambda split=split, options=options: gru(split, STEPS, "column", options))
        runs.append({**found, **timed("probes on x", lambda split=split: probes(split))})
        for size, at_size in learning_curve(recipe, split):
            say(f"  {size} workflows: {at_size['graph'][0].top1:.3f}")
            curves.setdefault(size, []).append(at_size)
        curves.setdefault(len(split.training), []).append(found)
        costs = costs or cost_of(trained, split.test)
    return runs, dict(sorted(curves.items())), costs


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


def probes(split: Split) -> dict[str, ByStep]:
    """What x alone tells, without agent and path."""
    agents = agents_of(split.training)
    num_dims = len(split.training[0].calls[0].context or ())
    training, test = (
        examples_of(part, agents, STEPS, "column", num_dims) for part in (split.training, split.test)
    )
    return {
        "linear probe on x": linear_probe(training, test),
        "kNN, k = 5, on x": nearest_neighbours(training, test),
    }


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


def real_set(path: Path) -> Runs:
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
        if path.name.removesuffix(".jsonl.gz") not in NO_GRU:
            fold["gru, hash"] = timed(
                "gru", lambda part=part, options=options: gru(part, STEPS, "hash", options)
            )
        for order in (1, 3):
            markov = Recipe(f"markov:{order}", STEPS).train(whole)
            fold[f"markov:{order}"] = measured(markov.predictor, part.test, STEPS)
        found.append(fold)
    return found


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
