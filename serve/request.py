"""A call's run-time state in the simulated engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pbkv.cache.blocks import BlockPath
    from pbkv.cache.decisions import Admission, Lease, Misses
    from pbkv.traces.schema import Call, Workflow


class Request:
    """One call on its way through the engine. Times are seconds since the run's start."""

    __slots__ = (
        "admission",
        "admitted_at_s",
        "call",
        "described",
        "ended_at_s",
        "finish_at",
        "first_token_at_s",
        "lease",
        "misses",
        "num_computed",
        "num_generated",
        "num_loads",
        "num_preemptions",
        "num_prompt_tokens",
        "num_recomputed",
        "num_target",
        "path",
        "ready_at_s",
        "residue",
        "submitted_at_s",
        "workflow",
    )

    admission: Admission  # its first one: a preempted request's recomputation is counted apart
    misses: Misses
    lease: Lease

    def __init__(
        self,
        workflow: Workflow,
        call: Call,
        path: BlockPath,
        submitted_at_s: float,
        described: Workflow | None = None,
    ) -> None:
        self.workflow = workflow
        self.call = call
        self.described = workflow if described is None else described  # as the client tells it
        self.path = path
        self.num_prompt_tokens = path.num_tokens
        self.submitted_at_s = submitted_at_s
        self.admitted_at_s = self.ready_at_s = self.first_token_at_s = self.ended_at_s = 0.0
        self.num_target = path.num_tokens  # tokens whose keys and values the prefill must leave behind
        self.num_computed = 0  # … and those that are there already
        self.num_generated = 0
        self.num_loads = 0  # copies that it still waits for
        self.num_preemptions = 0
        self.num_recomputed = 0
        self.finish_at = 0  # the engine's decode iteration at whose end the last token is out
        self.residue = 0  # it takes a new block in decode iterations ≡ residue (mod block size)

    @property
    def position(self) -> int:
        """The call's index in its workflow."""
        return self.call.call_index

    @property
    def agent(self) -> str:
        """Who makes the call, as the client tells it."""
        return self.described.calls[self.call.call_index].agent

    @property
    def num_held_tokens(self) -> int:
        """Tokens with space on the GPU: the prompt, and each generated token but the newest."""
        return self.num_prompt_tokens + max(self.num_generated - 1, 0)
