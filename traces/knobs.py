"""The knobs of a generated workload: one TOML file, read into frozen dataclasses and checked.

The shipped files lie in ``workloads/``; each number stands there with its source or its reason.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, TypeVar

from pbkv.traces.errors import ConfigError
from pbkv.traces.schema import KINDS

WORKLOADS = ("hover", "swe", "finance")
END = "END"


@dataclass(frozen=True, slots=True)
class Spread:
    """A lognormal quantity: its median, and the standard deviation of its logarithm (0 = constant)."""

    median: float
    sigma: float

    def scaled(self, factor: float) -> Spread:
        return Spread(self.median * factor, self.sigma)


@dataclass(frozen=True, slots=True)
class Agent:
    """A role. Lengths in tokens; ``gap_s`` is the time between the call before and a call of this agent.

    ``system`` and ``tools`` are its fixed prompt, shared by all workflows; ``brief`` is what it gets
    with its first call of a workflow only, ``fresh`` with each call besides the answers of others.
    It generates ``thought`` and then ``output``; the answer alone stays in its history and reaches others.
    ``next`` declares the call graph: who may follow, END included.
    """

    name: str
    system: int
    tools: int
    brief: Spread
    fresh: Spread
    fresh_kind: str
    thought: Spread
    output: Spread
    gap_s: Spread
    next: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Level:
    """One value of the hidden task variable: how often, how many legs, how long the task reads.

    ``legs`` is a draw a workflow, rounded: the legs planned between opening and closing.
    """

    name: str
    weight: float
    legs: Spread
    statement: Spread


@dataclass(frozen=True, slots=True)
class Route:
    """A leg between opening and closing: its agents in order, and its weight at each level."""

    name: str
    agents: tuple[str, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """How legs are strung together. Ratios are probabilities.

    A plan is the opening, as many legs as the level draws, and the closing (may be empty). A leg repeats
    the route of the one before with ``persist_ratio``. Before each leg the workflow strays from its plan
    with ``stray_ratio``: it then closes early with ``stray_end_ratio``, else takes a route at random.
    """

    opening: tuple[str, ...]
    closing: tuple[str, ...]
    persist_ratio: float
    stray_ratio: float
    stray_end_ratio: float


@dataclass(frozen=True, slots=True)
class Context:
    """How the hidden state shows in the context vector: weighted indicators, projected, plus noise.

    ``agent``, ``level`` and ``leg`` weigh what is now. A leg to come weighs ``planned`` before its first
    call, and ``fade`` times less for each call that lies between.
    """

    num_dims: int
    noise: float
    seed: int
    agent: float
    level: float
    leg: float
    planned: float
    fade: float


@dataclass(frozen=True, slots=True)
class Scale:
    """Factors on lengths and times, to turn a whole workload at once."""

    prompts: float
    briefs: float
    fresh: float
    outputs: float
    gaps: float


@dataclass(frozen=True, slots=True)
class Workload:
    """All knobs of one workload; ``scale`` is already applied to ``agents`` and ``levels``."""

    name: str
    app: str
    source: str
    licence: str
    scale: Scale
    levels: tuple[Level, ...]
    routes: tuple[Route, ...]
    plan: Plan
    agents: tuple[Agent, ...]
    context: Context

    @property
    def legs(self) -> tuple[tuple[str, ...], ...]:
        """The agents of each leg: 0 the opening, then the routes, last the closing."""
        return (self.plan.opening, *(route.agents for route in self.routes), self.plan.closing)


def load_workload(name: str) -> Workload:
    """The shipped workload ``name``, or the one in a file whose path ends in .toml. Raises ConfigError."""
    where: Traversable | Path
    if name.endswith(".toml"):
        where = Path(name)
    elif name in WORKLOADS:
        where = files("pbkv.traces").joinpath("workloads", f"{name}.toml")
    else:
        raise ConfigError("workload", name, f"one of {', '.join(WORKLOADS)}, or a path that ends in .toml")
    try:
        text = where.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("workload", name, f"a readable UTF-8 file ({error})") from None
    return parse_workload(text, name)


def parse_workload(text: str, name: str) -> Workload:
    """The workload that ``text`` (TOML) describes; errors call it ``name``. Raises ConfigError."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(name, str(error), "TOML") from None
    workload = _read(Workload, raw, name)
    _check_weights(workload)
    _check_agents(workload)
    _check_graph(workload)
    return _scaled(workload)


_T = TypeVar("_T")
_RATIOS = {"persist_ratio", "stray_ratio", "stray_end_ratio", "fade"}
_MAY_BE_EMPTY = {"closing"}


