"""Trials: a predictor that has learnt from one part of the workflows, measured on another, with rivals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pbkv.predict.accuracy import Accuracy, measured
from pbkv.predict.split import Split
from pbkv.predict.training import Trained, train_graph, train_markov
from pbkv.traces.errors import TraceError

if TYPE_CHECKING:
    from pbkv.predict.fitting import TrainingOptions
    from pbkv.traces.reader import Trace
    from pbkv.traces.schema import Workflow

RIVALS = ("markov:1", "markov:2", "markov:3")
CURVE_SIZES = (100, 200, 400, 600, 800, 1000)  # training workflows, as in the paper's figure

ByStep = Sequence[Accuracy]
Report = Callable[[int, float], None]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make a predictor. ``options`` is None for Markov, which has none."""

    kind: str
    num_steps: int
    context_kind: str = "none"
    options: TrainingOptions | None = None

    def train(self, split: Split, report: Report = lambda epoch, loss: None) -> Trained:
        if self.kind.startswith("markov:"):
            return train_markov(int(self.kind.removeprefix("markov:")), self.num_steps, split)
        if self.options is None:
            raise ValueError("a network needs options")
        return train_graph(split, self.num_steps, self.context_kind, self.options, report, self.kind)

    def with_seed(self, seed: int) -> Recipe:
        return replace(self, options=self.options and replace(self.options, seed=seed))


def read_workflows(traces: Iterable[Trace]) -> list[Workflow]:
    """All workflows with kinds and context vectors. Raises TraceError where vectors differ in length."""
    found: list[Workflow] = []
    num_dims: int | None = None
    for trace in traces:
        for workflow in trace.workflows(with_context=True):
            for call in workflow.calls:
                if call.context is not None:
                    num_dims = len(call.context) if num_dims is None else num_dims
                    if len(call.context) != num_dims:
                        field = f"context of workflow {workflow.workflow_id!r}, call {call.call_index}"
                        value = f"{len(call.context)} values"
                        raise TraceError(trace.path, field, value, f"{num_dims}, as before it")
            found.append(workflow)
    return found


def compared(
    recipe: Recipe, split: Split, report: Report = lambda epoch, loss: None
) -> tuple[Trained, dict[str, ByStep]]:
    """What ``recipe`` makes of ``split``, and accuracies on the test part: its own, then the rivals'."""
    trained = recipe.train(split, report)
    if not split.test:
        return trained, {}
    found: dict[str, ByStep] = {recipe.kind: measured(trained.predictor, split.test, recipe.num_steps)}
    for kind in RIVALS:
        if kind not in found:
            rival = Recipe(kind, recipe.num_steps).train(split)
            found[kind] = measured(rival.predictor, split.test, recipe.num_steps)
    facts = replace(trained.facts, accuracy=[step.to_dict() for step in found[recipe.kind]])
    return replace(trained, facts=facts), found


def curve_sizes(num_training: int) -> list[int]:
    """The paper's numbers of workflows below ``num_training``; of few, a quarter and a half."""
    sizes = [size for size in CURVE_SIZES if size < num_training]
    return sizes or [size for size in (num_training // 4, num_training // 2) if size]


def learning_curve(
    recipe: Recipe, split: Split, report: Report = lambda epoch, loss: None
) -> Iterator[tuple[int, Mapping[str, ByStep]]]:
    """(training workflows, accuracies on the test part) for growing heads of the training part, not all.

    Of the stopping part as large a share is used.
    """
    num_training, num_stopping = len(split.training), len(split.stopping)
    for size in curve_sizes(num_training):
        num_kept = max(1, round(num_stopping * size / num_training))
        part = replace(split, training=split.training[:size], stopping=split.stopping[:num_kept])
        yield size, compared(recipe, part, report)[1]
