"""The other networks of the paper's Table 3, and a recurrent one: for comparison only.

All learn in the loop of `pbkv.predict.fitting`, with its optimiser, dropout and early stopping. The paper
gives their names; what they are made of is our choice. The two whose names tell a size have it.

MLP, small             agent and x of the call, one hidden layer of 64: no history
GRU                    a GRU of 64 over agents and contexts of all calls so far
Transformer, 1 layer   one causal layer of 64, four heads, over the same
TCN, large             four causal residual blocks of 128 channels, dilated by 1, 2, 4, 8: 61 calls back
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from pbkv.predict.accuracy import Accuracy, accuracies
from pbkv.predict.context import num_dims_of
from pbkv.predict.examples import Examples, agents_of, examples_of
from pbkv.predict.fitting import IGNORED, LEAST_BATCHES, TrainingOptions, fit, loss_by_step, seeded
from pbkv.predict.graph_train import Calls, batch_size_of, standards_of
from pbkv.predict.network import Floats, standardised

if TYPE_CHECKING:
    from pbkv.predict.split import Split
    from pbkv.traces.schema import Workflow

ByStep = Sequence[Accuracy]
Trunk = Callable[[int, int], tuple[nn.Module, int]]  # of inputs' and options' size: the module, its width
_MOST_WORKFLOWS = 16  # a batch


class Inputs(nn.Module):
    """An agent's embedding beside ReLU(W x)."""

    def __init__(self, num_agents: int, num_dims: int, size: int) -> None:
        super().__init__()
        self.width = 2 * size
        self.embedding = nn.Embedding(num_agents + 1, size)  # the last for agents not trained on
        self.text = nn.Linear(num_dims, size, bias=False) if num_dims else None

    def forward(self, current: Tensor, contexts: Tensor) -> Tensor:
        agents: Tensor = self.embedding(current)
        text = torch.zeros_like(agents) if self.text is None else torch.relu(self.text(contexts))
        return torch.cat([agents, text], dim=-1)


class Outputs(nn.Module):
    """A hidden layer with dropout, and K × (V + 1) logits."""

    def __init__(self, width: int, num_agents: int, num_steps: int, options: TrainingOptions) -> None:
        super().__init__()
        self.shape = num_steps, num_agents + 1
        self.hidden = nn.Linear(width, options.size)
        self.output = nn.Linear(options.size, num_steps * (num_agents + 1))
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, joined: Tensor) -> Tensor:
        logits: Tensor = self.output(self.dropout(torch.relu(self.hidden(joined))))
        return logits.reshape(*logits.shape[:-1], *self.shape)


class Perceptron(nn.Module):
    def __init__(self, num_agents: int, num_dims: int, num_steps: int, options: TrainingOptions) -> None:
        super().__init__()
        self.inputs = Inputs(num_agents, num_dims, options.size)
        self.outputs = Outputs(self.inputs.width, num_agents, num_steps, options)

    def forward(self, current: Tensor, history: Tensor, contexts: Tensor) -> Tensor:
        """Logits [n, K, V + 1]. The history is not looked at."""
        found: Tensor = self.outputs(self.inputs(current, contexts))
        return found


class OfSequences(nn.Module):
    """What a ``trunk`` makes of all inputs so far, beside the call's own.

    ``sees_past_x`` False: of earlier calls the trunk sees the agents alone, as the paper's network does.
    """

    def __init__(
        self,
        trunk: Trunk,
        num_agents: int,
        num_dims: int,
        num_steps: int,
        options: TrainingOptions,
        *,
        sees_past_x: bool = True,
    ) -> None:
        super().__init__()
        self.sees_past_x = sees_past_x
        self.inputs = Inputs(num_agents, num_dims, options.size)
        self.trunk, width = trunk(self.inputs.width, options.size)
        self.outputs = Outputs(width + self.inputs.width, num_agents, num_steps, options)

    def forward(self, current: Tensor, contexts: Tensor) -> Tensor:
        """Logits [B, T, K, V + 1] of padded workflows."""
        inputs = self.inputs(current, contexts)
        shown = inputs if self.sees_past_x else self.inputs(current, torch.zeros_like(contexts))
        found: Tensor = self.outputs(torch.cat([self.trunk(shown), inputs], dim=2))
        return found


