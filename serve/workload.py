"""The workload: which workflows of the traces are released, and in which order.

Closed loop: file order, several traces in turn. Open loop: order of arrival. Nothing is held in memory
but what must be sorted or shuffled.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from pbkv.cache.named import make_policy
from pbkv.predict.checks import check_trace
from pbkv.traces.errors import TraceError

if TYPE_CHECKING:
    from pbkv.serve.settings import Cell, RunSettings
    from pbkv.traces.reader import Trace
    from pbkv.traces.schema import Workflow


def check_predictors(traces: Sequence[Trace], settings: RunSettings) -> None:
    """Raise TraceError if a policy's predictor cannot say anything of a trace."""
    for name in settings.policies:
        predictor = make_policy(name, 0, settings.policy_options).predictor
        if predictor is not None:
            for trace in traces:
                check_trace(predictor, trace, reads_vectors=settings.shows_trace_vectors)


def check_fit(traces: Sequence[Trace], settings: RunSettings) -> None:
    """Raise TraceError for the longest call if it does not fit into the smallest GPU tier and must."""
    if settings.skip_too_long:
        return
    smallest = min(cell.gpu_blocks for cell in settings.cells())
    for trace in traces:
        workflow_id, call_index, num_tokens = trace.longest_call()
        if _num_blocks(num_tokens, settings.block_size) > smallest:
            raise TraceError(
                trace.path,
                f"workflow {workflow_id!r}, call {call_index}",
                f"{num_tokens} tokens",
                f"at most the GPU tier's {smallest * settings.block_size} "
                f"({smallest} blocks of {settings.block_size}; or --skip-too-long)",
            )


def workflows_of(
    traces: Sequence[Trace], settings: RunSettings, cell: Cell, with_context: bool = False
) -> Iterator[tuple[int, Workflow]]:
    """(namespace, workflow) in the order of release; a namespace is a trace.

    ``with_context``: with what a predictor may read besides agents.
    """
    is_open = cell.concurrency is None
    shuffled = settings.shuffle or len(settings.seeds) > 1
    streams = [
        _stream(
            trace,
            namespace if len(traces) > 1 else None,
            is_open,
            cell.seed if shuffled else None,
            with_context,
        )
        for namespace, trace in enumerate(traces)
    ]
    merged = heapq.merge(*streams, key=_arrival_s) if is_open else _in_turn(streams)
    if not settings.skip_too_long:
        return merged
    return (item for item in merged if _fits(item[1], cell.gpu_blocks, settings.block_size))


def _stream(
    trace: Trace, namespace: int | None, is_open: bool, shuffle_seed: int | None, with_context: bool
) -> Iterator[tuple[int, Workflow]]:
    """One trace's workflows, in memory only where they must be sorted or shuffled."""
    workflows = trace.workflows(with_context=with_context)
    in_order = not is_open or trace.is_in_arrival_order()
    if shuffle_seed is not None:
        workflows = iter(_shuffled(list(workflows), shuffle_seed))
    elif not in_order:
        workflows = iter(sorted(workflows, key=lambda workflow: workflow.arrival_s or 0.0))
    if namespace is None:
        return ((0, workflow) for workflow in workflows)
    return (
        (namespace, replace(workflow, workflow_id=f"{namespace}/{workflow.workflow_id}"))
        for workflow in workflows
    )


def _shuffled(workflows: list[Workflow], seed: int) -> list[Workflow]:
    """The workflows in random order; arrivals stay where they were, in rising order."""
    arrivals = sorted((workflow.arrival_s for workflow in workflows), key=lambda at_s: at_s or 0.0)
    random.Random(seed).shuffle(workflows)
    return [replace(workflow, arrival_s=at_s) for workflow, at_s in zip(workflows, arrivals, strict=True)]


def _in_turn(streams: Sequence[Iterator[tuple[int, Workflow]]]) -> Iterator[tuple[int, Workflow]]:
    """One workflow of each stream after the other, until all have ended."""
    left = list(streams)
    while left:
        for stream in list(left):
            with suppress(StopIteration):
                yield next(stream)
                continue
            left.remove(stream)


def _arrival_s(item: tuple[int, Workflow]) -> float:
    return item[1].arrival_s or 0.0


def _fits(workflow: Workflow, gpu_blocks: int, block_size: int) -> bool:
    return _num_blocks(max(call.num_held_tokens for call in workflow.calls), block_size) <= gpu_blocks


def _num_blocks(num_tokens: int, block_size: int) -> int:
    return -(-num_tokens // block_size)
