"""The command line from end to end, in its own process: what it writes, prints, and exits with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pbkv.analysis import load
from pbkv.traces.generate import generate_workload, workload_metadata
from pbkv.traces.reader import Trace
from pbkv.traces.schema import METADATA_KEY, SCHEMA
from pbkv.traces.writer import write_trace

SMALL = ["--profile", "a6000-qwen3-14b", "--gpu-blocks", "600", "--concurrency", "6"]


def pbkv(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pbkv", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "100", "PYTHONWARNINGS": "error"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=cwd)


@pytest.fixture(scope="session")
def hover(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hover") / "hover.parquet"
    write_trace(path, generate_workload("hover", 12, 3), workload_metadata("hover", 12, 3))
    return path


# ---------------------------------------------------------------------- what it is for


def test_simulate_writes_a_run_and_prints_its_table(hover: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    done = pbkv("simulate", hover, *SMALL, "--policy", "lru,fifo", "--policy", "slru", "-o", run_dir)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(policy in done.stdout for policy in ("lru", "fifo", "slru"))
    run = load(run_dir)
    assert [cell.setting.policy for cell in run.cells] == ["lru", "fifo", "slru"]
    assert len(run.calls) == 3 * run.config["trace"][0]["num_calls"]
    names = ["gpu_hit", "host_hit", "loading", "evicted", "partial", "cold"]
    classes = run.calls[[f"num_{name}_tokens" for name in names]].sum(axis=1)
    assert (classes == run.calls.num_prompt_tokens).all()
    assert run.config["settings"]["host_ratio"] == 1.0
    assert run.config["profile"]["name"] == "a6000-qwen3-14b"
    evictions = run.cache_events.query("kind in ['evict', 'demote']")
    assert len(evictions)
    assert (evictions.age_s >= 0).all()
    assert (run.occupancy.gpu_used_blocks <= 600).all()


def test_same_seed_same_bytes(hover: Path, tmp_path: Path) -> None:
    options = [*SMALL, "--policy", "random", "--seed", "5", "--order", "shuffled"]
    for name in ("a", "b"):
        assert pbkv("simulate", hover, *options, "-o", tmp_path / name).returncode == 0
    for file in (tmp_path / "a").glob("*.parquet"):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_seeds_shuffle_and_give_an_interval_over_runs(hover: Path, tmp_path: Path) -> None:
    done = pbkv("simulate", hover, *SMALL, "--seed", 1, "--seed", 2, "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    order = (
        load(tmp_path / "run").workflows.sort_values(["seed", "released_at_s"]).groupby("seed").workflow_id
    )
    first, second = (list(ids) for _, ids in order)
    assert sorted(first) == sorted(second)
    assert first != second


def test_several_traces_do_not_share_and_are_released_in_turn(hover: Path, tmp_path: Path) -> None:
    options = [*SMALL[:4], "--concurrency", 1]
    alone = pbkv("simulate", hover, *options, "-o", tmp_path / "alone")
    both = pbkv("simulate", hover, hover, *options, "-o", tmp_path / "both")
    assert (alone.returncode, both.returncode) == (0, 0)
    one, two = load(tmp_path / "alone").calls, load(tmp_path / "both").calls
    assert len(two) == 2 * len(one)
    assert list(dict.fromkeys(two.workflow_id))[:2] == ["0/hover-000000", "1/hover-000000"]
    first_calls = two[two.call_index == 0].groupby(two.workflow_id.str[0]).num_cold_tokens.first()
    assert first_calls["0"] == first_calls["1"]  # the second trace finds nothing of the first


def test_open_loop_and_any_importable_format(tmp_path: Path) -> None:
    rows = [
        {"timestamp": 500 * i, "input_length": 1000, "output_length": 8, "hash_ids": [0, i]} for i in range(9)
    ]
    source = tmp_path / "rows.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)))
    done = pbkv("simulate", source, "--open-loop", "--profile", "h100-qwen3-8b", "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    run = load(tmp_path / "run")
    assert sorted(run.workflows.released_at_s) == [0.5 * i for i in range(9)]
    assert run.calls.num_gpu_hit_tokens.sum() == 8 * 512


def test_workflows_that_do_not_fit_are_left_out_on_request(hover: Path, tmp_path: Path) -> None:
    workflow_id, _, num_tokens = Trace(hover).longest_call()
    too_few = -(-num_tokens // 16) - 1
    options = [*SMALL[:2], "--gpu-blocks", too_few]
    assert_refused(pbkv("simulate", hover, *options, "-o", tmp_path / "run"), f"workflow {workflow_id!r}")
    done = pbkv("simulate", hover, *options, "--skip-too-long", "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    left = set(load(tmp_path / "run").workflows.workflow_id)
    assert 0 < len(left) < 12
    assert f"workflows that fit: {len(left)} of 12" in done.stdout
    assert workflow_id not in left


def test_curve_prints_json_and_draws(hover: Path, tmp_path: Path) -> None:
    figure = tmp_path / "curve.png"
    done = pbkv("curve", hover, "--policy", "lru", "--gpu-blocks", "300,600", "--json", "--figure", figure)
    found = json.loads(done.stdout)
    small, large = found["points"]
    assert (small["gpu_blocks"], large["gpu_blocks"]) == (300, 600)
    assert 0 < small["hit_ratio"] <= large["hit_ratio"] <= found["infinite_hit_ratio"]
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_info_names_the_extra(tmp_path: Path) -> None:
    done = pbkv("info", cwd=Path(__file__).parents[1])
    assert done.returncode == 0
    assert "pbkv " in done.stdout
    assert "torch" in done.stdout


# ---------------------------------------------------------------------- bad input


def rewritten(hover: Path, target: Path, change: Any, metadata: Any = None) -> Path:
    """A copy of the trace with ``change`` applied to its rows and ``metadata`` to its metadata."""
    rows = pq.read_table(hover).to_pylist()[:20]
    known = json.loads(pq.read_metadata(hover).metadata[METADATA_KEY])
    rows = change(rows) if change else rows
    known.update(metadata or {})
    table = pa.Table.from_pylist(rows, schema=SCHEMA).replace_schema_metadata(
        {METADATA_KEY: json.dumps(known)}
    )
    pq.write_table(table, target)
    return target


def with_field(field: str, value: object, row: int = 3) -> Any:
    def change(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        rows[row][field] = value
        return rows

    return change


BAD_TRACES = {
    "a negative length": (with_field("num_output_tokens", -1), "num_output_tokens: got -1"),
    "a NaN": (with_field("tool_gap_s", float("nan")), "tool_gap_s: got nan"),
    "a negative segment": (
        with_field("segments", [{"id": 1, "num_tokens": -5, "kind": "user"}]),
        "segments.num_tokens: got -5",
    ),
    "a null length": (
        with_field("segments", [{"id": 1, "num_tokens": None, "kind": "user"}]),
        "segments: got a null in a list",
    ),
    "a null parent": (with_field("parent_indices", [None]), "parent_indices: got a null in a list"),
    "an empty prompt": (with_field("segments", []), "segments: got an empty list"),
    "an unknown parent": (with_field("parent_indices", [99]), "call 3: got 99, expected a call below 3"),
    "a parent cycle": (with_field("parent_indices", [3]), "the parents form a cycle"),
    "calls out of order": (with_field("call_index", 7), "call_index of workflow"),
    "an empty trace": (lambda rows: [], "rows: got 0, expected at least one call"),
}


def assert_refused(done: subprocess.CompletedProcess[str], expected: str) -> None:
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert expected in done.stderr


@pytest.mark.parametrize("name", BAD_TRACES)
def test_a_bad_trace_is_one_line_and_exit_2(name: str, hover: Path, tmp_path: Path) -> None:
    change, expected = BAD_TRACES[name]
    bad = rewritten(hover, tmp_path / "bad.parquet", change)
    done = pbkv("simulate", bad, *SMALL, "-o", tmp_path / "run")
    assert_refused(done, expected)
    assert str(bad) in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_column_of_another_type_is_refused(hover: Path, tmp_path: Path) -> None:
    table = pq.read_table(hover)
    metadata = {METADATA_KEY: pq.read_metadata(hover).metadata[METADATA_KEY]}
    for column, values in (
        ("num_output_tokens", 1.5),
        ("agent", 7),
        ("segments", [{"id": 1, "kind": "user"}]),
    ):
        bad = table.set_column(table.schema.get_field_index(column), column, pa.array([values] * len(table)))
        pq.write_table(bad.replace_schema_metadata(metadata), tmp_path / "bad.parquet")
        done = pbkv("simulate", tmp_path / "bad.parquet", "-o", tmp_path / "run")
        assert_refused(done, f"{column}: got values of type ")


def test_another_schema_version_is_refused(hover: Path, tmp_path: Path) -> None:
    bad = rewritten(hover, tmp_path / "bad.parquet", None, {"schema_version": 99})
    assert_refused(pbkv("simulate", bad, "-o", tmp_path / "run"), "schema_version: got 99, expected 1")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--gpu-blocks", "20"], "expected at most the GPU tier's 320"),
        (["--gpu-blocks", "0"], "gpu_blocks: got 0"),
        (["--gpu-kv-gb", "0"], "gpu_blocks: got 0"),
        (["--block-size", "0"], "block_size: got 0"),
        (["--host-blocks", "-1"], "host_blocks: got -1"),
        (["--host-blocks", "9", "--host-kv-gb", "1"], "--host-kv-gb: got 1.0, expected either this or"),
        (["--gpu-kv-gb", "nan"], "--gpu-kv-gb: got nan"),
        (["--concurrency", "0"], "concurrency: got 0"),
        (["--policy", "best"], "policy: got best, expected one of lru"),
        (["--profile", "tpu"], "profile: got tpu, expected one of 2xa6000"),
        (["--write-mode", "never"], "write_mode: got never"),
        (["--request-order", "any"], "request_order: got any"),
        (["--open-loop"], "arrival_s: got null"),
        (["--gpu-blocks", "many"], "--gpu-blocks: got many"),
        (["--host-ratio", "1e30"], "host_blocks: got "),
        (["--seed", "99999999999999999999"], "seed: got 99999999999999999999"),
        (["--no-such-option"], "No such option: --no-such-option"),
    ],
)
def test_a_bad_option_is_one_line_and_exit_2(
    options: list[str], expected: str, hover: Path, tmp_path: Path
) -> None:
    assert_refused(pbkv("simulate", hover, *options, "-o", tmp_path / "run"), expected)
    assert list(tmp_path.iterdir()) == []


def test_bad_files_are_one_line_and_exit_2(hover: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    text, truncated = tmp_path / "text.parquet", tmp_path / "cut.jsonl.gz"
    text.write_text("hello\n")
    truncated.write_bytes(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab")
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(hover.read_bytes()[:-100])
    assert_refused(pbkv("simulate", tmp_path / "none.parquet", "-o", run), "expected an existing file")
    assert_refused(pbkv("simulate", text, "-o", run), "format: got hello")
    assert_refused(pbkv("simulate", truncated, "-o", run), "expected a complete gzip file")
    assert_refused(pbkv("simulate", cut, "-o", run), "Parquet")
    run.mkdir()
    assert_refused(pbkv("simulate", hover, "-o", run), "output: got ")
    assert_refused(pbkv("simulate", hover, "-o", run, "--force"), "earlier run")
    assert_refused(pbkv("simulate", hover, "-o", tmp_path / "no" / "run"), "expected an existing folder")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_killed_run_leaves_no_half_folder(number: signal.Signals, tmp_path: Path) -> None:
    trace = tmp_path / "long.parquet"
    write_trace(trace, generate_workload("hover", 1500, 3), workload_metadata("hover", 1500, 3))
    command = [
        sys.executable,
        "-m",
        "pbkv",
        "simulate",
        str(trace),
        "--token-by-token",
        "-o",
        str(tmp_path / "run"),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.glob(".run.*.tmp")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate()
    assert (process.returncode, errors) == (130, "interrupted\n")
    assert [entry.name for entry in tmp_path.iterdir()] == ["long.parquet"]
