"""A run's folder opens, or says in one line why it does not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pbkv.analysis import load
from pbkv.traces.errors import TraceError
from pbkv.traces.records import TABLES

WriteRun = Callable[..., Path]


def test_tables_come_as_frames_with_the_columns_of_the_records(write_run: WriteRun) -> None:
    run = load(write_run([{"policy": "lru"}, {"policy": "lae", "concurrency": None, "open_loop": True}]))
    for name in ("calls", "workflows", "occupancy"):
        assert list(run.frame(name).columns) == TABLES[name].names
    assert len(run.workflows) == 24
    assert run.calls is run.calls
    assert [cell.setting.policy for cell in run.cells] == ["lru", "lae"]
    assert run.cells[1].setting.concurrency is None
    assert run.config["pbkv_version"] == "0.1.0"


def test_opening_reads_no_table(write_run: WriteRun) -> None:
    folder = write_run([{}])
    for file in folder.glob("*.parquet"):
        file.write_bytes(b"not Parquet")
    assert len(load(folder).cells) == 1


def test_a_run_may_lack_its_cache_events(write_run: WriteRun) -> None:
    run = load(write_run([{}]))
    assert run.has("calls")
    assert not run.has("cache_events")
    with pytest.raises(TraceError, match=r"run: tables: .*expected cache_events\.parquet among them"):
        _ = run.cache_events


def _without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda config: config["cells"][0].pop(name)


def _with(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda config: config["cells"][0].update({name: value})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda config: config.update(cells=[]), r"cells: got \[\], expected a list of at least one cell"),
        (
            lambda config: config["cells"].append(config["cells"][0]),
            r"cells: got \[0, 0\], expected a number of its own for each cell",
        ),
        (lambda config: config.update(cells=[3]), r"cells\[0\]: got 3, expected an object"),
        (_without("policy"), r"cells\[0\].policy: got None, expected the name of a policy"),
        (_without("write_mode"), r"cells\[0\].write_mode: got None"),
        (_with("gpu_blocks", "many"), r"cells\[0\].gpu_blocks: got many, expected a number of blocks"),
        (_with("gpu_blocks", True), r"cells\[0\].gpu_blocks: got True"),
        (_with("concurrency", 1.5), r"cells\[0\].concurrency: got 1.5, expected a number or null"),
        (_with("open_loop", 0), r"cells\[0\].open_loop: got 0, expected true or false"),
    ],
)
def test_a_bad_configuration_is_named(
    write_run: WriteRun, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    file = write_run([{}]) / "run.json"
    config = json.loads(file.read_text())
    edit(config)
    file.write_text(json.dumps(config))
    with pytest.raises(TraceError, match=rf"run\.json: {message}") as raised:
        load(file.parent)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["{", "[]", "null", "\x00"])
def test_run_json_must_be_an_object(write_run: WriteRun, text: str) -> None:
    file = write_run([{}]) / "run.json"
    file.write_text(text)
    with pytest.raises(TraceError, match="expected a JSON object"):
        load(file.parent)


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"nowhere: run: got nothing, expected a folder written by"):
        load(tmp_path / "nowhere")
    with pytest.raises(TraceError, match=r"run\.json: got nothing"):
        load(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(TraceError, match=r"file: run: got a file"):
        load(tmp_path / "file")


def test_a_missing_truncated_or_foreign_table_is_named(write_run: WriteRun) -> None:
    file = write_run([{}]) / "calls.parquet"
    run, whole = load(file.parent), file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TraceError, match=r"calls\.parquet: file: .*expected a complete Parquet file"):
        _ = run.calls
    shutil.copy(file.parent / "workflows.parquet", file)
    with pytest.raises(
        TraceError, match=r"calls\.parquet: columns: .*expected a column call_index \(int32\)"
    ):
        _ = run.calls
    pq.write_table(pa.table({name: pa.array([], pa.string()) for name in TABLES["calls"].names}), file)
    with pytest.raises(TraceError, match=r"calls\.parquet: cell: got string, expected int32"):
        list(run.batches("calls", ["cell"]))
    file.unlink()
    with pytest.raises(TraceError, match=r"run: tables: .*expected calls\.parquet among them"):
        _ = run.calls
