"""The agent JSONL format: one call a line, segments under text ids, workflows together.

A gap is the logged ``gap_s``; where that is null but the times of the call and of all its parents are
logged, their difference (rebuilt; for a root, the time since the workflow's first call). ``arrival_s``
counts from the workflow's own start and so says nothing of when the workflow arrived, with one
exception: where only the first call of a workflow has it, it is the workflow's arrival.

An answer without an id gets that of its own segment in the next prompt, if there is no doubt: the call
after it goes on with the whole prompt and then a segment of kind output with exactly the answer's length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from pbkv.traces.importers.lines import MAX_TOKENS, Row, is_object_with, rows
from pbkv.traces.schema import KINDS, Call, TraceMetadata, Workflow

NAME = "agent-jsonl"


def recognises(line: str) -> bool:
    return is_object_with(line, "workflow_id", "call_index", "segments")


def read(path: Path) -> tuple[Iterator[Workflow], TraceMetadata]:
    """The workflows, streamed (memory: the distinct segment ids), and where they come from."""
    extra = {"format": NAME, "output_ids": "logged, else from the next prompt"}
    return _workflows(path), TraceMetadata(path.name, generator="pbkv traces import", extra=extra)


def _workflows(path: Path) -> Iterator[Workflow]:
    table = _SegmentTable()
    seen: set[str] = set()
    for workflow_id, group in groupby(rows(path), key=lambda row: row.text("workflow_id")):
        own = list(group)
        if workflow_id in seen:
            raise own[0].error("workflow_id", workflow_id, "the lines of a workflow together")
        seen.add(workflow_id)
        yield _workflow(workflow_id, own, table)


def _workflow(workflow_id: str, own: Sequence[Row], table: _SegmentTable) -> Workflow:
    prompts = [_prompt(row, table) for row in own]
    parents = [_parents(row, index, len(own)) for index, row in enumerate(own)]
    clock = _Clock(own)
    calls = []
    for index, row in enumerate(own):
        gap_s, origin = clock.gap(index, parents[index])
        call = Call(
            call_index=index,
            agent=row.text("agent"),
            parent_indices=parents[index],
            tool_gap_s=gap_s,
            segment_ids=prompts[index].ids,
            segment_tokens=prompts[index].tokens,
            num_output_tokens=row.count("output_tokens"),
            output_id=_logged_answer(row, table),
            segment_kinds=prompts[index].kinds,
            tool_gap_origin=origin,
        )
        calls.append(call)
    return Workflow(workflow_id, own[0].text("app"), clock.arrival_s, _with_answers(calls))


class _SegmentTable:
    """Numbers text ids in the order they are first seen, and remembers how long each segment is."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._tokens: dict[int, int] = {}

    def number(self, text: str) -> int:
        return self._numbers.setdefault(text, len(self._numbers))

    def tokens(self, number: int, num_tokens: int) -> int:
        """The length that segment ``number`` has in this file: ``num_tokens`` if it is new."""
        return self._tokens.setdefault(number, num_tokens)


@dataclass(slots=True)
class _Prompt:
    ids: list[int]
    tokens: list[int]
    kinds: list[str]


def _prompt(row: Row, table: _SegmentTable) -> _Prompt:
    items = row.items("segments")
    if not items:
        raise row.error("segments", items, "at least one segment")
    prompt = _Prompt([], [], [])
    for position, item in enumerate(items):
        text, num_tokens, kind = _checked(row, f"segments[{position}]", item)
        number = table.number(text)
        known = table.tokens(number, num_tokens)
        if known != num_tokens:
            field = f"segments[{position}].tokens"
            raise row.error(field, num_tokens, f"{known}, the length that id {text!r} had before")
        prompt.ids.append(number)
        prompt.tokens.append(num_tokens)
        prompt.kinds.append(kind)
    return prompt


def _checked(row: Row, where: str, item: Any) -> tuple[str, int, str]:
    """Id, tokens and kind of one segment."""
    try:
        text, num_tokens, kind = item["id"], item["tokens"], item["kind"]
    except (KeyError, TypeError):
        raise row.error(where, item, "an object with id, tokens and kind") from None
    if not isinstance(text, str):
        raise row.error(f"{where}.id", text, "a text")
    if type(num_tokens) is not int or not 1 <= num_tokens <= MAX_TOKENS:
        raise row.error(f"{where}.tokens", num_tokens, "a whole number ≥ 1")
    if kind not in KINDS:
        raise row.error(f"{where}.kind", kind, "one of " + ", ".join(KINDS))
    return text, num_tokens, kind


def _parents(row: Row, index: int, num_calls: int) -> tuple[int, ...]:
    if row.count("call_index") != index:
        raise row.error("call_index", row.values["call_index"], f"{index} (0, 1, … in start order)")
    parents = row.items("parent_call_indices")
    for parent in parents:
        if type(parent) is not int or not 0 <= parent < num_calls:
            raise row.error("parent_call_indices", parent, f"a call of the workflow, 0 to {num_calls - 1}")
        if parent >= index:
            expected = f"a call below {index} (parents start first: no cycles)"
            raise row.error("parent_call_indices", parent, expected)
    return tuple(parents)


class _Clock:
    """The logged times of one workflow."""

    def __init__(self, own: Sequence[Row]) -> None:
        self._rows = own
        self._starts = [row.number_or_none("arrival_s") for row in own]
        self._durations = [row.number_or_none("duration_s") for row in own]

    @property
    def arrival_s(self) -> float | None:
        first, *others = self._starts
        return first if others and not any(start is not None for start in others) else None

    def gap(self, index: int, parents: Sequence[int]) -> tuple[float | None, str | None]:
        """Seconds from the end of the last parent to call ``index``, and their origin."""
        logged = self._rows[index].number_or_none("gap_s")
        if logged is not None:
            return logged, "logged"
        start = self._starts[index]
        ends = [self._end(parent) for parent in parents] or [self._starts[0]]
        known = [end for end in ends if end is not None]
        if start is None or len(known) < len(ends) or start < max(known):
            return None, None
        return start - max(known), "rebuilt"

    def _end(self, index: int) -> float | None:
        start, duration = self._starts[index], self._durations[index]
        return None if start is None or duration is None else start + duration


def _logged_answer(row: Row, table: _SegmentTable) -> int | None:
    if row.values.get("output_id") is None:
        return None
    return table.number(row.text("output_id"))


def _with_answers(calls: Sequence[Call]) -> list[Call]:
    """The calls, those without an output id with the one that the next prompt shows."""
    followers: dict[int, Call] = {}
    for call in calls:
        if len(call.parent_indices) == 1:
            followers.setdefault(call.parent_indices[0], call)
    return [
        _with_answer(call, followers[call.call_index])
        if call.output_id is None and call.call_index in followers
        else call
        for call in calls
    ]


def _with_answer(call: Call, follower: Call) -> Call:
    end = len(call.segment_ids)
    kinds = follower.segment_kinds or ()
    goes_on = len(follower.segment_ids) > end and follower.segment_ids[:end] == call.segment_ids
    if goes_on and kinds[end] == "output" and follower.segment_tokens[end] == call.num_output_tokens:
        return call._replace(output_id=follower.segment_ids[end])
    return call
