"""Trains the paper's network with torch. Imported by training only: nothing that serves needs torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pbkv.predict.examples import Examples
from pbkv.predict.network import WEIGHTS, Floats, Network, standardised

Report = Callable[[int, float], None]  # epochs done, and the stopping part's loss


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


class GraphNetwork(nn.Module):
    """The network of `pbkv.predict.network`, its arrays by the same names."""

    def __init__(self, transitions: Tensor, num_dims: int, num_steps: int, options: TrainingOptions) -> None:
        super().__init__()
        num_agents, size = len(transitions), options.size
        self.num_steps, self.size = num_steps, size
        self.embedding = nn.Parameter(torch.randn(num_agents, size))
        self.layer_1, self.layer_2 = _matrix(size, 2 * size), _matrix(size, 2 * size)
        self.query, self.text = _matrix(size, size), _matrix(size, num_dims)
        self.hidden_weight, self.hidden_bias = _matrix(size, 3 * size), nn.Parameter(torch.zeros(size))
        num_outputs = num_steps * (num_agents + 1)
        self.output_weight, self.output_bias = (
            _matrix(num_outputs, size),
            nn.Parameter(torch.zeros(num_outputs)),
        )
        self.dropout = nn.Dropout(options.dropout)
        self.register_buffer("transitions", transitions, persistent=False)

    def forward(self, current: Tensor, history: Tensor, contexts: Tensor) -> Tensor:
        """Logits [n, K, V + 1] of rows [n], counts of earlier agents [n, V] and standardised vectors."""
        agents: Tensor = self.embedding
        for layer in (self.layer_1, self.layer_2):
            around = self.get_buffer("transitions") @ agents
            agents = torch.relu(torch.cat([agents, around], dim=1) @ layer.T)
        here = agents[current]
        scores = here @ self.query.T @ agents.T / self.size**0.5 + torch.log(history)  # log 0: no weight
        is_first = history.sum(dim=1, keepdim=True) == 0
        weights = torch.softmax(scores.masked_fill(is_first, 0.0), dim=1).masked_fill(is_first, 0.0)
        text = torch.relu(contexts @ self.text.T)
        joined = torch.cat([here, weights @ agents, text], dim=1)
        hidden = self.dropout(torch.relu(joined @ self.hidden_weight.T + self.hidden_bias))
        logits: Tensor = hidden @ self.output_weight.T + self.output_bias
        return logits.reshape(len(current), self.num_steps, -1)


def train_network(
    training: Examples,
    stopping: Examples,
    transitions: Floats,
    options: TrainingOptions,
    report: Report = lambda epoch, loss: None,
) -> tuple[Network, int]:
    """The network with the least loss on ``stopping``, and the epoch that it comes from.

    Equal arguments give equal networks. One thread: the network is small, and other jobs want the rest.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            return _train(training, stopping, transitions, options, report)
    finally:
        torch.set_num_threads(threads)


def _train(
    training: Examples, stopping: Examples, transitions: Floats, options: TrainingOptions, report: Report
) -> tuple[Network, int]:
    mean, scale = _standards(training.contexts)
    inputs, checks = _Inputs(training, mean, scale), _Inputs(stopping, mean, scale)
    num_steps = training.targets.outcomes.shape[1]
    model = GraphNetwork(torch.from_numpy(transitions), len(mean), num_steps, options)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate)
    least, best, best_epoch = float("inf"), _arrays(model), 0
    for epoch in range(1, options.num_epochs + 1):
        _epoch(model, inputs, optimizer, options)
        loss = _loss_of(model, checks)
        if loss < least:
            least, best, best_epoch = loss, _arrays(model), epoch
        report(epoch, loss)
        if epoch - best_epoch >= options.patience:
            break
    known = training.current[training.current < len(transitions)]
    frequencies = np.bincount(known, minlength=len(transitions)) / max(len(known), 1)
    facts = {"transitions": transitions, "context_mean": mean, "context_scale": scale}
    return Network({**best, **facts, "frequencies": frequencies.astype(np.float32)}, num_steps), best_epoch


class _Inputs:
    """Examples as tensors; contexts standardised, with 0 where there is none."""

    def __init__(self, examples: Examples, mean: Floats, scale: Floats) -> None:
        num_agents = examples.history.shape[1] - 1
        self.current = torch.from_numpy(np.minimum(examples.current, num_agents - 1))
        self.history = torch.from_numpy(examples.history[:, :num_agents].astype(np.float32))
        self.contexts = torch.from_numpy(standardised(examples.contexts, mean, scale))
        targets = examples.targets
        counted = targets.is_alive & (targets.outcomes <= num_agents)  # no loss for agents without a column
        counted &= (examples.current < num_agents)[:, None]
        self.targets = torch.from_numpy(np.where(counted, targets.outcomes, _IGNORED))


_IGNORED = -100  # what torch's cross-entropy leaves out
_LEAST_BATCHES, _LEAST_BATCH_SIZE = 32, 16


def _epoch(
    model: GraphNetwork, inputs: _Inputs, optimizer: torch.optim.Optimizer, options: TrainingOptions
) -> None:
    model.train()
    num_calls = len(inputs.current)
    batch_size = max(min(options.batch_size, num_calls // _LEAST_BATCHES), _LEAST_BATCH_SIZE)
    for rows in torch.randperm(num_calls).split(batch_size):  # type: ignore[no-untyped-call]  # torch's own
        shown = torch.rand(len(rows), 1) >= options.context_dropout
        logits = model(inputs.current[rows], inputs.history[rows], inputs.contexts[rows] * shown)
        optimizer.zero_grad()
        _loss(logits, inputs.targets[rows]).backward()  # type: ignore[no-untyped-call]  # torch's own
        optimizer.step()


def _loss_of(model: GraphNetwork, inputs: _Inputs) -> float:
    model.eval()
    with torch.no_grad():
        return float(_loss(model(inputs.current, inputs.history, inputs.contexts), inputs.targets))


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The sum over steps of each step's mean cross-entropy."""
    losses = [
        functional.cross_entropy(logits[:, step], targets[:, step], reduction="sum")
        / (targets[:, step] != _IGNORED).sum().clamp(min=1)
        for step in range(logits.shape[1])
    ]
    return torch.stack(losses).sum()


def _standards(contexts: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each dimension, where there are vectors, else 0 and 1."""
    present = contexts[~np.isnan(contexts).any(axis=1)].astype(np.float64)
    if not len(present):
        return np.zeros(contexts.shape[1], np.float32), np.ones(contexts.shape[1], np.float32)
    scale = present.std(axis=0)
    return present.mean(axis=0).astype(np.float32), np.where(scale > 1e-6, scale, 1.0).astype(np.float32)


def _matrix(num_rows: int, num_columns: int) -> nn.Parameter:
    """Uniform, as torch's own linear layers start."""
    bound = max(num_columns, 1) ** -0.5
    return nn.Parameter(torch.empty(num_rows, num_columns).uniform_(-bound, bound))


def _arrays(model: GraphNetwork) -> dict[str, Floats]:
    return {name: getattr(model, name).detach().numpy().copy() for name in WEIGHTS}
