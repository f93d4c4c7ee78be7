"""Workflows as arrays to learn from and to be measured on: one example a call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pbkv.predict.context import context_vectors
from pbkv.predict.network import Doubles, Floats, Ints, history_of

if TYPE_CHECKING:
    from pbkv.traces.schema import Workflow

Bools = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True)
class Targets:
    """What came 1 … K calls after each of n calls.

    ``outcomes`` [n, K]: the agent's column, V for END, V + 1 for an agent without a column. Where the
    workflow had ended before the step, ``is_alive`` [n, K] is False and the outcome means nothing.
    """

    outcomes: Ints
    is_alive: Bools


@dataclass(frozen=True, slots=True)
class Examples:
    """Inputs and targets of n calls, as `Network.forecasts` takes them."""

    current: Ints
    history: Doubles
    contexts: Floats
    targets: Targets


def agents_of(workflows: Iterable[Workflow]) -> list[str]:
    """The agents in the order in which they first appear."""
    return list(dict.fromkeys(call.agent for workflow in workflows for call in workflow.calls))


def columns_of(agents: Sequence[str]) -> dict[str, int]:
    return {agent: column for column, agent in enumerate(agents)}


def path_of(workflow: Workflow, columns: Mapping[str, int]) -> Ints:
    """The column of each call's agent; one beyond the last for agents that have none. Shape [T]."""
    unseen = len(columns)
    return np.array([columns.get(call.agent, unseen) for call in workflow.calls], np.int64)


def targets_of(workflows: Iterable[Workflow], agents: Sequence[str], num_steps: int) -> Targets:
    """Call by call, workflow by workflow."""
    columns = columns_of(agents)
    parts = [_targets(path_of(workflow, columns), len(agents), num_steps) for workflow in workflows]
    return Targets(
        np.concatenate([outcomes for outcomes, _ in parts]) if parts else np.zeros((0, num_steps), np.int64),
        np.concatenate([is_alive for _, is_alive in parts]) if parts else np.zeros((0, num_steps), bool),
    )


def examples_of(
    workflows: Sequence[Workflow], agents: Sequence[str], num_steps: int, kind: str, num_dims: int
) -> Examples:
    """Call by call, workflow by workflow; ``kind`` and ``num_dims`` are the context's."""
    columns = columns_of(agents)
    paths = [path_of(workflow, columns) for workflow in workflows]
    vectors = [context_vectors(kind, num_dims, workflow) for workflow in workflows]
    return Examples(
        np.concatenate(paths),
        np.concatenate([history_of(path, len(agents) + 1) for path in paths]),
        np.concatenate(vectors),
        targets_of(workflows, agents, num_steps),
    )


def relations_of(kind: str, paths: Sequence[Ints], num_agents: int) -> Floats:
    """How agents are tied in the call graph, as a network of ``kind`` (`network.RELATIONS`) takes it.

    graph [V, V]: A, how often each agent is followed by each; rows adding up to 1 (or 0, where none
    follows). rgcn [2, V, V]: A, and how often each was preceded by each, likewise.
    """
    counts = np.zeros((num_agents, num_agents))
    for path in paths:
        np.add.at(counts, (path[:-1], path[1:]), 1.0)
    return _shares(counts) if kind == "graph" else np.stack([_shares(counts), _shares(counts.T)])


def _shares(counts: Doubles) -> Floats:
    totals = counts.sum(axis=1, keepdims=True)
    return (counts / np.where(totals > 0, totals, 1.0)).astype(np.float32)


def _targets(path: Ints, num_agents: int, num_steps: int) -> tuple[Ints, Bools]:
    """An unseen agent is V in a path, where V is END among outcomes; there it is V + 1."""
    unseen, end = num_agents + 1, num_agents
    named = np.where(path == num_agents, unseen, path)
    ended = np.concatenate([named, np.full(num_steps, end)])
    places = np.arange(len(path))[:, None] + np.arange(1, num_steps + 1)
    return ended[places], places <= len(path)
