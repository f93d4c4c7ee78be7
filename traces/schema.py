"""The canonical trace: one Parquet file, one row a call.

A trace says what a workload asks of the cache and never what an engine made of it. Rows of one
workflow are contiguous and in start order, so that a file larger than memory streams by row groups.

workflow_id        string                 one user task; unique in the file, its rows contiguous
app                string                 the application that the workflow belongs to
call_index         int32                  0, 1, … within the workflow, in start order
agent              string                 the role that makes the call
parent_indices     list<int32>            calls of the workflow that must end first, all below call_index
arrival_s          float64, nullable      the *workflow's* arrival, the same in all its rows (open loop)
tool_gap_s         float64, nullable      from the end of the last parent to this call; null = unknown
tool_gap_origin    string, nullable       where the gap comes from: logged, generated, rebuilt
segments           list<struct<id int64, num_tokens int32, kind string>>      the prompt, in order
num_output_tokens  int32                  tokens generated, the end token included
output_id          int64, nullable        the segment id of the answer in a later prompt that contains it
context            list<float>, nullable  what a predictor may know of the request (paper §4.1: x)
new_texts          list<struct<id int64, text string>>, nullable      see below; most files do not have it

Two prompts share exactly their leading run of equal segment ids; an id has one length in a file.
Ids mean nothing outside their file.

``new_texts`` is there where text was asked for: what those segments say that no call before in the workflow
has, as far as the log tells. In order, the segments' texts are the prompt's. The digest leaves it out.

The file's metadata holds, under ``pbkv``, a JSON object:
schema_version, source, licence, generator, seed, digest, num_workflows, num_calls, and whatever the
importer adds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa

SCHEMA_VERSION = 1
METADATA_KEY = b"pbkv"
KINDS = ("system", "tools", "context", "history", "tool", "user", "output")
GAP_ORIGINS = ("logged", "generated", "rebuilt")

SEGMENT = pa.struct([("id", pa.int64()), ("num_tokens", pa.int32()), ("kind", pa.string())])
SCHEMA = pa.schema(
    [
        pa.field("workflow_id", pa.string(), nullable=False),
        pa.field("app", pa.string(), nullable=False),
        pa.field("call_index", pa.int32(), nullable=False),
        pa.field("agent", pa.string(), nullable=False),
        pa.field("parent_indices", pa.list_(pa.int32()), nullable=False),
        pa.field("arrival_s", pa.float64()),
        pa.field("tool_gap_s", pa.float64()),
        pa.field("tool_gap_origin", pa.string()),
        pa.field("segments", pa.list_(SEGMENT), nullable=False),
        pa.field("num_output_tokens", pa.int32(), nullable=False),
        pa.field("output_id", pa.int64()),
        pa.field("context", pa.list_(pa.float32())),
    ]
)

NEW_TEXTS = pa.field("new_texts", pa.list_(pa.struct([("id", pa.int64()), ("text", pa.string())])))
TEXT_STORED, TEXT_LEFT_OUT = "stored", "not stored"
_FED_AT_ONCE = 1 << 15  # values to a digest


class Call(NamedTuple):
    """One LLM invocation, immutable. (A NamedTuple and not a dataclass: built 6× faster by the reader.)

    ``segment_ids[i]`` has ``segment_tokens[i]`` tokens and, where kinds were read, ``segment_kinds[i]``.
    """

    call_index: int
    agent: str
    parent_indices: Sequence[int]
    tool_gap_s: float | None
    segment_ids: Sequence[int]
    segment_tokens: Sequence[int]
    num_output_tokens: int
    output_id: int | None = None
    segment_kinds: Sequence[str] | None = None
    tool_gap_origin: str | None = None
    context: Sequence[float] | None = None
    new_texts: Sequence[tuple[int, str]] | None = None

    @property
    def num_prompt_tokens(self) -> int:
        return sum(self.segment_tokens)

    @property
    def num_held_tokens(self) -> int:
        """Tokens with keys and values at its end: those of the last generated one are never computed."""
        return self.num_prompt_tokens + max(self.num_output_tokens - 1, 0)


@dataclass(frozen=True, slots=True)
class Workflow:
    """One user task: its calls in start order, each with parents of lower index."""

    workflow_id: str
    app: str
    arrival_s: float | None
    calls: Sequence[Call]


@dataclass(frozen=True, slots=True)
class TraceMetadata:
    """Where a trace comes from. ``digest`` and the two counts are filled in by the writer."""

    source: str
    licence: str = "unknown"
    generator: str = ""
    seed: int | None = None
    schema_version: int = SCHEMA_VERSION
    digest: str = ""
    num_workflows: int = 0
    num_calls: int = 0
    extra: Mapping[str, object] = field(default_factory=dict)

    @property
    def has_text(self) -> bool:
        """Whether the trace says what its segments say (`Call.new_texts`)."""
        return self.extra.get("text") == TEXT_STORED

    def to_dict(self) -> dict[str, object]:
        known = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "extra"}
        return {**known, **self.extra}

    def to_json(self) -> bytes:
        return json.dumps(self.to_dict(), sort_keys=True).encode()

    @classmethod
    def from_json(cls, text: bytes) -> TraceMetadata:
        raw = json.loads(text)
        known = {name: raw.pop(name) for name in list(raw) if name in cls.__dataclass_fields__}
        return cls(**known, extra=raw)


class Digest:
    """SHA-256 of a trace's content, column by column: independent of row groups and compression."""

    def __init__(self) -> None:
        self._leaves: dict[str, hashlib._Hash] = {}

    def update(self, batch: pa.RecordBatch) -> None:
        for name in SCHEMA.names:
            self._update(name, batch.column(name))

    def hexdigest(self) -> str:
        joined = "".join(name + self._ended(name) for name in sorted(self._leaves))
        return hashlib.sha256(joined.encode()).hexdigest()

    def _ended(self, name: str) -> str:
        hasher = self._leaves[name].copy()
        hasher.update(b"''")
        return hasher.hexdigest()

    def _update(self, name: str, array: pa.Array) -> None:
        if pa.types.is_list(array.type):
            self._feed(f"{name}.length", array.value_lengths())
            self._update(f"{name}.element", array.flatten())
        elif pa.types.is_struct(array.type):
            for index in range(array.type.num_fields):
                child = array.type.field(index)
                self._update(f"{name}.{child.name}", array.field(index))
        else:
            self._feed(name, array)

    def _feed(self, name: str, leaf: pa.Array) -> None:
        hasher = self._leaves.setdefault(name, hashlib.sha256())
        for start in range(0, len(leaf), _FED_AT_ONCE):
            values = leaf.slice(start, _FED_AT_ONCE).to_pylist()
            hasher.update("".join(f"{value!r}\n" for value in values).encode())
