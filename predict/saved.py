"""Predictors from files and into files: `graph`, `rgcn` and offline `markov`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pbkv.predict.context import KINDS
from pbkv.predict.graph import Graph
from pbkv.predict.markov import Markov
from pbkv.predict.model_file import Facts, read_model
from pbkv.predict.network import FACTS, RELATIONS, WEIGHTS, Network
from pbkv.traces.errors import ConfigError

Arrays = dict[str, np.ndarray[Any, Any]]


def load_predictor(path: Path, num_steps: int, kind: str | None = None) -> Graph | Markov:
    """The predictor of ``path``, for its first ``num_steps`` steps.

    Raises ConfigError if the file is not one of `pbkv train`, is of another ``kind`` (graph, rgcn or
    markov:N) or has fewer steps.
    """
    arrays, facts = read_model(path)
    if kind is not None and facts.kind != kind:
        raise ConfigError("predictor", f"{path}, of kind {facts.kind}", f"kind {kind}")
    if num_steps > facts.num_steps:
        raise ConfigError("steps", num_steps, f"at most the {facts.num_steps} that {path} was trained for")
    try:
        predictor = _made(arrays, facts, num_steps)
    except (KeyError, ValueError, IndexError, TypeError):
        message = "a file made by `pbkv train` (its arrays do not fit its metadata)"
        raise ConfigError("predictor", str(path), message) from None
    predictor.source = str(path)
    return predictor


def markov_arrays(markov: Markov) -> Arrays:
    """``contexts`` [M, order]: columns, the oldest first, −1 where shorter; ``counts`` [M, 3]: step from 0,
    outcome (END is −1), how often."""
    rows = sorted(markov.counts())
    contexts = np.full((len(rows), markov.order), -1, np.int32)
    for line, (context, *_) in zip(contexts, rows, strict=True):
        line[: len(context)] = context
    return {"contexts": contexts, "counts": np.array([row[1:] for row in rows], np.int64).reshape(-1, 3)}


def _made(arrays: Arrays, facts: Facts, num_steps: int) -> Graph | Markov:
    if facts.kind in RELATIONS:
        _check_shapes(arrays, facts)
        network = Network(arrays, facts.num_steps)
        return Graph(facts.agents, network, facts.context_kind, num_steps)
    order = int(facts.kind.removeprefix("markov:"))
    return Markov.from_counts(order, num_steps, facts.agents, _counts(arrays))


def _counts(arrays: Arrays) -> Iterator[tuple[Sequence[int], int, int, int]]:
    for context, (step, outcome, number) in zip(
        arrays["contexts"].tolist(), arrays["counts"].tolist(), strict=True
    ):
        yield [column for column in context if column >= 0], step, outcome, number


def _check_shapes(arrays: Arrays, facts: Facts) -> None:
    """Raises ValueError or KeyError for arrays of another number of agents, steps or dimensions."""
    num_agents, size = arrays["embedding"].shape
    num_relations = RELATIONS[facts.kind]
    square = (num_agents, num_agents)
    expected = {
        "embedding": (len(facts.agents), size),
        "transitions": square if num_relations == 1 else (num_relations, *square),
        "text": (arrays["text"].shape[0], facts.num_context_dims),
        "context_mean": (facts.num_context_dims,),
        "output_bias": (facts.num_steps * (num_agents + 1),),
    }
    missing = [name for name in (*WEIGHTS, *FACTS) if name not in arrays]
    wrong = [name for name, shape in expected.items() if arrays[name].shape != shape]
    if missing or wrong or facts.context_kind not in KINDS:
        raise ValueError(missing, wrong)
