"""Generates the paper's three workloads: HoVer-like, SWE-like, FinanceBench-like.

Each agent keeps one conversation a workflow: its fixed prompt, the task, and then its own earlier
turns, each with what was handed to it and what it answered. What it thought before that is generated
and then left out of every prompt. What the others answered reaches it as new text, behind another
prefix, so one agent's cache never serves another: all that workflows share is the fixed prompts, all
that calls of one workflow share is the history of the agent called again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from zlib import crc32

import numpy as np
from numpy.random import Generator

from pbkv.traces.errors import ConfigError
from pbkv.traces.knobs import Agent, Workload, load_workload
from pbkv.traces.plans import ContextView, Walk, draw, draw_walk
from pbkv.traces.schema import Call, TraceMetadata, Workflow

# Ids: agent i's fixed prompt is 2i + 1 and 2i + 2; workflow i owns the ids from (i + 1) · 2^20 on.
_IDS_PER_WORKFLOW = 1 << 20


def generate_workload(name: str, num_workflows: int, seed: int) -> Iterator[Workflow]:
    """``num_workflows`` workflows of workload ``name`` (hover, swe, finance or the path of a TOML file).

    A workflow depends on the workload, the seed and its own index only. Raises ConfigError for an
    unknown name, bad knobs, fewer than one workflow or a negative seed, before the first workflow.
    """
    workload = load_workload(name)
    _check_counts(num_workflows, seed)
    return (generate_workflow(workload, index, seed) for index in range(num_workflows))


def workload_metadata(name: str, num_workflows: int, seed: int) -> TraceMetadata:
    """Provenance of what `generate_workload` yields for the same arguments."""
    workload = load_workload(name)
    _check_counts(num_workflows, seed)
    call_graph = {agent.name: list(agent.next) for agent in workload.agents}
    return TraceMetadata(
        source=workload.source,
        licence=workload.licence,
        generator=f"pbkv traces generate {name} --workflows {num_workflows}",
        seed=seed,
        extra={"workload": workload.name, "call_graph": call_graph},
    )


def generate_workflow(workload: Workload, index: int, seed: int) -> Workflow:
    """The ``index``-th workflow of a trace with ``seed``."""
    origin = [seed, crc32(workload.name.encode()), index]
    rng, thoughts = np.random.default_rng(origin), np.random.default_rng([*origin, 1])
    walk = draw_walk(workload, rng)
    calls = _Writer(workload, index, rng, thoughts).calls(walk)
    return Workflow(f"{workload.name}-{index:06d}", workload.app, None, calls)


def _check_counts(num_workflows: int, seed: int) -> None:
    if num_workflows < 1:
        raise ConfigError("workflows", num_workflows, "a number ≥ 1")
    if seed < 0:
        raise ConfigError("seed", seed, "a number ≥ 0")


@dataclass(slots=True)
class _Thread:
    """One agent's conversation within one workflow; ``num_seen`` calls have been handed to it so far."""

    ids: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    num_seen: int = 0

    def append(self, segment_id: int, num_tokens: int, kind: str) -> None:
        if num_tokens:
            self.ids.append(segment_id)
            self.tokens.append(num_tokens)
            self.kinds.append(kind)


class _Writer:
    """Writes the calls of one workflow: prompts, answers, gaps and context vectors."""

    def __init__(self, workload: Workload, index: int, rng: Generator, thoughts: Generator) -> None:
        self._workload = workload
        self._rng = rng
        self._thoughts = thoughts
        self._view = ContextView(workload)
        self._agents = {agent.name: agent for agent in workload.agents}
        self._ids = count((index + 1) * _IDS_PER_WORKFLOW)
        self._statement = next(self._ids)
        self._threads: dict[str, _Thread] = {}
        self._answers: list[int] = []  # tokens of each call's answer, without the thought

    def calls(self, walk: Walk) -> list[Call]:
        statement = _tokens(draw(self._workload.levels[walk.level].statement, self._rng))
        calls = []
        for index, step in enumerate(walk.steps):
            agent = self._agents[step.agent]
            if agent.name not in self._threads:
                self._threads[agent.name] = self._opened(agent, statement)
            context = self._view.vector(walk.level, step, self._rng)
            calls.append(self._call(index, agent, context))
        return calls

    def _opened(self, agent: Agent, statement: int) -> _Thread:
        """A conversation before its first turn: fixed prompt, the task, the agent's brief."""
        position = self._workload.agents.index(agent)
        thread = _Thread()
        thread.append(2 * position + 1, agent.system, "system")
        thread.append(2 * position + 2, agent.tools, "tools")
        thread.append(self._statement, statement, "user")
        thread.append(next(self._ids), round(draw(agent.brief, self._rng)), "context")
        return thread

    def _call(self, index: int, agent: Agent, context: list[float]) -> Call:
        thread = self._threads[agent.name]
        handed = sum(self._answers[thread.num_seen :])
        thread.append(next(self._ids), _tokens(handed + draw(agent.fresh, self._rng)), agent.fresh_kind)
        answer, answer_id = _tokens(draw(agent.output, self._rng)), next(self._ids)
        thought = round(draw(agent.thought, self._thoughts))
        call = Call(
            call_index=index,
            agent=agent.name,
            parent_indices=(index - 1,) if index else (),
            tool_gap_s=draw(agent.gap_s, self._rng) if index else 0.0,
            segment_ids=tuple(thread.ids),
            segment_tokens=tuple(thread.tokens),
            num_output_tokens=thought + answer,
            output_id=next(self._ids)
            if thought
            else answer_id,  # behind a thought the answer's KV is another
            segment_kinds=tuple(thread.kinds),
            tool_gap_origin="generated",
            context=context,
        )
        thread.append(answer_id, answer, "output")
        thread.num_seen = index + 1
        self._answers.append(answer)
        return call


def _tokens(length: float) -> int:
    """A length in whole tokens; a turn is never empty."""
    return max(1, round(length))
