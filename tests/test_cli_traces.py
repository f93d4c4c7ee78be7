"""`pbkv traces` from the outside."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pbkv.cli import main
from pbkv.traces import generate
from pbkv.traces.reader import Trace
from pbkv.traces.schema import Workflow
from tests.traces import test_importers_claude as claude
from tests.traces import test_importers_hashes as hashes
from tests.traces import test_importers_text as texts

Run = Callable[..., tuple[int, str, str]]
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:17:0{second}.0000000,10,1\n" for second in range(5)
)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `pbkv traces …`; returns exit status, stdout and stderr."""

    def run_once(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pbkv", "traces", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return run_once


@pytest.fixture
def hover(run: Run, tmp_path: Path) -> Path:
    path = tmp_path / "hover.parquet"
    assert run("generate", "hover", "--workflows", 4, "--seed", 1, "-o", path)[0] == 0
    return path


def test_generate_then_validate(run: Run, hover: Path) -> None:
    status, out, _ = run("validate", hover)
    assert status == 0
    assert f"{hover}: in order: 4 workflows" in out
    assert out.count("\n") == 1


def test_equal_seeds_give_equal_traces(run: Run, hover: Path, tmp_path: Path) -> None:
    run("generate", "hover", "--workflows", 4, "--seed", 1, "-o", tmp_path / "again.parquet")
    run("generate", "hover", "--workflows", 4, "--seed", 2, "-o", tmp_path / "other.parquet")
    digests = [
        Trace(tmp_path / name).metadata.digest for name in ("hover.parquet", "again.parquet", "other.parquet")
    ]
    assert digests[0] == digests[1] != digests[2]


def test_an_existing_output_needs_force(run: Run, hover: Path) -> None:
    status, _, err = run("generate", "hover", "--workflows", 1, "-o", hover)
    assert (status, err.count("\n")) == (2, 1)
    assert "--force" in err
    assert run("generate", "hover", "--workflows", 1, "-o", hover, "--force")[0] == 0


def test_describe_prints_a_table_json_and_a_picture(run: Run, hover: Path, tmp_path: Path) -> None:
    picture = tmp_path / "graph.png"
    status, out, _ = run("describe", hover, "--figure", picture)
    assert status == 0
    assert "Markov" not in out  # four workflows are too few
    assert "planner" not in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    _, out, _ = run("describe", hover, "--json")
    assert json.loads(out)["num_workflows"] == 4


def test_export_and_import_give_the_calls_back(run: Run, hover: Path, tmp_path: Path) -> None:
    exported, back = tmp_path / "hover.jsonl.gz", tmp_path / "back.parquet"
    status, out, _ = run("export", hover, "-o", exported, "--block-size", 16)
    assert (status, out) == (0, f"{exported}: {Trace(hover).num_calls} calls\n")
    status, out, _ = run("import", exported, "-o", back, "--licence", "MIT", "--source", "a test")
    assert (status, Trace(back).num_calls) == (0, Trace(hover).num_calls)
    assert (Trace(back).metadata.source, Trace(back).metadata.licence) == ("a test", "MIT")


def test_import_lays_arrivals_over_a_trace(run: Run, hover: Path, tmp_path: Path) -> None:
    azure, out = tmp_path / "azure.csv", tmp_path / "out.parquet"
    azure.write_text(AZURE)
    assert run("import", hover, "-o", out, "--arrivals", azure, "--arrival-scale", 0.5)[0] == 0
    assert [workflow.arrival_s for workflow in Trace(out).workflows()] == [0.0, 0.5, 1.0, 1.5]
    assert Trace(out).metadata.extra["arrivals"] == "azure.csv"
    assert Trace(out).metadata.seed == 1


def test_import_says_what_it_had_to_drop(run: Run, tmp_path: Path) -> None:
    header = {"schema": "dynamo.agentic_mooncake", "version": 2, "block_size": 4}
    row = {"play_id": "p", "session_id": "s", "input_length": 4, "output_length": 1, "hash_ids": [1]}
    dependency = {"request_id": "a", "trigger": "completion", "delay_ms": 0, "relation": "sequence"}
    rows = [
        header,
        {"request_id": "a", "not_before_ms": 0, **row},
        {"request_id": "b", "not_before_ms": 9, "dependencies": [dependency], **row},
    ]
    source = tmp_path / "v2.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)))
    status, _, err = run("import", source, "-o", tmp_path / "out.parquet")
    assert (status, err) == (0, "note: dropped not before: 1\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arrival-scale", 2], "--arrivals"),
        (["--block-size", 16], "block size"),
        (["--format", "csv"], "format"),
        (["--arrivals", "absent.csv"], "absent.csv"),
    ],
)
def test_bad_options_are_one_line_and_status_2(
    run: Run, hover: Path, tmp_path: Path, arguments: list[object], message: str
) -> None:
    status, out, err = run("import", hover, "-o", tmp_path / "out.parquet", *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not (tmp_path / "out.parquet").exists()


def test_a_bad_trace_leaves_nothing_behind(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "bad.jsonl"
    source.write_text('{"timestamp": 0, "input_length": 512, "output_length": -1, "hash_ids": [1]}\n')
    status, _, err = run("import", source, "-o", tmp_path / "out.parquet", "--block-size", 512)
    assert (status, err) == (
        2,
        f"error: {source}: line 1: output_length: got -1, expected a whole number from 0 to 2147483647\n",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"]


def test_an_interrupt_leaves_nothing_behind(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(name: str, num_workflows: int, seed: int) -> Iterator[Workflow]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(generate, "generate_workload", interrupted)
    assert run("generate", "hover", "--workflows", 9, "-o", tmp_path / "out.parquet")[0] == 130
    assert list(tmp_path.iterdir()) == []


def test_without_a_command_help_is_printed(run: Run) -> None:
    status, out, _ = run()
    assert status == 0
    for command in ("import", "validate", "describe", "generate", "export"):
        assert f"  {command} " in out


def test_a_picture_needs_a_folder(run: Run, hover: Path, tmp_path: Path) -> None:
    status, _, err = run("describe", hover, "--figure", tmp_path / "no" / "graph.png")
    assert (status, err.count("\n")) == (2, 1)
    assert "existing folder" in err


OWN_LOGS = ("claude-code", "openai", "otel", "tau2", "weka", "mooncake-v1", "lmcache", "vllm-events")


@pytest.fixture
def own_logs(tmp_path: Path) -> dict[str, Path]:
    """One small log of each kind that a user may have."""
    folder = tmp_path / "claude"
    claude.write(folder / f"{claude.SESSION}.jsonl", claude.main_log())
    claude.write(folder / claude.SESSION / "subagents" / "agent-ab12.jsonl", claude.agent_log())
    written = {
        "openai": texts.openai_lines(),
        "otel": [texts.export(*texts.otel_spans())],
        "tau2": [texts.tau2_results()],
        "weka": [hashes.weka_session()],
        "mooncake-v1": [{"request_id": "a", "input_length": 9, "output_length": 2, "hash_ids": [1, 2]}],
        "lmcache": [hashes.lookup("a", 0, "f1", "f2"), hashes.lookup("b", 1, "f1")],
        "vllm-events": hashes.event_lines(),
    }
    paths = {name: hashes.lines(tmp_path / f"{name}.jsonl", *values) for name, values in written.items()}
    return {"claude-code": folder, **paths}


@pytest.mark.parametrize("name", OWN_LOGS)
def test_own_logs_are_told_apart_imported_and_simulated(
    run: Run,
    own_logs: dict[str, Path],
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trace, options = tmp_path / "trace.parquet", ["--block-size", 8] if name == "mooncake-v1" else []
    status, out, err = run("import", own_logs[name], "-o", trace, *options)
    assert (status, err, out.count("\n")) == (0, "", 1)
    assert Trace(trace).metadata.extra["format"] == name
    assert run("validate", trace)[0] == 0
    simulate = [
        "simulate",
        trace,
        "--policy",
        "lru",
        "--profile",
        "h100-llama-3.1-8b",
        "-o",
        tmp_path / "run",
    ]
    monkeypatch.setattr(sys, "argv", ["pbkv", *map(str, simulate)])
    with pytest.raises(SystemExit) as caught:
        main()
    capsys.readouterr()
    assert not caught.value.code
    assert (tmp_path / "run" / "run.json").is_file()


def test_the_closing_line_says_what_was_assumed(run: Run, own_logs: dict[str, Path], tmp_path: Path) -> None:
    _, out, _ = run("import", own_logs["claude-code"], "-o", tmp_path / "out.parquet")
    assert "1 workflows, 6 calls; tokens estimated: characters/4; prompt tokens " in out
    assert "; stand-ins for system prompt and tools: 2\n" in out
    stored = (tmp_path / "out.parquet").read_bytes()
    assert b"find the tests" not in stored


def test_an_unknown_folder_is_one_line_and_status_2(run: Run, tmp_path: Path) -> None:
    status, _, err = run("import", tmp_path, "-o", tmp_path / "out.parquet")
    assert (status, err.count("\n")) == (2, 1)
