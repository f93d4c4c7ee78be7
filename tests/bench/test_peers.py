"""The judgement and the report of bench/peers.py, on made-up measurements; nothing is timed here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.gates import LIMITS, Limit, growth_over_linear, judge
from bench.measure import Child, ChildError, tail
from bench.outcome import of_peer
from bench.peer import find
from bench.peers import check_same_work, values
from bench.report import gate_facts, markdown, number, without_paths

AT_MOST = Limit("k", "K", "", "s", must=1.0, ahead=0.5)
AT_LEAST = Limit("k", "K", "", "calls/s", must=10.0, ahead=20.0, at_least=True)
REPORTED = Limit("k", "K", "", "×", must=None, ahead=None)
AIM_ONLY = Limit("k", "K", "", "MB", must=None, ahead=17.0)


@pytest.mark.parametrize(
    ("limit", "value", "verdict"),
    [
        (AT_MOST, 0.5, "ahead"),
        (AT_MOST, 0.51, "pass"),
        (AT_MOST, 1.0, "pass"),
        (AT_MOST, 1.01, "miss"),
        (AT_MOST, None, "not measured"),
        (AT_LEAST, 20.0, "ahead"),
        (AT_LEAST, 19.9, "pass"),
        (AT_LEAST, 9.9, "miss"),
        (AIM_ONLY, 17.0, "ahead"),
        (AIM_ONLY, 17.1, "behind"),
        (REPORTED, 17.1, "reported"),
        (REPORTED, None, "not measured"),
    ],
)
def test_a_value_is_judged_by_must_and_aim(limit: Limit, value: float | None, verdict: str) -> None:
    assert limit.verdict(value) == verdict


def test_each_limit_has_a_key_of_its_own() -> None:
    assert len({limit.key for limit in LIMITS}) == len(LIMITS)


def test_a_value_without_a_limit_is_an_error() -> None:
    with pytest.raises(KeyError, match="typo"):
        judge({"typo": 1.0})


@pytest.mark.parametrize(("large", "over"), [(20.0, 1.0), (22.0, 1.1), (11.0, 0.55)])
def test_growth_is_measured_against_the_number_of_calls(large: float, over: float) -> None:
    assert growth_over_linear(2.0, large, 100, 1000) == pytest.approx(over)


def ours(wall_s: float, peak_bytes: int, **more: Any) -> dict[str, Any]:
    records = {"calls.parquet": 900_000, "workflows.parquet": 100_000}
    told = {"num_calls": 1000, "loop_s": 0.05, "records_s": 0.3, "record_bytes": records}
    return {"command": "pbkv", "wall_s": wall_s, "cpu_s": wall_s, "peak_bytes": peak_bytes, **told, **more}


def theirs(wall_s: float, peak_bytes: int) -> dict[str, Any]:
    return ours(wall_s, peak_bytes, command="peer", loop_s=0.1)


@pytest.fixture
def result() -> dict[str, Any]:
    imported = {"command": "import", "wall_s": 1.0, "cpu_s": 1.0, "peak_bytes": 10}
    counted = {"num_workflows": 10, "num_calls": 1000, "num_block_references": 50_000}
    return {
        "date": "2026-01-01",
        "machine": {
            "cpu": "c",
            "num_cores": 2,
            "memory_gb": 8,
            "system": "s",
            "python": "3",
            "pinned_to_core": 0,
            "load_before": [0.1],
            "load_after": [1.0],
        },
        "versions": {"pbkv": "1", "aisimulate": "2"},
        "help_s": {"module": [0.1, 0.2, 0.15], "script": None},
        "short": {
            "import": imported,
            "pbkv": [ours(1.0, 100), ours(4.0, 300), ours(2.0, 200)],
            "peer": [theirs(4.0, 400), theirs(2.0, 300), theirs(4.0, 400)],
        },
        "long": {
            "trace": {
                "period_s": 5.0,
                "copies": 10,
                "source": counted,
                "result": {name: 10 * held for name, held in counted.items()},
            },
            "import": imported,
            "pbkv": ours(24.0, 8_000_000),
            "peer": None,
        },
        "outcomes": {"pbkv": {"num_calls": 1000.0, "makespan_s": 5.0}, "peer": {"num_calls": 1000.0}},
        "profile": None,
    }


def test_the_gates_numbers_come_from_pairs_and_medians(result: dict[str, Any]) -> None:
    found = values(result)
    assert found["a_time"] == 0.5  # of 0.25, 2, 0.5: a ratio of medians would be another number
    assert found["a_memory"] == 0.5
    assert found["b_loop"] == pytest.approx(20_000)
    assert found["b_beside"] == pytest.approx(2.0)
    assert found["c_time"] == pytest.approx(1.2)
    assert found["c_memory"] == pytest.approx(8_000_000 / 2000)
    assert found["c_per_reference"] == pytest.approx(16.0)
    assert found["g_size"] == 1.0
    assert found["g_time"] == 0.3
    assert found["h_module"] == 0.15
    assert found["h_script"] is None


def test_what_was_not_measured_says_so(result: dict[str, Any]) -> None:
    result["short"]["peer"] = []
    result["long"] = None
    for run in result["short"]["pbkv"]:
        run["records_s"] = run["loop_s"] = None
    verdicts = {one.limit.key: one.verdict for one in judge(values(result))}
    absent = {key for key, verdict in verdicts.items() if verdict == "not measured"}
    beside = {"a_time", "a_memory", "b_beside"}
    assert absent == beside | {"b_loop", "c_time", "c_memory", "c_per_reference", "g_time", "h_script"}


def test_runs_of_different_work_are_not_compared(result: dict[str, Any]) -> None:
    check_same_work(result)
    result["short"]["peer"][1]["num_calls"] = 999
    with pytest.raises(ChildError, match=r"\[999, 1000\]"):
        check_same_work(result)


def test_the_report_names_each_gate_with_its_verdict(result: dict[str, Any]) -> None:
    result["gates"] = gate_facts(judge(values(result)))
    text = markdown(result)
    for limit in LIMITS:
        assert f"| {limit.gate}. {limit.what}" in text
    assert "| C. long trace: wall time over linear growth (×) | 1.2 | ≤ 1.1 |  | miss |" in text
    assert "| B. the loop alone (calls/s) | 20,000 | ≥ 10,000 | ≥ 22,000 | pass |" in text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.0345, "0.0345"), (12345.6, "12,346"), (2.0, "2")]
)
def test_numbers_have_three_digits_or_none(value: float | None, text: str) -> None:
    assert number(value) == text


def test_folders_of_this_machine_are_named_by_their_role() -> None:
    told = {"command": "/home/me/x/bin/tool /home/me/x/y/z"}
    names = [(Path("/home/me/x"), "."), (Path("/home/me/x/y"), "$WORK")]
    assert without_paths(told, names) == {"command": "./bin/tool $WORK/z"}


def test_a_failed_command_shows_the_end_of_what_it_printed(tmp_path: Path) -> None:
    child = Child([sys.executable, "-c", "import sys; print('why'); sys.exit(3)"], tmp_path)
    with pytest.raises(ChildError, match=r"exit 3: (.|\n)*why"):
        child.run(tmp_path / "log")


def test_a_command_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ChildError, match="cannot run"):
        Child([str(tmp_path / "absent")], tmp_path).run(tmp_path / "log")


def test_the_end_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a\nb\nc\n")
    assert tail(tmp_path / "log", 2) == "b\nc"


@pytest.mark.parametrize("place", ["", "bin", "bin/aisimulate", "bin/python"])
def test_the_peer_is_found_from_its_environment_or_program(place: str, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "aisimulate").touch()
    (tmp_path / "bin" / "python").touch()
    assert find(tmp_path / place, Path("c.yaml")).program == tmp_path / "bin" / "aisimulate"


def test_a_missing_peer_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--peer"):
        find(tmp_path, Path("c.yaml"))


def test_the_peers_requests_are_summed(tmp_path: Path) -> None:
    lines = [
        {"input_length": 640, "first_admission_g1_reused_input_tokens": 128, "readmission_count": 1},
        {"input_length": 64, "first_admission_host_reused_input_tokens": 64, "readmission_count": 0},
    ]
    (tmp_path / "requests.jsonl").write_text("\n".join(map(json.dumps, lines)))
    latencies = ("mean_ttft_ms", "mean_tpot_ms", "mean_e2e_latency_ms", "mean_trajectory_e2e_latency_ms")
    report = {"completed_requests": 2, "duration_ms": 5000.0, **dict.fromkeys(latencies, 250.0)}
    outcome = of_peer(report, tmp_path / "requests.jsonl")
    assert outcome["num_prompt_tokens"] == 704
    assert (outcome["num_gpu_hit_tokens"], outcome["num_host_hit_tokens"]) == (128, 64)
    assert (outcome["mean_ttft_s"], outcome["makespan_s"]) == (0.25, 5.0)
