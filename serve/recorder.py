"""Turns what happens in a cell into rows of the run's tables (`pbkv.traces.records`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pbkv.serve.driver import LiveWorkflow
    from pbkv.serve.engine import Engine
    from pbkv.serve.request import Request
    from pbkv.traces.run_folder import RunFolder

_EVENTS_PER_DRAIN = 4096


class Recorder:
    """Facts only, in the order they happened; totals for run.json on the side."""

    def __init__(self, folder: RunFolder, engine: Engine) -> None:
        self.num_calls = 0
        self.num_workflows = 0
        self.last_end_s = 0.0
        self._folder = folder
        self._keeps_events = "cache_events" in folder.tables
        self._engine = engine
        self._num_hit_tokens = 0
        self._num_prompt_tokens = 0

    def end_call(self, request: Request) -> None:
        call, found, missed = request.call, request.admission, request.misses
        self.num_calls += 1
        self._num_hit_tokens += found.cached_tokens
        self._num_prompt_tokens += request.num_prompt_tokens
        self._folder.add(
            "calls",
            (
                request.workflow.workflow_id,
                request.workflow.app,
                call.call_index,
                call.agent,
                request.submitted_at_s,
                request.admitted_at_s,
                request.first_token_at_s,
                request.ended_at_s,
                request.ready_at_s - request.admitted_at_s,
                request.num_prompt_tokens,
                call.num_output_tokens,
                found.gpu_hit_tokens,
                found.host_hit_tokens,
                found.loading_tokens,
                missed.evicted_tokens,
                missed.partial_tokens,
                missed.cold_tokens,
                missed.evicted_by,
                missed.evicted_ago_s,
                request.num_preemptions,
                request.num_recomputed,
            ),
        )
        if len(self._engine.manager.tiers.events) >= _EVENTS_PER_DRAIN:
            self.drain_events()

    def end_workflow(self, live: LiveWorkflow) -> None:
        workflow = live.workflow
        self.num_workflows += 1
        ended_at_s = self.last_end_s = self._engine.env.now
        row = (workflow.workflow_id, workflow.app, live.released_at_s, ended_at_s, len(workflow.calls))
        self._folder.add("workflows", row)

    def close(self) -> None:
        """The cell has ended: its last sample and events."""
        self.sample(0)
        self.drain_events()

    def drain_events(self) -> None:
        """Move the manager's log into the table."""
        events = self._engine.manager.tiers.events
        if self._keeps_events:
            self._folder.extend("cache_events", events)
        events.clear()

    def sample(self, num_live: int) -> None:
        """One row of the engine's state, now, with ``num_live`` workflows released and not ended."""
        engine = self._engine
        manager, now_s = engine.manager, engine.env.now
        row = (
            now_s,
            engine.num_running,
            len(engine.waiting),
            num_live,
            manager.config.gpu_blocks - manager.tiers.free_blocks,
            manager.tree.gpu_blocks,
            manager.config.host_blocks - manager.tiers.free_host_blocks,
            engine.num_iterations,
            self._num_hit_tokens,
            self._num_prompt_tokens,
            *engine.copies.busy_s,
        )
        self._folder.add("occupancy", row)
