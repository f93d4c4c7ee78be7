"""Why rows of Table 3 lie elsewhere than the paper's: what the networks gain by each part of their inputs.

    python bench/predictors_causes.py     # → docs/results/predict/causes.md; about ten minutes on one core

HoVer-like as in predictors.py, first seed. Each arm is trained anew.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import process_time

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(
    0, str(ROOT)
)  # so that this file runs by its path, as well as by `-m bench.predictors_causes`

from bench.probes import on_x  # noqa: E402 - needs the line above
from bench.rivals import TRUNKS, ByStep, perceptron, sequence  # noqa: E402
from pbkv.analysis.table import markdown  # noqa: E402
from pbkv.predict.accuracy import accuracies, measured  # noqa: E402
from pbkv.predict.context import num_dims_of  # noqa: E402
from pbkv.predict.examples import (  # noqa: E402
    agents_of,
    columns_of,
    examples_of,
    path_of,
    relations_of,
)
from pbkv.predict.fitting import TrainingOptions  # noqa: E402
from pbkv.predict.graph_train import train_network  # noqa: E402
from pbkv.predict.network import Floats, Ints  # noqa: E402
from pbkv.predict.split import Split  # noqa: E402
from pbkv.predict.trials import Recipe  # noqa: E402
from pbkv.traces.generate import generate_workflow  # noqa: E402
from pbkv.traces.knobs import load_workload  # noqa: E402

STEPS = 3
DIMS = (16, 64, 256, 1024)

Rows = list[tuple[str, ByStep]]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "predict")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sizes", type=int, nargs=3, default=[1000, 100, 500])
    parser.add_argument("--dims", type=int, nargs="+", default=list(DIMS))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    training = TrainingOptions(seed=options.seed)
    split = hover(options.sizes, options.seed, None)
    parts = Told(split, training).arms()
    wide = {dims: by_dims(hover(options.sizes, options.seed, dims), training) for dims in options.dims}
    (options.out / "causes.md").write_text(_report(options.seed, parts, wide))


def hover(sizes: Sequence[int], seed: int, num_dims: int | None) -> Split:
    """HoVer-like workflows; ``num_dims``: another length of x, the noise of each dimension kept."""
    workload = load_workload("hover")
    if num_dims is not None:
        workload = replace(workload, context=replace(workload.context, num_dims=num_dims))
    workflows = [generate_workflow(workload, index, seed) for index in range(sum(sizes))]
    end = sizes[0] + sizes[1]
    return Split(workflows[: sizes[0]], workflows[sizes[0] : end], workflows[end:])


class Told:
    """The paper's network with a part of its inputs taken away, or other relations put in."""

    def __init__(self, split: Split, options: TrainingOptions) -> None:
        self._split, self._options = split, options
        self._agents = agents_of(split.training)
        columns = columns_of(self._agents)
        self._paths = [path_of(workflow, columns) for workflow in split.training]

    def arms(self) -> Rows:
        num_agents = len(self._agents)
        graph, rgcn = (relations_of(kind, self._paths, num_agents) for kind in ("graph", "rgcn"))
        several = np.concatenate([rgcn, *(self._later(hops)[None] for hops in (2, 3))])
        arms: dict[str, Callable[[], ByStep]] = {
            "graph": lambda: self._network(graph),
            "graph, its layers without neighbours": lambda: self._network(np.zeros_like(graph)),
            "graph without history": lambda: self._network(graph, history=False),
            "graph without x": lambda: self._network(graph, contexts=False),
            "rgcn: who follows, who went before": lambda: self._network(rgcn),
            "rgcn, neighbours alike": lambda: self._network(_alike(rgcn)),
            "rgcn and who comes two and three calls later": lambda: self._network(several),
            "MLP, small": lambda: perceptron(self._split, STEPS, "column", self._options),
            "MLP, small, without x": lambda: perceptron(self._split, STEPS, "none", self._options),
        }
        for name in TRUNKS:
            arms[name] = lambda name=name: self._sequence(name)
            arms[f"{name}, of earlier calls no x"] = lambda name=name: self._sequence(name, past=False)
            arms[f"{name}, no x at all"] = lambda name=name: self._sequence(name, kind="none")
        return [_timed(name, arm) for name, arm in arms.items()]

    def _later(self, hops: int) -> Floats:
        """Who comes so many calls later."""
        pairs: list[Ints] = [path[at::hops] for path in self._paths for at in range(hops)]
        return relations_of("graph", pairs, len(self._agents))

    def _network(self, relations: Floats, *, history: bool = True, contexts: bool = True) -> ByStep:
        kind = "column" if contexts else "none"
        num_dims = num_dims_of(kind, self._split.training)
        parts = [
            examples_of(part, self._agents, STEPS, kind, num_dims)
            for part in (self._split.training, self._split.stopping, self._split.test)
        ]
        if not history:
            parts = [replace(part, history=np.zeros_like(part.history)) for part in parts]
        training, stopping, test = parts
        network, _ = train_network(training, stopping, relations, self._options)
        rows = network.forecasts(test.current, test.history, test.contexts)
        return accuracies(rows, test.targets)

    def _sequence(self, name: str, *, past: bool = True, kind: str = "column") -> ByStep:
        return sequence(name, self._split, STEPS, kind, self._options, sees_past_x=past)


