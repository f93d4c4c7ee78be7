"""Naive twins: Markov as counters of tuples, the network as the formulas are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from pbkv.predict.network import Floats
from pbkv.traces.schema import Call, Workflow

END = "END"


def workflow(agents: Sequence[str], contexts: Sequence[Sequence[float]] = (), name: str = "w") -> Workflow:
    """A chain of calls; the first ``contexts`` go to its first calls."""
    shown = [*contexts, *[None] * (len(agents) - len(contexts))]
    calls = [
        Call(i, agent, (i - 1,) if i else (), None, (1,), (1,), 1, context=x)
        for i, (agent, x) in enumerate(zip(agents, shown, strict=True))
    ]
    return Workflow(name, "app", None, calls)


def random_arrays(
    rng: np.random.Generator,
    num_agents: int,
    num_steps: int,
    size: int,
    num_dims: int,
    spread: float,
    num_relations: int = 1,
) -> dict[str, Floats]:
    """Random weights of a network; a larger spread makes a sharper attention."""
    shapes: dict[str, tuple[int, ...]] = {
        "embedding": (num_agents, size),
        "layer_1": (size, (1 + num_relations) * size),
        "layer_2": (size, (1 + num_relations) * size),
        "query": (size, size),
        "text": (size, num_dims),
        "hidden_weight": (size, 3 * size),
        "hidden_bias": (size,),
        "output_weight": (num_steps * (num_agents + 1), size),
        "output_bias": (num_steps * (num_agents + 1),),
        "context_mean": (num_dims,),
    }
    drawn = {name: spread * rng.standard_normal(shape) for name, shape in shapes.items()}
    drawn["context_scale"] = rng.uniform(0.5, 2.0, num_dims)
    shape = num_agents if num_relations == 1 else (num_relations, num_agents)
    drawn["transitions"] = rng.dirichlet(np.ones(num_agents), shape)
    drawn["frequencies"] = rng.dirichlet(np.ones(num_agents))
    return {name: array.astype(np.float32) for name, array in drawn.items()}


class MarkovTwin:
    """What followed k calls after each context, by name."""

    def __init__(self, order: int, num_steps: int) -> None:
        self.order, self.num_steps = order, num_steps
        self.agents: list[str] = []
        self.counts: list[dict[tuple[str, ...], Counter[str]]] = [{} for _ in range(num_steps)]

    def learn(self, path: Sequence[str], outcome: str) -> None:
        """``outcome`` came after ``path``."""
        for agent in [*path, outcome]:
            if agent not in self.agents and agent != END:
                self.agents.append(agent)
        for step in range(min(self.num_steps, len(path))):
            before = tuple(path[: len(path) - step])
            for length in range(min(self.order, len(before)) + 1):
                context = before[len(before) - length :]
                self.counts[step].setdefault(context, Counter())[outcome] += 1

    def rows(self, path: Sequence[str]) -> list[dict[str, float]]:
        context, rows = tuple(path)[-self.order :] if self.order else (), []
        for counts in self.counts:
            known = [counts[context[i:]] for i in range(len(context) + 1) if context[i:] in counts]
            names = [*self.agents, END]
            seen = known[0] if known else Counter(names)
            rows.append({name: seen[name] / seen.total() for name in names if seen[name]})
        return rows


def relu(x: np.ndarray) -> np.ndarray:
    positive: np.ndarray = np.maximum(x, 0.0)
    return positive


def softmax(x: np.ndarray) -> np.ndarray:
    exponentials: np.ndarray = np.exp(x - x.max())
    shares: np.ndarray = exponentials / exponentials.sum()
    return shares


def network_rows(
    arrays: Mapping[str, np.ndarray], path: Sequence[int], x: np.ndarray, num_steps: int
) -> np.ndarray:
    """The forecast after the calls of ``path``, the last of which shows ``x``: paper §4.1, line by line."""
    a = {name: array.astype(np.float64) for name, array in arrays.items()}
    rows = a["embedding"]
    relations = a["transitions"] if a["transitions"].ndim == 3 else a["transitions"][None]
    for layer in ("layer_1", "layer_2"):
        own, *others = np.split(a[layer], 1 + len(relations), axis=1)  # W of the agent, and one a relation
        sums = [own @ row for row in rows]
        for relation, matrix in zip(relations, others, strict=True):
            for agent, weights in enumerate(relation):
                sums[agent] = sums[agent] + matrix @ sum(
                    w * row for w, row in zip(weights, rows, strict=True)
                )
        rows = relu(np.array(sums))
    rows = np.concatenate([rows, a["frequencies"][None] @ rows])  # an unseen agent: the mean of the known
    here, past = rows[path[-1]], rows[list(path[:-1])]
    h_path = np.zeros_like(here)
    if len(past):
        h_path = softmax(past @ (a["query"] @ here) / np.sqrt(len(here))) @ past
    standard = np.clip((x - a["context_mean"]) / a["context_scale"], -4, 4)
    h_txt = relu(a["text"] @ standard)
    hidden = relu(a["hidden_weight"] @ np.concatenate([here, h_path, h_txt]) + a["hidden_bias"])
    logits = a["output_weight"] @ hidden + a["output_bias"]
    return np.array([softmax(row) for row in logits.reshape(num_steps, -1)])
