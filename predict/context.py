"""What a call shows of its workflow before it is answered, as a vector x for the network (paper §4.1).

column   the trace's own vector of the call (`Call.context`: there the model's hidden state). A call
         without one gets None, which the network reads as the mean of what it was trained on.
hash     features of the prompt, hashed: for traces without vectors and without text (see `HASH_DIMS`).
none     nothing: vectors of length 0.

All of it is known when the prompt is there: no vector depends on the call's own answer or on later calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from pbkv.traces.errors import ConfigError, TraceError

if TYPE_CHECKING:
    from pbkv.traces.schema import Call, Workflow

Vectors = np.ndarray[Any, np.dtype[np.float32]]
Numbers = np.ndarray[Any, Any]
_Name = tuple[str | int, ...]

KINDS = ("column", "hash", "none")

NUM_AMOUNTS = 8  # the logarithms of `_amounts`, one dimension each
NUM_BUCKETS = 120  # the names of `_names`, each hashed to one of these and a sign
HASH_DIMS = NUM_AMOUNTS + NUM_BUCKETS
_NUM_LAST = 4  # segments at a prompt's end that are looked at, and parents' answers
_SHORT_TOKENS = 64  # a last segment below it is named with its exact length: tools repeat short answers
_MOST_PLACES = 65_536  # names remembered with their places


def check_kind(kind: str) -> None:
    """Raises ConfigError for what is not in `KINDS`."""
    if kind not in KINDS:
        raise ConfigError("context", kind, "one of " + ", ".join(KINDS))


def context_vectors(kind: str, num_dims: int, workflow: Workflow, where: object = "trace") -> Vectors:
    """The vector of each call, shape [T, num_dims]; a missing one is a row of NaN.

    ``where`` names the trace in the TraceError for a vector of another length.
    """
    if kind == "hash":
        return _hashed(workflow)
    vectors = np.full((len(workflow.calls), num_dims), np.nan, np.float32)
    if kind == "column":
        for row, call in zip(vectors, workflow.calls, strict=True):
            if call.context is not None:
                _check_length(where, workflow, call, num_dims)
                row[:] = call.context
    return vectors


def num_dims_of(kind: str, workflows: Sequence[Workflow]) -> int:
    """How long the vectors of ``kind`` are in these workflows; 0 where none has one."""
    if kind == "hash":
        return HASH_DIMS
    if kind == "column":
        for workflow in workflows:
            for call in workflow.calls:
                if call.context is not None:
                    return len(call.context)
    return 0


def _check_length(where: object, workflow: Workflow, call: Call, num_dims: int) -> None:
    if call.context is not None and len(call.context) != num_dims:
        field = f"context of workflow {workflow.workflow_id!r}, call {call.call_index}"
        raise TraceError(where, field, f"{len(call.context)} values", f"{num_dims}")


def _hashed(workflow: Workflow) -> Vectors:
    """Amounts, and signed counts of hashed names. The same for the same calls, on any machine."""
    amounts: list[list[float]] = []
    places: list[int] = []
    lengths: list[int] = []
    earlier: dict[str, int] = {}  # the last position of each agent
    turns: dict[str, int] = {}
    for position, call in enumerate(workflow.calls):
        parents = [workflow.calls[index] for index in call.parent_indices]
        num_tokens, turn = call.num_prompt_tokens, turns.get(call.agent, 0)
        since = position - earlier.get(call.agent, -1)
        amounts.append(_amounts(call, parents, num_tokens, position, turn, since))
        found = [_places.get(name) or _place(name) for name in _names(call, parents, num_tokens)]
        places += found
        lengths.append(len(found))
        earlier[call.agent], turns[call.agent] = position, turn + 1
    return _vectors(np.array(amounts), np.array(places), np.array(lengths))


def _vectors(amounts: Numbers, places: Numbers, lengths: Numbers) -> Vectors:
    """``places``: of all calls in a row, ``lengths`` of them each."""
    num_calls = len(amounts)
    cells = np.repeat(np.arange(num_calls) * HASH_DIMS, lengths) + (places >> 1)
    counts = np.bincount(cells, 1.0 - 2.0 * (places & 1), num_calls * HASH_DIMS)
    vectors = counts.reshape(num_calls, HASH_DIMS).astype(np.float32)
    vectors[:, :NUM_AMOUNTS] = np.log1p(amounts)
    return vectors


def _amounts(
    call: Call, parents: Sequence[Call], num_tokens: int, position: int, turn: int, since: int
) -> list[float]:
    return [
        num_tokens,
        len(call.segment_ids),
        call.segment_tokens[-1],
        position,
        turn,
        since,
        sum([parent.num_output_tokens for parent in parents]),
        call.tool_gap_s or 0.0,
    ]


def _names(call: Call, parents: Sequence[Call], num_tokens: int) -> list[_Name]:
    """What is named of a call: its first segment's size, its last segments, what its parents said."""
    kinds, tokens, gap_s = call.segment_kinds, call.segment_tokens, call.tool_gap_s
    names: list[_Name] = [
        ("first", tokens[0]),
        ("prompt", num_tokens.bit_length()),
        ("gap", "unknown" if gap_s is None else int(gap_s * 1000).bit_length()),
        ("parents", len(parents)),
    ]
    for back in range(1, min(_NUM_LAST, len(tokens)) + 1):
        kind = kinds[-back] if kinds is not None else ""
        names += (("last", back, kind), ("last", back, kind, tokens[-back].bit_length()))
    if tokens[-1] < _SHORT_TOKENS:
        names.append(("exactly", tokens[-1]))
    for parent in parents[:_NUM_LAST]:
        names.append(("said", parent.agent, parent.num_output_tokens.bit_length()))
    return names


_places: dict[_Name, int] = {}


def _place(name: _Name) -> int:
    """2 · dimension + sign bit of a hashed name; never 0, as the first dimensions are amounts."""
    number = crc32(repr(name).encode())
    place = 2 * (NUM_AMOUNTS + (number >> 1) % NUM_BUCKETS) + (number & 1)
    if len(_places) < _MOST_PLACES:
        _places[name] = place
    return place
