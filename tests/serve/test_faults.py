"""Faulty clients: what they get wrong, that it is the same for every policy, and what policies make of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pbkv.analysis import load
from pbkv.cache.policy import PolicyOptions
from pbkv.serve.faults import MISSING_AGENT, Client, Faults
from pbkv.sim import Settings, load_profile, simulate
from pbkv.traces.errors import ConfigError
from pbkv.traces.reader import Trace
from pbkv.traces.schema import Call, Workflow

TRACE = Path(__file__).parents[1] / "data" / "hover-30.parquet"


def workflow(name: str, agents: str) -> Workflow:
    return Workflow(
        name, "app", None, [Call(i, agent, (), 1.0, (1,), (1,), 1) for i, agent in enumerate(agents)]
    )


def agents_of(flow: Workflow) -> list[str]:
    return [call.agent for call in flow.calls]


def test_without_faults_the_truth_is_told() -> None:
    client, flow = Client(Faults(), 0), workflow("w", "abc")
    assert client.describe(flow) is flow
    assert client.end_delay_s(flow) == 0


def test_ids_are_wrong_or_missing_as_often_as_asked_for() -> None:
    client = Client(Faults(wrong_agent_ratio=0.2, missing_agent_ratio=0.1), 0)
    told = agents_of(client.describe(workflow("w", "abcd" * 500)))
    num_missing = told.count(MISSING_AGENT)
    num_wrong = sum(was != says for was, says in zip("abcd" * 500, told, strict=True)) - num_missing
    assert num_missing == pytest.approx(200, abs=45)  # more than three standard deviations
    assert num_wrong == pytest.approx(360, abs=60)
    assert set(told) == {*"abcd", MISSING_AGENT}


def test_a_workflow_meets_the_same_faults_whoever_went_before() -> None:
    faults = Faults(lost_end_ratio=0.5, missing_agent_ratio=0.5)
    first, second = Client(faults, 3), Client(faults, 3)
    second.describe(workflow("other", "abc"))
    flow = workflow("w", "abcabc")
    assert agents_of(first.describe(flow)) == agents_of(second.describe(flow))
    assert first.end_delay_s(flow) == second.end_delay_s(flow)


def test_tool_times_may_be_unknown() -> None:
    described = Client(Faults(no_tool_times=True), 0).describe(workflow("w", "ab"))
    assert [call.tool_gap_s for call in described.calls] == [None, None]


def test_ends_are_lost_as_often_as_asked_for() -> None:
    client = Client(Faults(lost_end_ratio=0.25, late_end_s=2.0), 0)
    delays = [client.end_delay_s(workflow(f"w{i}", "a")) for i in range(1000)]
    assert delays.count(None) == pytest.approx(250, abs=45)
    assert set(delays) == {None, 2.0}


@pytest.mark.parametrize(
    "text",
    [
        "lost-end=2",
        "late-end=-1",
        "wrong-agent=x",
        "no-tool-times=1",
        "lost-end",
        "tea",
        "late-end=inf",
        "lost-end=0,lost-end=1",
    ],
)
def test_bad_faults_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        Faults.parse(text)


def test_faults_are_read_from_a_line() -> None:
    assert Faults.parse("lost-end=0.1, late-end=5,no-tool-times") == Faults(0.1, 5.0, no_tool_times=True)
    assert Faults.parse("") == Faults()


def test_lost_ends_hurt_lae_and_a_timeout_mends_it(tmp_path: Path) -> None:
    """What nobody says has ended is never retired, until a timeout retires it."""
    truth = evicted_tokens(tmp_path / "truth", Faults(), PolicyOptions())
    lost = evicted_tokens(tmp_path / "lost", Faults(lost_end_ratio=1.0), PolicyOptions())
    mended = evicted_tokens(
        tmp_path / "mended", Faults(lost_end_ratio=1.0), PolicyOptions(idle_timeout_s=3.0)
    )
    assert truth < mended < lost


def test_lru_does_not_care(tmp_path: Path) -> None:
    faults = Faults(lost_end_ratio=1.0, wrong_agent_ratio=1.0)
    assert evicted_tokens(tmp_path / "a", Faults(), PolicyOptions(), "lru") == evicted_tokens(
        tmp_path / "b", faults, PolicyOptions(), "lru"
    )


def evicted_tokens(out: Path, faults: Faults, options: PolicyOptions, policy: str = "lae") -> int:
    settings = Settings(
        load_profile("a6000-qwen3-14b"),
        policies=(policy,),
        policy_options=options,
        gpu_blocks=(2400,),
        concurrencies=(12,),
        faults=faults,
    )
    simulate([Trace(TRACE)], settings, out)
    return int(load(out).calls.num_evicted_tokens.sum())
