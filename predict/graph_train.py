"""Trains networks with torch. Imported by training only: nothing that serves needs torch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from pbkv.predict.examples import Examples
from pbkv.predict.fitting import (
    IGNORED,
    LEAST_BATCHES,
    Report,
    TrainingOptions,
    fit,
    loss_by_step,
    seeded,
)
from pbkv.predict.network import WEIGHTS, Floats, Network, standardised

_LEAST_BATCH_SIZE = 16


class GraphNetwork(nn.Module):
    """The network of `pbkv.predict.network`, its arrays by the same names."""

    def __init__(self, relations: Tensor, num_dims: int, num_steps: int, options: TrainingOptions) -> None:
        """``relations``: [V, V], or [R, V, V]."""
        super().__init__()
        num_agents, size = relations.shape[-1], options.size
        self.num_steps, self.size = num_steps, size
        self.embedding = nn.Parameter(torch.randn(num_agents, size))
        relations = relations.reshape(-1, num_agents, num_agents)
        width = (1 + len(relations)) * size
        self.layer_1, self.layer_2 = _matrix(size, width), _matrix(size, width)
        self.query, self.text = _matrix(size, size), _matrix(size, num_dims)
        self.hidden_weight, self.hidden_bias = _matrix(size, 3 * size), nn.Parameter(torch.zeros(size))
        num_outputs = num_steps * (num_agents + 1)
        self.output_weight, self.output_bias = (
            _matrix(num_outputs, size),
            nn.Parameter(torch.zeros(num_outputs)),
        )
        self.dropout = nn.Dropout(options.dropout)
        self.register_buffer("relations", relations, persistent=False)

    def forward(self, current: Tensor, history: Tensor, contexts: Tensor) -> Tensor:
        """Logits [n, K, V + 1] of rows [n], counts of earlier agents [n, V] and standardised vectors."""
        agents: Tensor = self.embedding
        for layer in (self.layer_1, self.layer_2):
            around = [relation @ agents for relation in self.get_buffer("relations")]
            agents = torch.relu(torch.cat([agents, *around], dim=1) @ layer.T)
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
    relations: Floats,
    options: TrainingOptions,
    report: Report = lambda epoch, loss: None,
) -> tuple[Network, int]:
    """The network with the least loss on ``stopping``, and the epoch that it comes from.

    ``relations``: what `relations_of` gives. Equal arguments give equal networks.
    """
    num_steps, num_agents = training.targets.outcomes.shape[1], relations.shape[-1]
    mean, scale = standards_of(training.contexts)
    with seeded(options.seed):
        model = GraphNetwork(torch.from_numpy(relations), len(mean), num_steps, options)
        shown, checks = (Calls(part, mean, scale, options) for part in (training, stopping))
        epoch = fit(model, shown, checks, batch_size_of(len(shown), options), options, report)
    known = training.current[training.current < num_agents]
    frequencies = np.bincount(known, minlength=num_agents) / max(len(known), 1)
    facts = {"transitions": relations, "context_mean": mean, "context_scale": scale}
    weights = {name: getattr(model, name).detach().numpy().copy() for name in WEIGHTS}
    return Network({**weights, **facts, "frequencies": frequencies.astype(np.float32)}, num_steps), epoch


def batch_size_of(num_calls: int, options: TrainingOptions) -> int:
    return max(min(options.batch_size, num_calls // LEAST_BATCHES), _LEAST_BATCH_SIZE)


class Calls:
    """Examples as tensors, a row a call; contexts standardised, with 0 where there is none.

    For models of (agents' columns [n], counts of earlier agents [n, V], vectors [n, |x|]).
    """

    def __init__(self, examples: Examples, mean: Floats, scale: Floats, options: TrainingOptions) -> None:
        num_agents = examples.history.shape[1] - 1
        self._hidden_ratio = options.context_dropout
        self.current = torch.from_numpy(np.minimum(examples.current, num_agents - 1))
        self.history = torch.from_numpy(examples.history[:, :num_agents].astype(np.float32))
        self.contexts = torch.from_numpy(standardised(examples.contexts, mean, scale))
        targets = examples.targets
        counted = targets.is_alive & (targets.outcomes <= num_agents)  # no loss for agents without a column
        counted &= (examples.current < num_agents)[:, None]
        self.targets = torch.from_numpy(np.where(counted, targets.outcomes, IGNORED))

    def __len__(self) -> int:
        return len(self.current)

    def loss(self, model: nn.Module, rows: Tensor) -> Tensor:
        contexts = self.contexts[rows]
        if model.training:
            contexts = contexts * (torch.rand(len(rows), 1) >= self._hidden_ratio)
        return loss_by_step(model(self.current[rows], self.history[rows], contexts), self.targets[rows])


def standards_of(contexts: Floats) -> tuple[Floats, Floats]:
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
