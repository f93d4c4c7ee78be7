"""How right forecasts are, and how right they are about being right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from pbkv.predict.examples import targets_of
from pbkv.predict.network import Doubles, Ints

if TYPE_CHECKING:
    from pbkv.predict.examples import Targets
    from pbkv.predict.forecast import Predictor
    from pbkv.traces.schema import Workflow

NUM_BINS = 10


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Of the forecasts of one step, over calls whose workflow was alive before it.

    top1: share whose likeliest outcome came (END counts as an outcome). brier: mean squared distance from
    the outcome, Σ over columns of (p − y)², from 0 to 2. calibration_error: how far the chance given to
    the likeliest outcome is from how often it came, mean over ten equal bins of that chance, each weighted
    by its calls (Naeini et al. 2015). nll: mean −log of the chance given to what came, at most 13.8.
    """

    step: int
    num_calls: int
    top1: float
    brier: float
    calibration_error: float
    nll: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def measured(predictor: Predictor, workflows: Sequence[Workflow], num_steps: int) -> list[Accuracy]:
    """One `Accuracy` a step. ``predictor`` must give conditional rows and have learnt before."""
    rows = forecasts_of(predictor, workflows)
    return accuracies(rows, targets_of(workflows, list(predictor.agents), num_steps))


def forecasts_of(predictor: Predictor, workflows: Iterable[Workflow]) -> Doubles:
    """The forecasts of every call, shape [n, K, V + 1]."""
    found = []
    for workflow in workflows:
        found += [predictor.forecast(workflow, position) for position in range(len(workflow.calls))]
        predictor.end(workflow)
    return np.array(found)


def accuracies(rows: Doubles, targets: Targets) -> list[Accuracy]:
    """Of forecasts [n, K, V + 1] against what came, one a step; targets may have fewer steps."""
    found = []
    for step in range(targets.outcomes.shape[1]):
        alive = targets.is_alive[:, step]
        found.append(_accuracy(step + 1, rows[alive, step], targets.outcomes[alive, step]))
    return found


def _accuracy(step: int, rows: Doubles, outcomes: Ints) -> Accuracy:
    num_calls, width = rows.shape
    if not num_calls:
        return Accuracy(step, 0, float("nan"), float("nan"), float("nan"), float("nan"))
    chances = np.zeros(num_calls)  # given to what came: none to an agent without a column
    has_column = outcomes < width
    chances[has_column] = rows[has_column, outcomes[has_column]]
    is_right = rows.argmax(axis=1) == outcomes
    brier = (rows**2).sum(axis=1) - 2 * chances + 1
    error = calibration_error(rows.max(axis=1), is_right)
    nll = -np.log(np.maximum(chances, 1e-6))
    return Accuracy(step, num_calls, float(is_right.mean()), float(brier.mean()), error, float(nll.mean()))


def calibration_error(confidences: Doubles, is_right: np.ndarray) -> float:
    """Σ over bins of |mean confidence − share right| · calls in it / calls."""
    bins = np.minimum((confidences * NUM_BINS).astype(int), NUM_BINS - 1)
    gaps = np.bincount(bins, confidences, NUM_BINS) - np.bincount(bins, is_right, NUM_BINS)
    return float(np.abs(gaps).sum() / len(confidences))
