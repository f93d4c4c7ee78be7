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
from itertools import chain, groupby
from pathlib import Path
from sys import intern
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
        first = next(group)
        if workflow_id in seen:
            raise first.error("workflow_id", workflow_id, "the lines of a workflow together")
        seen.add(workflow_id)
        own = [_line(row, index, table) for index, row in enumerate(chain((first,), group))]
        yield _workflow(workflow_id, own)


class _SegmentTable:
    """Numbers text ids in the order they are first seen, and remembers how long each segment is."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._tokens: list[int] = []

    def number(self, text: str) -> int:
        number = self._numbers.setdefault(text, len(self._numbers))
        if number == len(self._tokens):
            self._tokens.append(0)
        return number

    def tokens(self, number: int, num_tokens: int) -> int:
        """The length that segment ``number`` has in this file: ``num_tokens`` if it had none yet."""
        self._tokens[number] = self._tokens[number] or num_tokens
        return self._tokens[number]


@dataclass(slots=True)
class _Line:
    """A line as it is needed until its workflow is whole: numbers and names are shared, not its own."""

    app: str
    call: Call
    starts_s: float | None
    lasts_s: float | None


def _line(row: Row, index: int, table: _SegmentTable) -> _Line:
    ids, tokens, kinds = _prompt(row, table)
    gap_s = row.number_or_none("gap_s")
    call = Call(
        call_index=index,
        agent=intern(row.text("agent")),
        parent_indices=_parents(row, index),
        tool_gap_s=gap_s,
        segment_ids=ids,
        segment_tokens=tokens,
        num_output_tokens=row.count("output_tokens"),
        output_id=_logged_answer(row, table),
        segment_kinds=kinds,
        tool_gap_origin=None if gap_s is None else "logged",
    )
    app, times = intern(row.text("app")), (row.number_or_none("arrival_s"), row.number_or_none("duration_s"))
    return _Line(app, call, *times)


def _workflow(workflow_id: str, own: Sequence[_Line]) -> Workflow:
    calls = [_with_gap(own, line.call) for line in own]
    first, *others = own
    is_arrival = bool(others) and all(line.starts_s is None for line in others)
    return Workflow(workflow_id, first.app, first.starts_s if is_arrival else None, _with_answers(calls))


def _with_gap(own: Sequence[_Line], call: Call) -> Call:
    """The call, an unknown gap as the time from the end of its last parent, if all times are known."""
    if call.tool_gap_s is not None:
        return call
    start_s = own[call.call_index].starts_s
    ends = [_end_s(own[parent]) for parent in call.parent_indices] or [own[0].starts_s]
    known = [end for end in ends if end is not None]
    if start_s is None or len(known) < len(ends) or start_s < max(known):
        return call
    return call._replace(tool_gap_s=start_s - max(known), tool_gap_origin="rebuilt")


def _end_s(line: _Line) -> float | None:
    return None if line.starts_s is None or line.lasts_s is None else line.starts_s + line.lasts_s


def _prompt(row: Row, table: _SegmentTable) -> tuple[list[int], list[int], list[str]]:
    """Ids, lengths and kinds of a line's segments."""
    items = row.items("segments")
    if not items:
        raise row.error("segments", items, "at least one segment")
    ids: list[int] = []
    tokens: list[int] = []
    kinds: list[str] = []
    for position, item in enumerate(items):
        text, num_tokens, kind = _checked(row, f"segments[{position}]", item)
        number = table.number(text)
        known = table.tokens(number, num_tokens)
        if known != num_tokens:
            field = f"segments[{position}].tokens"
            raise row.error(field, num_tokens, f"{known}, the length that id {text!r} had before")
        ids.append(number)
        tokens.append(known)
        kinds.append(kind)
    return ids, tokens, kinds


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
    if not isinstance(kind, str) or kind not in KINDS:
        raise row.error(f"{where}.kind", kind, "one of " + ", ".join(KINDS))
    return text, num_tokens, intern(kind)


def _parents(row: Row, index: int) -> tuple[int, ...]:
    if row.count("call_index") != index:
        raise row.error("call_index", row.values["call_index"], f"{index} (0, 1, … in start order)")
    parents = row.items("parent_call_indices")
    for parent in parents:
        if type(parent) is not int or not 0 <= parent < index:
            expected = f"a call of the workflow below {index} (parents start first: no cycles)"
            raise row.error("parent_call_indices", parent, expected)
    return tuple(parents)


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
