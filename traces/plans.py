"""The hidden side of a generated workflow: a task, the plan that follows from it, and where it strayed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from pbkv.traces.knobs import END, Spread, Workload


@dataclass(frozen=True, slots=True)
class Step:
    """The hidden state at one call.

    The call is the ``position``-th of leg ``leg`` (an index of ``Workload.legs``); ``planned`` are the
    legs that the plan still holds after this one. What comes next follows the plan unless it strays.
    """

    agent: str
    leg: int
    position: int
    planned: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Walk:
    """One workflow without its texts: its task's level, and its calls."""

    level: int
    steps: Sequence[Step]


def draw(spread: Spread, rng: Generator) -> float:
    """One value of a lognormal quantity."""
    return spread.median * float(np.exp(spread.sigma * rng.standard_normal()))


def draw_walk(workload: Workload, rng: Generator) -> Walk:
    """A task of a random level, its plan, and the calls made on the way through it."""
    level = _pick([level.weight for level in workload.levels], rng)
    closing = len(workload.legs) - 1
    planned = [*_planned_routes(workload, level, rng), closing]
    leg = 0
    steps: list[Step] = []
    while True:
        steps += _leg_steps(workload, leg, planned)
        if leg == closing:
            return Walk(level, steps)
        leg = _next_leg(workload, level, planned[0], rng)
        if leg == closing:
            planned = []
        elif planned[0] != closing:
            planned = planned[1:]  # taken or replaced: the task keeps its length


def expected_agents(workload: Workload, step: Step) -> list[str]:
    """The agents of the calls after ``step`` if the plan is kept to, with END behind them."""
    legs = workload.legs
    rest = list(legs[step.leg][step.position + 1 :])
    return rest + [agent for leg in step.planned for agent in legs[leg]] + [END]


def _leg_steps(workload: Workload, leg: int, planned: Sequence[int]) -> list[Step]:
    agents = workload.legs[leg]
    return [Step(agent, leg, position, tuple(planned)) for position, agent in enumerate(agents)]


def _planned_routes(workload: Workload, level: int, rng: Generator) -> list[int]:
    plan = workload.plan
    num_legs = round(draw(workload.levels[level].legs, rng))
    routes: list[int] = []
    for _ in range(num_legs):
        persists = bool(routes) and rng.random() < plan.persist_ratio
        routes.append(routes[-1] if persists else _random_route(workload, level, rng))
    return routes


def _next_leg(workload: Workload, level: int, planned: int, rng: Generator) -> int:
    plan = workload.plan
    if rng.random() >= plan.stray_ratio:
        return planned
    if rng.random() < plan.stray_end_ratio:
        return len(workload.legs) - 1
    return _random_route(workload, level, rng)


def _random_route(workload: Workload, level: int, rng: Generator) -> int:
    return 1 + _pick([route.weights[level] for route in workload.routes], rng)


def _pick(weights: Sequence[float], rng: Generator) -> int:
    """An index, with probability in proportion to its weight."""
    ends = np.cumsum(weights)
    return int(np.searchsorted(ends, rng.random() * ends[-1], side="right"))


class ContextView:
    """How a workload's hidden state shows in context vectors: the same in every trace, whatever its seed."""

    def __init__(self, workload: Workload) -> None:
        self._knobs = workload.context
        self._legs = workload.legs
        self._agents = [agent.name for agent in workload.agents]
        self._first_leg = len(self._agents) + len(workload.levels)
        num_rows = self._first_leg + 2 * len(self._legs)
        rows = np.random.default_rng(self._knobs.seed).standard_normal((num_rows, self._knobs.num_dims))
        self._directions = rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def vector(self, level: int, step: Step, rng: Generator) -> list[float]:
        """What can be seen at ``step``: ``num_dims`` values of float32 precision."""
        seen = self._knobs.noise * rng.standard_normal(self._knobs.num_dims)
        for row, weight in self._indicators(level, step):
            seen += weight * self._directions[row]
        return [float(value) for value in seen.astype(np.float32)]

    def _indicators(self, level: int, step: Step) -> Iterator[tuple[int, float]]:
        """(direction, weight) of all that is so: the agent, the level, the leg, and the legs to come."""
        knobs, first_leg = self._knobs, self._first_leg
        yield self._agents.index(step.agent), knobs.agent
        yield len(self._agents) + level, knobs.level
        yield first_leg + step.leg, knobs.leg
        calls_between = len(self._legs[step.leg]) - step.position - 1
        for leg in step.planned:
            yield first_leg + len(self._legs) + leg, knobs.planned * knobs.fade**calls_between
            calls_between += len(self._legs[leg])