def by_dims(split: Split, options: TrainingOptions) -> Rows:
    """All rows of Table 3 that read x."""

    def network(kind: str) -> ByStep:
        trained = Recipe(kind, STEPS, "column", options).train(split)
        return measured(trained.predictor, split.test, STEPS)

    arms: dict[str, Callable[[], ByStep]] = {
        "graph": lambda: network("graph"),
        "rgcn": lambda: network("rgcn"),
        "MLP, small": lambda: perceptron(split, STEPS, "column", options),
    }
    for name in TRUNKS:
        arms[name] = lambda name=name: sequence(name, split, STEPS, "column", options)
    return [*(_timed(name, arm) for name, arm in arms.items()), *on_x(split, STEPS).items()]


def _alike(relations: Floats) -> Floats:
    """Each neighbour with the same weight, as the first relational networks have it."""
    edges = (relations > 0).astype(np.float32)
    totals = edges.sum(axis=2, keepdims=True)
    alike: Floats = edges / np.where(totals > 0, totals, np.float32(1))
    return alike


def _timed(name: str, arm: Callable[[], ByStep]) -> tuple[str, ByStep]:
    started_s = process_time()
    found = arm()
    tops = " ".join(f"{step.top1:.3f}" for step in found)
    print(f"{name}: {tops}, {process_time() - started_s:.0f} s", file=sys.stderr, flush=True)
    return name, found


def _report(seed: int, parts: Rows, wide: dict[int, Rows]) -> str:
    header = ["", *(f"step {step + 1}" for step in range(STEPS))]
    told = [[name, *(f"{step.top1:.3f}" for step in found)] for name, found in parts]
    names = [name for name, _ in next(iter(wide.values()))]
    cells = {dims: dict(rows) for dims, rows in wide.items()}
    by_width = [
        [name, *(f"{cells[dims][name][0].top1:.3f} / {cells[dims][name][-1].top1:.3f}" for dims in cells)]
        for name in names
    ]
    return f"""# Why rows of Table 3 lie where they lie

Made by `python bench/predictors_causes.py`: HoVer-like, 1,000 training workflows, seed {seed}, one training
an arm. Top-1 accuracy. What it says stands in [predictors.md](../../predictors.md).

## What each part of the inputs tells

{markdown(header, told)}

## Dimensions of x (top-1 one and three steps ahead)

The noise of each dimension as it is in the workload (0.18), the directions of what it shows of unit length.

{markdown(["", *map(str, cells)], by_width)}
"""


if __name__ == "__main__":
    main()
