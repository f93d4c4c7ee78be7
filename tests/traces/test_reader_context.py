"""Reading what predictors need, and no more: contexts as views, kinds, agents."""

from __future__ import annotations

from pathlib import Path

from pbkv.traces.reader import Trace
from pbkv.traces.schema import Call, TraceMetadata, Workflow
from pbkv.traces.writer import write_trace


def trace_of(path: Path, contexts: list[list[float] | None]) -> Trace:
    calls = [
        Call(i, f"a{i % 3}", (), None, (1,), (1,), 1, segment_kinds=("tool",), context=x)
        for i, x in enumerate(contexts)
    ]
    write_trace(path, [Workflow("w", "app", None, calls)], TraceMetadata("test"))
    return Trace(path)


def test_contexts_are_those_that_were_written(tmp_path: Path) -> None:
    contexts = [[0.5, -1.0], None, [2.0, 3.0], None]
    trace = trace_of(tmp_path / "t.parquet", contexts)
    (workflow,) = trace.workflows(with_context=True)
    assert [c.context if c.context is None else list(c.context) for c in workflow.calls] == contexts
    assert [c.segment_kinds for c in workflow.calls] == [["tool"]] * 4
    assert trace.num_context_dims() == 2


def test_a_trace_without_contexts_has_none(tmp_path: Path) -> None:
    trace = trace_of(tmp_path / "t.parquet", [None] * 5)
    (workflow,) = trace.workflows(with_context=True)
    assert [call.context for call in workflow.calls] == [None] * 5
    assert trace.num_context_dims() is None
    assert trace.agents() == {"a0", "a1", "a2"}


def test_a_plain_read_brings_neither(tmp_path: Path) -> None:
    (workflow,) = trace_of(tmp_path / "t.parquet", [[1.0]]).workflows()
    assert workflow.calls[0].context is None
    assert workflow.calls[0].segment_kinds is None
