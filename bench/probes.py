"""What a context vector tells by itself: a linear classifier and nearest neighbours, for comparison only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pbkv.predict.accuracy import Accuracy, accuracies
from pbkv.predict.context import num_dims_of
from pbkv.predict.examples import Examples, agents_of, examples_of
from pbkv.predict.split import Split

_ROWS_AT_ONCE = 256

torch.set_num_threads(1)


def on_x(split: Split, num_steps: int) -> dict[str, Sequence[Accuracy]]:
    """Both, of what x alone tells, without agent and path."""
    agents, num_dims = agents_of(split.training), num_dims_of("column", split.training)
    training, test = (
        examples_of(part, agents, num_steps, "column", num_dims) for part in (split.training, split.test)
    )
    return {
        "linear probe on x": linear_probe(training, test),
        "kNN, k = 5, on x": nearest_neighbours(training, test),
    }


def linear_probe(training: Examples, test: Examples) -> Sequence[Accuracy]:
    """Multinomial logistic regression on the standardised x, one a step, to the optimum."""
    inputs, shown = _standard(training, training), _standard(training, test)
    steps = []
    for step in range(training.targets.outcomes.shape[1]):
        alive = training.targets.is_alive[:, step]
        steps.append(
            _logistic(inputs[alive], training.targets.outcomes[alive, step], shown, _width(training))
        )
    return accuracies(np.stack(steps, axis=1), test.targets)


def nearest_neighbours(training: Examples, test: Examples, k: int = 5) -> Sequence[Accuracy]:
    """Shares of outcomes among the k nearest training calls that were alive before the step."""
    inputs, shown = _standard(training, training), _standard(training, test)
    width = _width(training)
    steps = []
    for step in range(training.targets.outcomes.shape[1]):
        alive = training.targets.is_alive[:, step]
        known, outcomes = inputs[alive], training.targets.outcomes[alive, step]
        found = np.concatenate(
            [_nearest(known, shown[at : at + _ROWS_AT_ONCE], k) for at in range(0, len(shown), _ROWS_AT_ONCE)]
        )
        steps.append(np.eye(width)[outcomes[found]].mean(axis=1))
    return accuracies(np.stack(steps, axis=1), test.targets)


def _logistic(inputs: np.ndarray, outcomes: np.ndarray, shown: np.ndarray, width: int) -> np.ndarray:
    weights = torch.zeros(inputs.shape[1] + 1, width, requires_grad=True)
    x, y = _with_one(inputs), torch.from_numpy(outcomes)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(x @ weights, y) + 1e-5 * (weights**2).sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]  # torch's own
    with torch.no_grad():
        return torch.softmax(_with_one(shown) @ weights, dim=1).double().numpy()


def _nearest(known: np.ndarray, asked: np.ndarray, k: int) -> np.ndarray:
    distances = (known**2).sum(axis=1) - 2 * asked @ known.T  # but for a constant a row
    return np.argpartition(distances, k, axis=1)[:, :k]


def _standard(training: Examples, examples: Examples) -> np.ndarray:
    standard: np.ndarray = (examples.contexts - training.contexts.mean(axis=0)) / training.contexts.std(
        axis=0
    )
    return standard


def _with_one(inputs: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([inputs, np.ones((len(inputs), 1), inputs.dtype)], axis=1))


def _width(examples: Examples) -> int:
    return int(examples.history.shape[1])  # agents and one more: END here
