"""Plans: the answer is checked by simulating one step below and above it, apart from the planner."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from pbkv.sim.profile import load_profile
from pbkv.sim.run import simulate
from pbkv.sim.settings import Settings
from pbkv.study.plan import Plan, Point, Question, make_plan
from pbkv.study.plan_report import plan_text, write_plan
from pbkv.study.policies import make_policy
from pbkv.study.scenario import TraceSource
from pbkv.study.targets import parse_target
from pbkv.study.workers import Processes
from pbkv.traces.errors import ConfigError
from pbkv.traces.reader import Trace

TRACE = Path(__file__).parents[1] / "data" / "hover-30.parquet"
PROFILE = "2xa6000-qwen3-32b"


def question(*targets: str, ratios: tuple[float, ...] = (0.0, 1.0), step: float = 0.2) -> Question:
    return Question(
        TraceSource("hover", TRACE),
        PROFILE,
        load_profile(PROFILE),
        [make_policy(name, "", {}) for name in ("lru", "pbkv")],
        [parse_target(target) for target in targets],
        ratios,
        concurrency=12,
        step=step,
    )


def planned(asked: Question, out: Path) -> Plan:
    return make_plan(asked, out, Processes(1), lambda done, total: None)


def ttft_p95_s(policy: str, point: Point, out: Path) -> float:
    """By `simulate` and pandas alone."""
    settings = Settings(
        load_profile(PROFILE),
        policies=(policy,),
        gpu_blocks=(point.gpu_blocks,),
        host_blocks=point.host_blocks,
        concurrencies=(12,),
    )
    simulate([Trace(TRACE)], settings, out / f"{policy}-{point.gpu_blocks}-{point.host_blocks}", force=True)
    calls = pd.read_parquet(out / f"{policy}-{point.gpu_blocks}-{point.host_blocks}" / "calls.parquet")
    return float((calls["first_token_at_s"] - calls["submitted_at_s"]).quantile(0.95))


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path]:
    out = tmp_path_factory.mktemp("plan") / "out"
    return planned(question("ttft_p95=3s"), out), out


def test_one_step_below_misses_and_the_answer_and_one_step_above_meet(
    plan: tuple[Plan, Path], tmp_path: Path
) -> None:
    for answer in plan[0].answers:
        assert answer.point is not None
        lines = [line for line in (answer.gpu_line, answer.host_line) if line is not None]
        for line in lines:
            index = line.search.answer()
            assert index is not None
            below, above = line.neighbours()
            if index > 0:
                assert below is not None
                assert ttft_p95_s(answer.policy.name, below, tmp_path) > 3
            if index < len(line.sizes) - 1:
                assert above is not None
                assert ttft_p95_s(answer.policy.name, above, tmp_path) <= 3
        assert ttft_p95_s(answer.policy.name, answer.point, tmp_path) <= 3


def test_the_answer_takes_the_smallest_gpu_tier_of_all_host_ratios(plan: tuple[Plan, Path]) -> None:
    for answer in plan[0].answers:
        sizes = [
            line.sizes[index][0]
            for line in plan[0].lines
            if line.policy == answer.policy
            and line.host_ratio is not None
            and (index := line.search.answer()) is not None
        ]
        assert answer.point is not None
        assert answer.point.gpu_blocks == min(sizes)


def test_a_host_tier_is_as_small_as_it_can_be(tmp_path: Path) -> None:
    """With a host tier alone on offer: it is cut down to what is needed."""
    found = planned(question("hit_ratio=70%", ratios=(2.0,)), tmp_path / "out")
    for answer in found.answers:
        assert answer.point is not None
        assert answer.host_line is not None
        assert answer.point.host_blocks <= 2 * answer.point.gpu_blocks
        below, _ = answer.host_line.neighbours()
        assert (below is None) == (answer.point.host_blocks == 0)
        assert below is None or not below.met


def test_the_same_question_again_simulates_nothing(plan: tuple[Plan, Path]) -> None:
    journal = plan[1] / ".work" / "cells.jsonl"
    num_kept = len(journal.read_text().splitlines())
    again = planned(question("ttft_p95=3s"), plan[1])
    assert plan_text(again) == plan_text(plan[0])
    assert len(journal.read_text().splitlines()) == num_kept == plan[0].num_cells


def test_a_target_out_of_reach_is_said_to_be(tmp_path: Path) -> None:
    found = planned(question("ttft_p95=1ms", "jct_mean=10h", ratios=(0.0,)), tmp_path / "out")
    assert [answer.point for answer in found.answers] == [None, None]
    assert "more than 17.58" in plan_text(found)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("ttft_p95=3s", "infinite: memory without end, which nobody has, meets it."),
        ("ttft_p95=1ms", "infinite: memory without end, which nobody has, misses it: no size can do"),
    ],
)
def test_an_infinite_cache_is_a_bound_and_has_no_size(target: str, said: str, tmp_path: Path) -> None:
    found = planned(replace(question(target), policies=[make_policy("infinite", "", {})]), tmp_path / "out")
    write_plan(found, tmp_path / "out")
    text = (tmp_path / "out" / "plan.md").read_text()
    assert found.num_cells == 1
    assert said in text
    assert "| infinite (a bound) | no limit |" in text
    assert "smallest GPU tier" not in text
    (answer,) = json.loads((tmp_path / "out" / "plan.json").read_text())["answers"]
    assert "gpu_blocks" not in answer
    assert answer["met"] == (found.answers[0].point is not None)


def test_all_targets_have_to_be_met(plan: tuple[Plan, Path], tmp_path: Path) -> None:
    stricter = planned(question("ttft_p95=3s", "workflows_per_s=150/h", ratios=(0.0,)), tmp_path / "out")
    for answer in stricter.answers:
        if answer.point is not None:
            assert answer.point.values["workflows_per_s"] >= 150 / 3600  # type: ignore[operator] # it ran
            assert answer.point.values["ttft_p95"] <= 3  # type: ignore[operator] # it ran


def test_the_plan_is_written_as_text_figure_json_and_cells(plan: tuple[Plan, Path]) -> None:
    write_plan(*plan)
    text = (plan[1] / "plan.md").read_text()
    assert "GPU GiB" in text
    assert "Every size that was simulated" in text
    assert (plan[1] / "plan.png").read_bytes().startswith(b"\x89PNG")
    facts = pd.read_json(plan[1] / "plan.json", typ="series")
    assert [answer["policy"] for answer in facts["answers"]] == ["lru", "pbkv"]
    assert len(pd.read_parquet(plan[1] / "cells")) == plan[0].num_cells


def test_too_little_memory_for_the_longest_call_is_one_line(tmp_path: Path) -> None:
    asked = replace(question("ttft_p95=3s"), most_gpu_bytes=2**20)
    with pytest.raises(ConfigError, match=r"--most-gpu-gib: got 0.00, expected at least \d.\d\d GiB"):
        planned(asked, tmp_path / "out")


@pytest.mark.parametrize("step", [0.0, float("nan"), 2.0])
def test_a_step_has_to_be_a_share(step: float) -> None:
    with pytest.raises(ConfigError, match="--step: got"):
        question("ttft_p95=3s", step=step)


@pytest.mark.parametrize("gib", ["0", "nan", "inf"])
def test_the_most_memory_is_a_finite_number(gib: str, tmp_path: Path) -> None:
    command = ["plan", "none.parquet", "--target", "ttft_p95=3s", "--most-gpu-gib", gib]
    done = subprocess.run(
        [sys.executable, "-m", "pbkv", *command, "-o", str(tmp_path / "out")], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: --most-gpu-gib: got {float(gib)}, expected a finite number > 0"
    ]
