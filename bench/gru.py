"""A recurrent network on the same inputs, for comparison: does the order of the history tell more?

Agent embedding and ReLU(W_t x) into a GRU of 64, then the same hidden layer and outputs, the same loss,
optimiser, dropout and early stopping as the paper's network has here.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import torch
from torch import nn

from pbkv.predict.accuracy import Accuracy, accuracies
from pbkv.predict.context import num_dims_of
from pbkv.predict.examples import Examples, agents_of, examples_of
from pbkv.predict.graph_train import TrainingOptions
from pbkv.predict.network import standardised
from pbkv.predict.split import Split

_IGNORED = -100
_LEAST_BATCHES = 32  # an epoch, down to one workflow a batch


class Recurrent(nn.Module):
    def __init__(self, num_agents: int, num_dims: int, num_steps: int, options: TrainingOptions) -> None:
        super().__init__()
        size = options.size
        self.shape = num_steps, num_agents + 1
        self.embedding = nn.Embedding(num_agents + 1, size)  # the last for agents not trained on
        self.text = nn.Linear(num_dims, size, bias=False) if num_dims else None
        self.gru = nn.GRU(2 * size, size, batch_first=True)
        self.hidden = nn.Linear(2 * size, size)
        self.output = nn.Linear(size, num_steps * (num_agents + 1))
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, current: torch.Tensor, contexts: torch.Tensor) -> torch.Tensor:
        """Logits [B, T, K, V + 1] of padded workflows."""
        agents = self.embedding(current)
        text = torch.relu(self.text(contexts)) if self.text is not None else torch.zeros_like(agents)
        inputs = torch.cat([agents, text], dim=2)
        states, _ = self.gru(inputs)
        joined = torch.cat([states, agents], dim=2)
        logits: torch.Tensor = self.output(self.dropout(torch.relu(self.hidden(joined))))
        return torch.unflatten(logits, 2, self.shape)


def gru(split: Split, num_steps: int, context_kind: str, options: TrainingOptions) -> Sequence[Accuracy]:
    """Accuracies on the test part of what was trained on the training part."""
    agents, num_dims = agents_of(split.training), num_dims_of(context_kind, split.training)
    parts = [
        [examples_of([workflow], agents, num_steps, context_kind, num_dims) for workflow in part]
        for part in (split.training, split.stopping, split.test)
    ]
    every = np.concatenate([one.contexts for one in parts[0]])
    mean, scale = every.mean(axis=0), every.std(axis=0)
    scale[scale < 1e-6] = 1.0
    torch.manual_seed(options.seed)
    model = Recurrent(len(agents), num_dims, num_steps, options)
    training, stopping, test = ([_tensors(one, mean, scale, len(agents)) for one in part] for part in parts)
    _fit(model, training, stopping, options)
    model.eval()
    with torch.no_grad():
        rows = [torch.softmax(model(a[None], x[None])[0], dim=2).double().numpy() for a, x, _ in test]
    every_target = examples_of(split.test, agents, num_steps, "none", 0).targets
    return accuracies(np.concatenate(rows), every_target)


_Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _tensors(one: Examples, mean: np.ndarray, scale: np.ndarray, num_agents: int) -> _Tensors:
    counted = one.targets.is_alive & (one.targets.outcomes <= num_agents)
    targets = np.where(counted, one.targets.outcomes, _IGNORED)
    contexts = standardised(one.contexts, mean, scale).astype(np.float32)
    return torch.from_numpy(one.current), torch.from_numpy(contexts), torch.from_numpy(targets)


def _fit(
    model: Recurrent, training: list[_Tensors], stopping: list[_Tensors], options: TrainingOptions
) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate)
    batch_size = max(min(16, len(training) // _LEAST_BATCHES), 1)
    least, best, best_epoch = float("inf"), deepcopy(model.state_dict()), 0
    for epoch in range(1, options.num_epochs + 1):
        model.train()
        for rows in torch.randperm(len(training)).split(batch_size):  # type: ignore[no-untyped-call]  # torch's own
            optimizer.zero_grad()
            _loss(model, [training[row] for row in rows]).backward()  # type: ignore[no-untyped-call]  # torch's own
            optimizer.step()
        model.eval()
        with torch.no_grad():
            loss = float(_loss(model, stopping))
        if loss < least:
            least, best, best_epoch = loss, deepcopy(model.state_dict()), epoch
        if epoch - best_epoch >= options.patience:
            break
    model.load_state_dict(best)


def _loss(model: Recurrent, workflows: list[_Tensors]) -> torch.Tensor:
    current, contexts, targets = (
        nn.utils.rnn.pad_sequence([one[part] for one in workflows], batch_first=True, padding_value=value)
        for part, value in ((0, 0), (1, 0.0), (2, _IGNORED))
    )
    logits = model(current, contexts)
    losses = [
        nn.functional.cross_entropy(
            logits[:, :, step].flatten(0, 1), targets[:, :, step].flatten(), ignore_index=_IGNORED
        )
        for step in range(logits.shape[2])
    ]
    return torch.stack([loss for loss in losses if torch.isfinite(loss)]).sum()
