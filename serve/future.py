"""What a simulation knows and an engine does not: the calls to come, and what a miss will cost.

For the bounds among the policies alone (`pbkv.cache.named.ORACLES`): it takes a pass over the traces.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pbkv.cache.config import WriteMode
from pbkv.cache.known import CallUses, Code, Itinerary, Known, Uses, WorkflowUses, use_code
from pbkv.cache.named import ORACLES
from pbkv.serve.workload import workflows_of

if TYPE_CHECKING:
    from pbkv.cache.blocks import BlockPath, PathTable
    from pbkv.serve.settings import Cell, RunSettings
    from pbkv.traces.reader import Trace
    from pbkv.traces.schema import Call, Workflow


def known_of(traces: Sequence[Trace], settings: RunSettings, cell: Cell, table: PathTable) -> Known:
    """What the policy of ``cell`` may know beyond what clients say; the future only if it asks for it."""
    uses = None
    if cell.policy in ORACLES:
        uses = uses_by_workflow(workflows_of(traces, settings, cell), table, settings.unknown_gap_s)
    copies = settings.write_mode in (WriteMode.WRITE_BACK, WriteMode.EXCLUSIVE) and cell.host_blocks > 0
    return Known(uses, settings.profile.miss_costs, settings.whole_nodes, settings.block_size, copies)


def uses_by_call(calls: Iterable[Call], table: PathTable) -> CallUses:
    """Which of ``calls``, by number, look each run up."""
    uses = Uses()
    for number, call in enumerate(calls):
        _add_lookup(uses, table.path(call.segment_ids, call.segment_tokens), number)
    return CallUses(uses)


def uses_by_workflow(
    workflows: Iterable[tuple[int, Workflow]], table: PathTable, unknown_gap_s: float
) -> WorkflowUses:
    """Which calls of ``workflows`` (namespace, workflow; in order of release) look each run up."""
    uses, itineraries, ordinals = Uses(), list[Itinerary](), dict[str, int]()
    for ordinal, (namespace, workflow) in enumerate(workflows):
        ordinals[workflow.workflow_id] = ordinal
        itineraries.append(_itinerary(workflow, unknown_gap_s))
        for call in workflow.calls:
            path = table.path(call.segment_ids, call.segment_tokens, namespace)
            _add_lookup(uses, path, use_code(ordinal, call.call_index))
    return WorkflowUses(uses, itineraries, ordinals)


def _add_lookup(uses: Uses, path: BlockPath, code: Code) -> None:
    """Note where the prompt can have a hit: the block of its last token cannot."""
    limit, start = path.hit_limit, 0
    for key, end in zip(path.keys, path.ends, strict=True):
        if start < limit:
            uses.add(key, min(end, limit), code)
        start = end


def _itinerary(workflow: Workflow, unknown_gap_s: float) -> Itinerary:
    depths, waits_s = list[int](), list[float]()
    for call in workflow.calls:
        depth, wait_s = max(((depths[i] + 1, waits_s[i]) for i in call.parent_indices), default=(0, 0.0))
        depths.append(depth)
        waits_s.append(wait_s + (unknown_gap_s if call.tool_gap_s is None else call.tool_gap_s))
    return Itinerary(depths, waits_s)
