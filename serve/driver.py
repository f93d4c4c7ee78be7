"""The workload driver: releases workflows and submits each call when it is due.

A call is due when all its parents have ended and its tool wait is over; a call without parents when
its workflow is released. In the *closed loop* a fixed number of workflows is live and the next one is
released when one ends, so a slow engine is asked for less; in the *open loop* a workflow is released
at its arrival, whatever the engine does.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from pbkv.serve.request import Request
from pbkv.traces.errors import InvariantError

if TYPE_CHECKING:
    import simpy
    from simpy.events import Event

    from pbkv.cache.blocks import PathTable
    from pbkv.serve.engine import Engine
    from pbkv.serve.faults import Client
    from pbkv.traces.schema import Call, Workflow


class LiveWorkflow:
    """A released workflow: what of it is still to come. Its ids mean something within ``namespace``."""

    __slots__ = ("children", "described", "namespace", "num_awaited", "num_left", "released_at_s", "workflow")

    def __init__(self, workflow: Workflow, described: Workflow, namespace: int, released_at_s: float) -> None:
        self.workflow = workflow
        self.described = described  # as the client tells it
        self.namespace = namespace
        self.released_at_s = released_at_s
        self.num_left = len(workflow.calls)
        self.num_awaited = [len(call.parent_indices) for call in workflow.calls]  # parents yet to end
        self.children: list[Sequence[int]] = [()] * len(workflow.calls)
        children: dict[int, list[int]] = {}
        for call in workflow.calls:
            for parent in call.parent_indices:
                children.setdefault(parent, []).append(call.call_index)
        for parent, indices in children.items():
            self.children[parent] = indices


class Driver:
    """Plays workflows on an engine; ``on_call_end`` and ``on_workflow_end`` see what has ended."""

    def __init__(
        self,
        env: simpy.Environment,
        engine: Engine,
        table: PathTable,
        unknown_gap_s: float,
        client: Client,
        on_call_end: Callable[[Request], None],
        on_workflow_end: Callable[[LiveWorkflow], None],
    ) -> None:
        self.live: dict[str, LiveWorkflow] = {}
        self._env = env
        self._engine = engine
        self._table = table
        self._unknown_gap_s = unknown_gap_s
        self._client = client
        self._on_call_end = on_call_end
        self._on_workflow_end = on_workflow_end
        self._next: Callable[[], None] = _nothing
        engine.on_end = self._end_call

    def closed_loop(self, workflows: Iterator[tuple[int, Workflow]], concurrency: int) -> None:
        """Run all of ``workflows`` (namespace, workflow), at most ``concurrency`` at a time."""

        def release_next() -> None:
            if (following := next(workflows, None)) is not None:
                self._release(*following)

        self._next = release_next
        for namespace, workflow in islice(workflows, concurrency):
            self._release(namespace, workflow)
        self._run()

    def open_loop(self, workflows: Iterator[tuple[int, Workflow]]) -> None:
        """Run all of ``workflows``, which come in order of arrival, each from its arrival on."""
        self._env.process(self._arrivals(workflows))
        self._run()

    def _run(self) -> None:
        self._env.run()
        if self.live:
            raise InvariantError(f"{len(self.live)} workflows never ended, {next(iter(self.live))} the first")

    def _arrivals(self, workflows: Iterator[tuple[int, Workflow]]) -> Generator[Event, None, None]:
        for namespace, workflow in workflows:
            wait_s = (workflow.arrival_s or 0.0) - self._env.now
            if wait_s > 0:
                yield self._env.timeout(wait_s)
            self._release(namespace, workflow)

    def _release(self, namespace: int, workflow: Workflow) -> None:
        live = LiveWorkflow(workflow, self._client.describe(workflow), namespace, self._env.now)
        self.live[workflow.workflow_id] = live
        for call in workflow.calls:
            if not call.parent_indices:
                self._submit_when_due(live, call)

    def _submit_when_due(self, live: LiveWorkflow, call: Call) -> None:
        gap_s = self._unknown_gap_s if call.tool_gap_s is None else call.tool_gap_s
        if gap_s <= 0:
            self._submit(live, call)
        else:
            due = self._env.timeout(gap_s)
            due.callbacks.append(lambda _: self._submit(live, call))

    def _submit(self, live: LiveWorkflow, call: Call) -> None:
        path = self._table.path(call.segment_ids, call.segment_tokens, live.namespace)
        self._engine.submit(Request(live.workflow, call, path, self._env.now, live.described))

    def _end_call(self, request: Request) -> None:
        self._on_call_end(request)
        live = self.live[request.workflow.workflow_id]
        live.num_left -= 1
        for index in live.children[request.call.call_index]:
            live.num_awaited[index] -= 1
            if not live.num_awaited[index]:
                self._submit_when_due(live, live.workflow.calls[index])
        if not live.num_left:
            del self.live[request.workflow.workflow_id]
            self._say_end(live)
            self._on_workflow_end(live)
            self._next()

    def _say_end(self, live: LiveWorkflow) -> None:
        """The client's end message, if and when it comes."""
        delay_s, manager = self._client.end_delay_s(live.workflow), self._engine.manager
        if delay_s == 0:
            manager.workflow_ended(live.described, self._env.now)
        elif delay_s is not None:
            said = self._env.timeout(delay_s)
            said.callbacks.append(lambda _: manager.workflow_ended(live.described, self._env.now))


def _nothing() -> None:
    """Open loop: the end of a workflow releases no other."""