def _read(kind: type[_T], raw: object, where: str) -> _T:
    """A dataclass of this module from a TOML table that has exactly its fields."""
    if not isinstance(raw, Mapping):
        raise ConfigError(where, raw, "a table")
    expected = {field.name: str(field.type) for field in fields(kind)}  # type: ignore[arg-type]  # a dataclass
    for key in [*raw, *expected]:
        if key not in expected or key not in raw:
            problem = "missing" if key in expected else "an unknown key"
            raise ConfigError(f"{where}: {key}", problem, "exactly " + ", ".join(expected))
    return kind(**{key: _value(expected[key], raw[key], f"{where}: {key}", key) for key in expected})


def _value(kind: str, raw: Any, where: str, key: str) -> Any:
    if kind in _TABLES:
        return _read(_TABLES[kind], raw, where)
    if kind.startswith("tuple["):
        return _values(kind[len("tuple[") : -len(", ...]")], raw, where, key)
    if kind == "str":
        if not isinstance(raw, str) or not raw:
            raise ConfigError(where, raw, "a text")
        return raw
    return _number(kind, raw, where, 1.0 if key in _RATIOS else math.inf)


def _values(kind: str, raw: object, where: str, key: str) -> tuple[Any, ...]:
    if not isinstance(raw, list) or not (raw or key in _MAY_BE_EMPTY):
        raise ConfigError(where, raw, "a list that is not empty")
    return tuple(_value(kind, item, f"{where}[{index}]", key) for index, item in enumerate(raw))


def _number(kind: str, raw: object, where: str, most: float) -> float:
    wanted = (int,) if kind == "int" else (int, float)
    if isinstance(raw, bool) or not isinstance(raw, wanted) or not 0 <= raw <= most or raw == math.inf:
        limits = "≥ 0" if most == math.inf else f"from 0 to {most:g}"
        raise ConfigError(where, raw, f"{'a whole' if kind == 'int' else 'a'} number {limits}")
    return raw if kind == "int" else float(raw)


_TABLES: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (Spread, Agent, Level, Route, Plan, Context, Scale)
}


def _check_weights(workload: Workload) -> None:
    num_levels = len(workload.levels)
    for route in workload.routes:
        if len(route.weights) != num_levels:
            field = f"{workload.name}: weights of route {route.name}"
            raise ConfigError(field, route.weights, f"{num_levels} of them, one a level")
    for index, level in enumerate(workload.levels):
        if level.weight <= 0 or sum(route.weights[index] for route in workload.routes) <= 0:
            raise ConfigError(f"{workload.name}: weights at level {level.name}", 0, "a number above 0")
    if workload.context.num_dims < 1:
        raise ConfigError(f"{workload.name}: context: num_dims", workload.context.num_dims, "a number ≥ 1")


def _check_agents(workload: Workload) -> None:
    names = [agent.name for agent in workload.agents]
    for agent in workload.agents:
        if names.count(agent.name) > 1 or agent.name == END:
            raise ConfigError(f"{workload.name}: agents: name", agent.name, f"distinct names, none {END}")
        if agent.system < 1:
            raise ConfigError(f"{workload.name}: agent {agent.name}: system", agent.system, "a number ≥ 1")
        if agent.fresh_kind not in KINDS:
            field = f"{workload.name}: agent {agent.name}: fresh_kind"
            raise ConfigError(field, agent.fresh_kind, "one of " + ", ".join(KINDS))


def _check_graph(workload: Workload) -> None:
    """The declared edges are those that opening, routes and closing can take: no more, no fewer."""
    declared = {(agent.name, follower) for agent in workload.agents for follower in agent.next}
    possible = set(_possible_edges(workload))
    for edge in sorted(declared ^ possible):
        said = "declared, but taken by no leg" if edge in declared else "taken, but not declared"
        raise ConfigError(
            f"{workload.name}: edge {edge[0]} → {edge[1]}", said, "just the edges the legs take"
        )


def _possible_edges(workload: Workload) -> Iterator[tuple[str, str]]:
    *before_closing, closing = workload.legs
    yield from chain.from_iterable(map(pairwise, workload.legs))
    ends = [leg[-1] for leg in before_closing]
    starts = [route.agents[0] for route in workload.routes] + [closing[0] if closing else END]
    yield from ((end, start) for end in ends for start in starts)
    if closing:
        yield closing[-1], END


def _scaled(workload: Workload) -> Workload:
    scale = workload.scale
    levels = (replace(level, statement=level.statement.scaled(scale.briefs)) for level in workload.levels)
    agents = (_scaled_agent(agent, scale) for agent in workload.agents)
    return replace(workload, levels=tuple(levels), agents=tuple(agents))


def _scaled_agent(agent: Agent, scale: Scale) -> Agent:
    return replace(
        agent,
        system=max(1, round(agent.system * scale.prompts)),
        tools=round(agent.tools * scale.prompts),
        brief=agent.brief.scaled(scale.briefs),
        fresh=agent.fresh.scaled(scale.fresh),
        thought=agent.thought.scaled(scale.outputs),
        output=agent.output.scaled(scale.outputs),
        gap_s=agent.gap_s.scaled(scale.gaps),
    )
