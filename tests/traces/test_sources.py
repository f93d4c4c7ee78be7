"""A trace opens whatever its format; a canonical one can be labelled and rewritten."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pbkv.traces import importers
from pbkv.traces.errors import TraceError
from pbkv.traces.generate import generate_workload, workload_metadata
from pbkv.traces.reader import Trace
from pbkv.traces.schema import METADATA_KEY, Call, TraceMetadata, Workflow
from pbkv.traces.sources import open_trace
from pbkv.traces.validate import validate
from pbkv.traces.writer import write_trace

ROW = {"timestamp": 0, "input_length": 512, "output_length": 3, "hash_ids": [1]}


@pytest.fixture
def hover(tmp_path: Path) -> Path:
    path = tmp_path / "hover.parquet"
    write_trace(path, generate_workload("hover", 5, 0), workload_metadata("hover", 5, 0))
    return path


def test_a_canonical_trace_opens_as_it_is(hover: Path) -> None:
    with open_trace(hover) as trace:
        assert trace.path == hover


def test_another_format_opens_through_a_temporary_file_that_goes_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, scratch = tmp_path / "requests", tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    path.write_text(f"{json.dumps(ROW)}\n" * 2 + json.dumps(ROW | {"input_length": 1024, "hash_ids": [1, 2]}))
    with open_trace(path) as trace:
        assert list(scratch.iterdir())
        assert trace.path == path  # what errors and run.json name
        assert [len(workflow.calls) for workflow in trace.workflows()] == [1, 1, 1]
        assert trace.metadata.source == "requests"
    assert not list(scratch.iterdir())


def test_an_arrival_log_is_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "azure.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n")
    with pytest.raises(TraceError, match="--arrivals"), open_trace(path):
        pass


def test_rewriting_a_canonical_trace_keeps_all_of_it(hover: Path, tmp_path: Path) -> None:
    again = write_trace(tmp_path / "again.parquet", *importers.read(hover))
    assert again == Trace(hover).metadata


def test_a_parquet_file_with_our_columns_gets_metadata(hover: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.parquet"
    pq.write_table(pq.read_table(hover).replace_schema_metadata({}), bare)
    written = write_trace(tmp_path / "labelled.parquet", *importers.read(bare))
    assert written.digest == Trace(hover).metadata.digest
    assert written.source == "bare.parquet"


def test_a_parquet_file_without_our_columns_is_refused_by_its_own_name(hover: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.parquet"
    pq.write_table(pq.read_table(hover).drop_columns(["agent"]).replace_schema_metadata({}), bare)
    workflows, _ = importers.read(bare)
    with pytest.raises(TraceError, match=r"bare\.parquet: columns"):
        list(workflows)


def test_another_schema_version_is_refused(hover: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.parquet"
    metadata = replace(Trace(hover).metadata, schema_version=99)
    pq.write_table(pq.read_table(hover).replace_schema_metadata({METADATA_KEY: metadata.to_json()}), other)
    with pytest.raises(TraceError, match="schema_version"):
        importers.read(other)


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(TraceError, match="a Parquet file"):
        importers.read(path)


def test_a_trace_in_order_is_counted(hover: Path) -> None:
    counts = validate(Trace(hover))
    assert counts.num_workflows == 5
    assert counts.num_calls == Trace(hover).num_calls


def _call(**changes: object) -> Call:
    return Call(
        0, "a", (), 0.0, (1, 2), (5, 6), 3, segment_kinds=("system", "tool"), tool_gap_origin="logged"
    )._replace(
        **changes  # type: ignore[arg-type]  # each test names a field
    )


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"segment_ids": (1, 1)}, "segments.num_tokens"),
        ({"segment_kinds": ("system", "poem")}, "segments.kind"),
        ({"tool_gap_origin": None}, "tool_gap_origin"),
    ],
)
def test_validation_finds_what_the_reader_does_not_look_for(
    tmp_path: Path, changes: dict[str, object], field: str
) -> None:
    path = tmp_path / "t.parquet"
    write_trace(path, [Workflow("w", "demo", None, [_call(**changes)])], TraceMetadata("test"))
    with pytest.raises(TraceError) as caught:
        validate(Trace(path))
    assert caught.value.field == f"{field} of workflow 'w', call 0"


def test_metadata_that_count_other_rows_are_refused(hover: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.parquet"
    metadata = replace(Trace(hover).metadata, num_calls=1)
    pq.write_table(pq.read_table(hover).replace_schema_metadata({METADATA_KEY: metadata.to_json()}), other)
    with pytest.raises(TraceError, match=r"metadata\.num_calls"):
        validate(Trace(other))
