"""The training loop, for any network in torch: Adam, and the weights at which a held-out loss was least."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

Report = Callable[[int, float], None]  # epochs done, and the stopping part's loss

IGNORED = -100  # what torch's cross-entropy leaves out
LEAST_BATCHES = 32  # an epoch, where batches do not become too small by it


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How to train. Sizes d = d_txt = hidden; ``patience``: epochs without a better loss before it stops.

    ``context_dropout``: share of training calls whose context vector is hidden, so that one that is
    missing while serving has been met before.
    """

    size: int = 64
    dropout: float = 0.1
    learning_rate: float = 1e-3
    batch_size: int = 128  # at most; smaller where an epoch would have less than 32 of them, down to 16
    num_epochs: int = 200
    patience: int = 10
    context_dropout: float = 0.05
    seed: int = 0


class Part(Protocol):
    """Rows to learn from, or to be measured on: calls, or whole workflows."""

    def __len__(self) -> int: ...

    def loss(self, model: nn.Module, rows: Tensor) -> Tensor:
        """Of ``model`` on these rows (numbers below the length)."""
        ...


def fit(
    model: nn.Module,
    training: Part,
    stopping: Part,
    batch_size: int,
    options: TrainingOptions,
    report: Report = lambda epoch, loss: None,
) -> int:
    """Leaves in ``model`` the weights with the least loss on ``stopping``; returns the epoch they are of."""
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate)
    least, best, best_epoch = float("inf"), deepcopy(model.state_dict()), 0
    for epoch in range(1, options.num_epochs + 1):
        _epoch(model, training, batch_size, optimizer)
        loss = _loss_of(model, stopping)
        if loss < least:
            least, best, best_epoch = loss, deepcopy(model.state_dict()), epoch
        report(epoch, loss)
        if epoch - best_epoch >= options.patience:
            break
    model.load_state_dict(best)
    model.eval()
    return best_epoch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draws of torch that are equal for equal seeds, and touch no others.

    One thread: the networks are small, and other jobs want the rest.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def loss_by_step(logits: Tensor, targets: Tensor) -> Tensor:
    """The sum over steps of each step's mean cross-entropy; ``logits`` [n, K, V + 1], ``targets`` [n, K]."""
    losses = [
        functional.cross_entropy(logits[:, step], targets[:, step], reduction="sum")
        / (targets[:, step] != IGNORED).sum().clamp(min=1)
        for step in range(logits.shape[1])
    ]
    return torch.stack(losses).sum()


def _epoch(model: nn.Module, training: Part, batch_size: int, optimizer: torch.optim.Optimizer) -> None:
    model.train()
    for rows in torch.randperm(len(training)).split(batch_size):  # type: ignore[no-untyped-call]  # torch's own
        optimizer.zero_grad()
        training.loss(model, rows).backward()  # type: ignore[no-untyped-call]  # torch's own
        optimizer.step()


def _loss_of(model: nn.Module, stopping: Part) -> float:
    model.eval()
    with torch.no_grad():
        return float(stopping.loss(model, torch.arange(len(stopping))))
