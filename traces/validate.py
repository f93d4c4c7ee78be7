"""Reads a whole trace and checks what only the whole shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pbkv.traces.errors import TraceError
from pbkv.traces.reader import Trace
from pbkv.traces.schema import GAP_ORIGINS, KINDS, Call, Workflow


@dataclass(frozen=True, slots=True)
class Counts:
    """What a trace that is in order holds."""

    num_workflows: int
    num_calls: int
    num_segments: int  # distinct
    num_prompt_tokens: int
    num_output_tokens: int


def validate(trace: Trace) -> Counts:
    """Read all of ``trace``. Memory: its distinct segment ids.

    Raises TraceError for what the reader refuses, an id with two lengths, an unknown kind or gap origin,
    a gap without origin, and counts that the metadata contradict.
    """
    tokens: dict[int, int] = {}
    num_workflows = num_calls = num_prompt_tokens = num_output_tokens = 0
    for workflow in trace.workflows(everything=True):
        num_workflows += 1
        for call in workflow.calls:
            _check_call(trace, workflow, call, tokens)
            num_calls += 1
            num_prompt_tokens += call.num_prompt_tokens
            num_output_tokens += call.num_output_tokens
    _check_count(trace, "num_workflows", trace.metadata.num_workflows, num_workflows)
    _check_count(trace, "num_calls", trace.metadata.num_calls, num_calls)
    return Counts(num_workflows, num_calls, len(tokens), num_prompt_tokens, num_output_tokens)


def _check_call(trace: Trace, workflow: Workflow, call: Call, tokens: dict[int, int]) -> None:
    for field, value, expected in _problems(call, tokens):
        where = f"{field} of workflow {workflow.workflow_id!r}, call {call.call_index}"
        raise TraceError(trace.path, where, value, expected)


def _problems(call: Call, tokens: dict[int, int]) -> Iterator[tuple[str, object, str]]:
    """(field, value, what was expected) of each thing wrong; notes the lengths of new ids in ``tokens``."""
    for segment_id, num_tokens in zip(call.segment_ids, call.segment_tokens, strict=True):
        known = tokens.setdefault(segment_id, num_tokens)
        if known != num_tokens:
            yield "segments.num_tokens", num_tokens, f"{known}, the length that id {segment_id} had before"
    for kind in set(call.segment_kinds or ()).difference(KINDS):
        yield "segments.kind", kind, "one of " + ", ".join(KINDS)
    if call.tool_gap_s is not None and call.tool_gap_origin not in GAP_ORIGINS:
        yield "tool_gap_origin", call.tool_gap_origin, "one of " + ", ".join(GAP_ORIGINS)


def _check_count(trace: Trace, name: str, said: int, found: int) -> None:
    if said not in (0, found):  # 0: written by another tool, which did not count
        raise TraceError(trace.path, f"metadata.{name}", said, f"{found}, as many as there are")
