"""The facts of a trace, against hand-made ones and against the table beside the real traces."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from pbkv.analysis.call_graph import MAX_AGENTS, call_graph
from pbkv.analysis.describe import Description, Quantiles, as_table, describe
from pbkv.analysis.next_agent import conditional_entropy_bits, handovers, markov_accuracy
from pbkv.traces import importers
from pbkv.traces.reader import Trace
from pbkv.traces.schema import Call, TraceMetadata, Workflow
from pbkv.traces.writer import write_trace

PNG = b"\x89PNG\r\n"


def described(folder: Path, workflows: Sequence[Workflow]) -> Description:
    path = folder / "trace.parquet"
    write_trace(path, workflows, TraceMetadata("by hand", seed=7, extra={"block_size": 16}))
    return describe(Trace(path))


def call(index: int, agent: str, *segment_ids: int, gap_s: float | None = None) -> Call:
    parents = (index - 1,) if index else ()
    origin = None if gap_s is None else "logged"
    return Call(index, agent, parents, gap_s, segment_ids, [10] * len(segment_ids), 4, tool_gap_origin=origin)


def two_workflows() -> list[Workflow]:
    first = [call(0, "a", 1, 2), call(1, "b", 1, 2, 3, gap_s=1.0), call(2, "a", 1, 4)]
    second = [call(0, "a", 1, 4), call(1, "b", 9)]
    return [Workflow("v", "demo", 0.0, first), Workflow("w", "demo", None, second)]


def test_what_is_counted(tmp_path: Path) -> None:
    d = described(tmp_path, two_workflows())
    assert (d.num_workflows, d.num_calls, d.num_agents, d.num_distinct_sequences) == (2, 5, 2, 2)
    assert (d.num_prompt_tokens, d.num_output_tokens) == (100, 20)
    assert d.prompt_tokens == Quantiles(10, 10, 20, 30, 30)
    assert (d.num_arrivals, d.known_gap_ratio) == (1, 1 / 3)


def test_reuse_counts_whole_leading_segments_of_earlier_prompts(tmp_path: Path) -> None:
    d = described(tmp_path, two_workflows())
    assert d.same_workflow_reuse_ratio == 0.3  # 1, 2 of the second call and 1 of the third
    assert d.reuse_ratio == 0.5  # and 1, 4 of the fourth


def test_segments_behind_another_prefix_are_not_reused(tmp_path: Path) -> None:
    d = described(tmp_path, [Workflow("w", "demo", None, [call(0, "a", 1, 2), call(1, "a", 3, 2)])])
    assert d.reuse_ratio == 0


def test_hand_overs_include_start_and_end_the_most_frequent_first() -> None:
    counts = handovers([["a", "b"], ["a"], ["a"]])
    assert counts == {"START": {"a": 3}, "a": {"END": 2, "b": 1}, "b": {"END": 1}}
    assert list(counts["a"]) == ["END", "b"]


@pytest.mark.parametrize(
    ("sequences", "bits"),
    [
        ([["a", "b"], ["a", "b"]], 0.0),
        ([["a"], ["a", "a"], ["a"]], 0.811278),
        ([["a", "b"], ["a", "c"]], 0.5),
    ],
)
def test_entropy_is_what_the_current_agent_leaves_open(sequences: list[list[str]], bits: float) -> None:
    assert conditional_entropy_bits(handovers(sequences)) == pytest.approx(bits, abs=1e-6)


def test_longer_contexts_tell_what_one_agent_cannot() -> None:
    sequences = [["a", "x", "b"], ["c", "x", "d"]] * 5
    # Of a, x, b and c, x, d: order 1 knows all but what follows x, and there guesses b.
    assert markov_accuracy(sequences, 1) == pytest.approx((2 + 0.5) / 3)
    assert markov_accuracy(sequences, 2) == 1.0


def test_an_unseen_context_backs_off_to_a_shorter_one() -> None:
    sequences = [["a", "b"]] * 4 + [["z", "b"]]
    # Fold 4 holds the only z: its follower is guessed from all calls (b and END tie, b came first).
    assert markov_accuracy(sequences, 1) == 1.0


def test_too_few_workflows_have_no_accuracy() -> None:
    assert markov_accuracy([["a"]] * 4, 1) is None


def test_the_table_and_the_json_hold_the_numbers(tmp_path: Path) -> None:
    d = described(tmp_path, two_workflows())
    console = Console(file=io.StringIO(), width=100)
    console.print(as_table(d))
    text = console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO from above
    for part in ("by hand", "30.0% within a workflow, 50.0% from any", "1 with arrival", "block size"):
        assert part in text
    values = json.loads(json.dumps(d.to_dict()))
    assert values["metadata"]["seed"] == 7
    assert values["metadata"]["block_size"] == 16
    assert values["prompt_tokens"]["median"] == 20
    assert values["handovers"]["a"] == {"b": 2, "END": 1}


@dataclass(frozen=True)
class Row:
    """A row of the class A table in the README beside the traces."""

    name: str
    sizes: tuple[int, int, int, int]  # workflows, calls, agents, distinct sequences
    calls: tuple[int, int, int]
    entropy_bits: float
    accuracies: tuple[float, float] | None
    prompt_tokens: tuple[int, int, int, int]
    output_tokens: tuple[int, int]
    reuse: tuple[float, float]


TABLE = [
    Row(
        "tau2_bench",
        (270, 6_886, 6, 250),
        (3, 21, 115),
        1.00,
        (0.54, 0.72),
        (942, 4_196, 8_853, 24_686),
        (32, 105),
        (0.921, 0.961),
    ),
    Row(
        "marble_db_star",
        (112, 2_713, 9, 88),
        (3, 27, 32),
        0.70,
        (0.83, 0.84),
        (636, 905, 2_381, 6_992),
        (92, 336),
        (0.316, 0.388),
    ),
    Row(
        "magentic_one_gaia",
        (58, 1_610, 8, 51),
        (3, 18, 70),
        0.76,
        (0.86, 0.87),
        (1_485, 4_701, 11_420, 48_929),
        (241, 319),
        (0.672, 0.673),
    ),
    Row(
        "tapeagents_gaia",
        (69, 579, 9, 44),
        (3, 7, 52),
        1.21,
        (0.60, 0.64),
        (809, 2_560, 25_986, 132_147),
        (65, 166),
        (0.571, 0.681),
    ),
    Row(
        "claude_code_weka",
        (132, 11_639, 6, 113),
        (10, 61, 561),
        0.25,
        (0.96, 0.97),
        (36_429, 91_773, 153_082, 894_371),
        (237, 919),
        (0.960, 0.960),
    ),
    Row(
        "captain_agent_gaia",
        (126, 670, 176, 124),
        (3, 5, 9),
        1.85,
        (0.26, 0.24),
        (688, 1_788, 4_042, 55_921),
        (190, 594),
        (0.443, 0.505),
    ),
    Row(
        "sweagent_glm45_vllm",
        (133, 5_789, 1, 50),
        (16, 39, 137),
        0.16,
        None,
        (6_654, 20_839, 47_075, 125_441),
        (77, 459),
        (0.960, 0.960),
    ),
]
# The table does not say how its folds were cut. Other cuts move ours by up to this much; captain's
# open vocabulary (176 agents in 670 calls) makes its figures the most sensitive.
_FOLDS = {"captain_agent_gaia": 0.05}
_FOLDS_ELSEWHERE = 0.015


@pytest.mark.parametrize("row", TABLE, ids=[row.name for row in TABLE])
def test_the_real_traces_are_described_as_in_their_readme(
    shared_data: Path, tmp_path: Path, row: Row
) -> None:
    path = tmp_path / "trace.parquet"
    write_trace(path, *importers.read(shared_data / f"{row.name}.jsonl.gz"))
    d = describe(Trace(path))
    assert (d.num_workflows, d.num_calls, d.num_agents, d.num_distinct_sequences) == row.sizes
    calls = d.calls_per_workflow
    assert (calls.min, calls.median, calls.max) == row.calls
    prompts = d.prompt_tokens
    assert (prompts.p10, prompts.median, prompts.p90, prompts.max) == row.prompt_tokens
    assert (d.output_tokens.median, d.output_tokens.p90) == row.output_tokens
    assert d.next_agent_entropy_bits == pytest.approx(row.entropy_bits, abs=0.005)
    reuse = (d.same_workflow_reuse_ratio, d.reuse_ratio)
    assert reuse == pytest.approx(row.reuse, abs=0.0005)
    if row.accuracies is None:
        assert d.markov_1_accuracy is None
    else:
        tolerance = _FOLDS.get(row.name, _FOLDS_ELSEWHERE)
        found = (d.markov_1_accuracy, d.markov_3_accuracy)
        assert found == pytest.approx(row.accuracies, abs=tolerance)


def test_a_call_graph_is_a_png_and_the_same_each_time() -> None:
    counts = handovers([["planner", "worker", "worker"], ["planner"]])
    first, second = io.BytesIO(), io.BytesIO()
    call_graph(counts, first, subtitle="by hand")
    call_graph(counts, second, subtitle="by hand")
    assert first.getvalue().startswith(PNG)
    assert first.getvalue() == second.getvalue()


@pytest.mark.parametrize("num_agents", [1, MAX_AGENTS, MAX_AGENTS + 1, 200])
def test_any_number_of_agents_can_be_drawn(num_agents: int) -> None:
    target = io.BytesIO()
    call_graph(handovers([[f"agent with a long name {i}" for i in range(num_agents)]]), target)
    assert target.getvalue().startswith(PNG)