class Recurrent(nn.Module):
    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.gru = nn.GRU(width, size, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        states: Tensor = self.gru(inputs)[0]
        return states


class Transformer(nn.Module):
    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.project = nn.Linear(width, size)
        self.layer = nn.TransformerEncoderLayer(size, 4, 2 * size, batch_first=True, norm_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        num_calls = inputs.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(num_calls)
        found: Tensor = self.layer(
            self.project(inputs) + self._places(num_calls), src_mask=mask, is_causal=True
        )
        return found

    def _places(self, num_calls: int) -> Tensor:
        """Sines and cosines, as test workflows may be longer than those trained on."""
        rates = torch.exp(torch.arange(0, self.size, 2) * (-log(1e4) / self.size))
        angles = torch.arange(num_calls)[:, None] * rates
        return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)


class Convolutional(nn.Module):
    """Residual blocks of two causal convolutions each (Bai et al. 2018, without weight norm)."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, size)
        self.dilations = (1, 2, 4, 8)
        self.first, self.second = (
            nn.ModuleList(nn.Conv1d(size, size, 3, dilation=dilation) for dilation in self.dilations)
            for _ in range(2)
        )
        self.dropout = nn.Dropout(0.1)

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.project(inputs).transpose(1, 2)
        for dilation, first, second in zip(self.dilations, self.first, self.second, strict=True):
            inner = x
            for convolution in (first, second):
                inner = nn.functional.pad(inner, (2 * dilation, 0))
                inner = self.dropout(torch.relu(convolution(inner)))
            x = torch.relu(x + inner)
        found: Tensor = x.transpose(1, 2)
        return found


TRUNKS: dict[str, Trunk] = {
    "GRU": lambda width, size: (Recurrent(width, size), size),
    "Transformer, 1 layer": lambda width, size: (Transformer(width, size), size),
    "TCN, large": lambda width, size: (Convolutional(width, 2 * size), 2 * size),
}


def sequence(
    name: str,
    split: Split,
    num_steps: int,
    context_kind: str,
    options: TrainingOptions,
    *,
    sees_past_x: bool = True,
) -> ByStep:
    """Accuracies on the test part of a network of ``TRUNKS`` that learnt from the training part."""
    agents, num_dims = agents_of(split.training), num_dims_of(context_kind, split.training)
    training, stopping, test = (
        [examples_of([one], agents, num_steps, context_kind, num_dims) for one in part]
        for part in (split.training, split.stopping, split.test)
    )
    standards = standards_of(np.concatenate([one.contexts for one in training]))
    batch_size = max(min(_MOST_WORKFLOWS, len(training) // LEAST_BATCHES), 1)
    with seeded(options.seed):
        model = OfSequences(TRUNKS[name], len(agents), num_dims, num_steps, options, sees_past_x=sees_past_x)
        learnt, checks, shown = (
            Whole(part, len(agents), *standards, options) for part in (training, stopping, test)
        )
        fit(model, learnt, checks, batch_size, options)
        with torch.no_grad():
            rows = [model(current[None], contexts[None])[0] for current, contexts in shown.inputs]
    return _measured(torch.cat(rows), split.test, agents, num_steps)


def perceptron(split: Split, num_steps: int, context_kind: str, options: TrainingOptions) -> ByStep:
    """Accuracies of the MLP, as `sequence` gives them."""
    agents, num_dims = agents_of(split.training), num_dims_of(context_kind, split.training)
    training, stopping, test = (
        examples_of(part, agents, num_steps, context_kind, num_dims)
        for part in (split.training, split.stopping, split.test)
    )
    standards = standards_of(training.contexts)
    with seeded(options.seed):
        model = Perceptron(len(agents), num_dims, num_steps, options)
        learnt, checks, shown = (Calls(part, *standards, options) for part in (training, stopping, test))
        fit(model, learnt, checks, batch_size_of(len(learnt), options), options)
        with torch.no_grad():
            logits = model(shown.current, shown.history, shown.contexts)
    return _measured(logits, split.test, agents, num_steps)


def _measured(logits: Tensor, workflows: Sequence[Workflow], agents: Sequence[str], num_steps: int) -> ByStep:
    rows = torch.softmax(logits, dim=-1).double().numpy()
    return accuracies(rows, examples_of(workflows, agents, num_steps, "none", 0).targets)


class Whole:
    """Workflows as tensors, a row a workflow, padded at their ends (`pbkv.predict.fitting.Part`)."""

    def __init__(
        self,
        workflows: Sequence[Examples],
        num_agents: int,
        mean: Floats,
        scale: Floats,
        options: TrainingOptions,
    ) -> None:
        self._hidden_ratio = options.context_dropout
        self.inputs = [
            (torch.from_numpy(one.current), torch.from_numpy(standardised(one.contexts, mean, scale)))
            for one in workflows
        ]
        self._targets = [_targets(one, num_agents) for one in workflows]

    def __len__(self) -> int:
        return len(self.inputs)

    def loss(self, model: nn.Module, rows: Tensor) -> Tensor:
        chosen = rows.tolist()
        current = _padded([self.inputs[row][0] for row in chosen], 0)
        contexts = _padded([self.inputs[row][1] for row in chosen], 0)
        if model.training:
            contexts = contexts * (torch.rand(*current.shape, 1) >= self._hidden_ratio)
        targets = _padded([self._targets[row] for row in chosen], IGNORED)
        return loss_by_step(model(current, contexts).flatten(0, 1), targets.flatten(0, 1))


def _targets(one: Examples, num_agents: int) -> Tensor:
    counted = one.targets.is_alive & (one.targets.outcomes <= num_agents)
    return torch.from_numpy(np.where(counted, one.targets.outcomes, IGNORED))


def _padded(parts: list[Tensor], value: int) -> Tensor:
    return nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=value)
