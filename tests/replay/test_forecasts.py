"""Forecasts beside the model: the same rows, told late and in order, and nothing left behind at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from threading import enumerate as threads
from time import sleep
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pbkv.cache.activity import Activity, TimedActivity
from pbkv.cache.blocks import PathTable
from pbkv.cache.config import CacheConfig
from pbkv.cache.follower import Follower
from pbkv.cache.manager import CacheManager
from pbkv.cache.pbkv import DiscountedReuse, ExpectedReuse, RetiredFirst
from pbkv.cache.policy import Policy, PolicyOptions
from pbkv.predict.forecast import Forecast
from pbkv.predict.graph import Graph
from pbkv.predict.live import LiveCalls
from pbkv.predict.model_file import Facts, write_model
from pbkv.predict.network import Floats, Network
from pbkv.replay.forecasts import SideForecasts, Told
from pbkv.replay.machine import machine_of
from pbkv.replay.model import load_model
from pbkv.replay.run import replay
from pbkv.replay.settings import ReplaySettings
from pbkv.replay.side import DeviceNetwork, SideThread, side_of
from pbkv.serve.config import EngineConfig
from pbkv.serve.request import Request
from pbkv.traces.errors import ConfigError
from pbkv.traces.reader import Trace
from pbkv.traces.schema import Call, TraceMetadata, Workflow
from pbkv.traces.writer import write_trace
from tests.predict.twin import random_arrays

CPU = torch.device("cpu")
AGENTS, STEPS, SIZE = ("a", "b", "c"), 3, 8


def arrays(num_dims: int, agents: Sequence[str] = AGENTS) -> dict[str, Floats]:
    return random_arrays(np.random.default_rng(4), len(agents), STEPS, SIZE, num_dims, 0.5)


def graph(num_dims: int = 6, num_steps: int = STEPS) -> Graph:
    return Graph(AGENTS, Network(arrays(num_dims), STEPS), "column", num_steps)


def running(name: str, agents: str) -> Workflow:
    """One call an agent; agent i's prompt is private to the workflow and eight tokens long."""
    calls = [
        Call(i, agent, (), None, (ord(agent) * 100 + ord(name),), (8,), 1) for i, agent in enumerate(agents)
    ]
    return Workflow(name, "app", None, LiveCalls(calls))


def request_of(workflow: Workflow, position: int) -> Request:
    call = workflow.calls[position]
    return Request(workflow, call, PathTable(4).path(call.segment_ids, call.segment_tokens), 0.0)


def states(num: int, num_dims: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, num_dims, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------- the same rows


@given(st.lists(st.text("abcz", min_size=1, max_size=6), min_size=1, max_size=5), st.integers(0, 9))
def test_the_device_s_forecasts_are_those_of_the_numpy_network(paths: list[str], seed: int) -> None:
    """z was not trained on; a state of NaN counts as the mean, one far out as four deviations."""
    predictor, hidden = graph(), states(len(paths), seed=seed)
    hidden[0, 0], hidden[-1, 1] = float("nan"), 1e6
    flows = [running(str(number), path) for number, path in enumerate(paths)]
    inputs = [predictor.inputs(flow, len(flow.calls) - 1) for flow in flows]
    current, history = np.array([row for row, _ in inputs]), np.stack([counts for _, counts in inputs])
    known = torch.from_numpy(predictor.network.known(current, history))
    logits = DeviceNetwork(predictor.network, CPU)(known, hidden).numpy()
    expected = predictor.network.forecasts(current, history, hidden.numpy())
    np.testing.assert_allclose(predictor.network.rows_of(logits), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_the_thread_tells_is_what_the_predictor_would_have_said(dtype: torch.dtype) -> None:
    predictor, told, seen = graph(num_steps=2), running("x", "abacb"), running("y", "abacb")
    beside = SideForecasts(predictor, side_of(predictor.network, CPU), lambda told: None)
    hidden = states(5).to(dtype)
    for position, state in enumerate(hidden):
        beside.start([request_of(told, position)], [state])
    beside.wait()
    assert [request.position for request in beside.take()] == [0, 1, 2, 3, 4]
    for position, state in enumerate(hidden):
        assert isinstance(seen.calls, LiveCalls)
        seen.calls.show(position, state.float().tolist())
        found = predictor.forecast(told, position)
        assert found.shape == (2, 4)
        np.testing.assert_allclose(found, predictor.forecast(seen, position), atol=1e-5)
    beside.close()


# ---------------------------------------------------------------------- late, and in order


class HandSide:
    """A `Side` whose batches come when the test says so."""

    def __init__(self) -> None:
        self.batches: list[HandBatch] = []

    def start(self, known: Floats, hidden: Any) -> HandBatch:
        self.batches.append(HandBatch(np.zeros((len(known), STEPS * 4), np.float32)))
        return self.batches[-1]

    def close(self) -> None:
        pass


class HandBatch:
    def __init__(self, logits: Floats) -> None:
        self.logits, self.is_there = logits, False

    def has_come(self) -> bool:
        return self.is_there

    def result(self) -> tuple[Floats, float]:
        return self.logits, 0.001


def test_forecasts_are_taken_in_the_order_of_their_calls_whichever_comes_first() -> None:
    side, told = HandSide(), list[Told]()
    beside, flow, other = SideForecasts(graph(), side, told.append), running("x", "abc"), running("y", "ab")
    beside.start([request_of(flow, 0), request_of(other, 0)], list(states(2)))
    beside.start([request_of(flow, 1)], list(states(1)))
    side.batches[1].is_there = True
    assert (beside.take(), beside.num_under_way) == ([], 3)
    side.batches[0].is_there = True
    taken = [(request.workflow.workflow_id, request.position) for request in beside.take()]
    assert taken == [("x", 0), ("y", 0), ("x", 1)]
    assert [one.num_calls for one in told] == [2, 2, 1]
    assert beside.num_under_way == 0


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=5, max_size=40),
    st.sampled_from([0.5, 1.0, 2.5]),
)
def test_until_a_forecast_comes_the_policy_acts_as_with_the_fault_of_a_delay(
    story: list[tuple[int, bool]], delay_s: float
) -> None:
    """Which is: the workflow's last forecast stands, and one that comes after its end is dropped."""
    vectors = states(400).numpy()
    late = Played(TimedActivity(graph(), WEIGH, forecast_delay_s=delay_s), vectors, None)
    beside = Played(Activity(graph(), WEIGH), vectors, delay_s)
    for number, ends in story:
        late.call(number, ends)
        beside.call(number, ends)
    assert late.manager.tiers.events == beside.manager.tiers.events
    assert not any(abs(a - b) > 1e-5 for a, b in zip(late.worths(), beside.worths(), strict=True))


WEIGH = DiscountedReuse(0.7)


class Played:
    """A cache of six blocks; one call a second, whose forecast comes ``delay_s`` later or is the policy's."""

    def __init__(self, activity: Activity, vectors: Floats, delay_s: float | None) -> None:
        self.activity, self._vectors, self._delay_s = activity, vectors, delay_s
        self._predictor = graph()
        policy = Policy(ExpectedReuse(activity), RetiredFirst(), (activity,))
        self.manager = CacheManager(CacheConfig(6, 0, 4), PathTable(4), policy)
        self._flows: dict[int, tuple[Workflow, int]] = {}
        self._due: list[tuple[float, Workflow, int, Forecast]] = []
        self._num_flows, self._num_calls = 0, 0

    def call(self, number: int, ends: bool) -> None:
        self._num_calls += 1
        now_s = float(self._num_calls)
        while self._due and self._due[0][0] <= now_s:
            _, flow, position, forecast = self._due.pop(0)
            flow.calls.tell(position, forecast)  # type: ignore[attr-defined]
            self.manager.call_foreseen(flow, position, now_s)
        flow, position = self._flows.get(number) or self._begun()
        self._flows[number] = flow, position + 1
        self._serve(flow, position, now_s)
        if ends or position + 1 == len(flow.calls):
            del self._flows[number]
            self.manager.workflow_ended(flow, now_s)

    def worths(self) -> list[float]:
        self.activity.passed(float(self._num_calls))
        return [self.activity.score(node) for node in self.manager.tree.nodes()]

    def _begun(self) -> tuple[Workflow, int]:
        self._num_flows += 1
        return running(chr(64 + self._num_flows), "abcabcba"), 0

    def _serve(self, flow: Workflow, position: int, now_s: float) -> None:
        call = flow.calls[position]
        self.manager.call_submitted(flow, position, now_s)
        path = self.manager.table.path(call.segment_ids, call.segment_tokens)
        admission = self.manager.admit(path, flow.workflow_id, now_s, agent=call.agent)
        assert admission is not None
        self.manager.commit(admission.lease, now_s)
        vector = self._vectors[self._num_calls].tolist()
        if self._delay_s is None:
            flow.calls.show(position, vector)  # type: ignore[attr-defined]
        else:
            forecast = self._predictor.at(flow, position, vector)
            flow.calls.expect(position)  # type: ignore[attr-defined]
            self._due.append((now_s + self._delay_s, flow, position, forecast))
        self.manager.call_computed(flow, position, now_s)
        self.manager.finish(admission.lease, None, 8, now_s)
        self.manager.call_ended(flow, position, now_s)


def test_followers_that_do_not_look_ahead_are_not_told() -> None:
    follower = Follower()
    policy = Policy(RetiredFirst(), RetiredFirst(), (follower,))
    CacheManager(CacheConfig(2, 0, 4), PathTable(4), policy).call_foreseen(running("x", "a"), 0, 0.0)


# ---------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (
            RuntimeError("no kernel\nfor this"),
            ConfigError,
            "predictor next.safetensors: got RuntimeError: no",
        ),
        (torch.OutOfMemoryError("no room\nat all"), MemoryError, "no room"),
    ],
)
@pytest.mark.parametrize("asked", [SideForecasts.take, SideForecasts.wait])
def test_an_error_beside_is_one_line_where_the_forecast_is_taken(
    error: Exception, raised: type[Exception], said: str, asked: Callable[[SideForecasts], Any]
) -> None:
    def failing(known: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        raise error

    predictor = graph()
    predictor.source = "next.safetensors"
    side = SideThread(failing)  # type: ignore[arg-type] # a network in all that matters
    beside = SideForecasts(predictor, side, lambda told: None)
    beside.start([request_of(running("x", "ab"), 0)], list(states(1)))
    side.close()
    with pytest.raises(raised) as caught:
        asked(beside)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------- in a replay


@pytest.fixture
def one_core() -> Iterator[None]:
    """For torch: two threads that wait for each other on a busy machine take ten times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def tiny() -> Any:
    return load_model("random:tiny", CPU)


def replayed(folder: Path, name: str, **changes: Any) -> Path:
    """Eight small workflows through a tiny model, by PBKV with a network on the model's states."""
    trace, file = folder / "few.parquet", folder / "next.safetensors"
    if not trace.exists():
        write_trace(trace, (growing(number) for number in range(8)), TraceMetadata("by hand"))
        write_model(file, arrays(64), Facts("graph", AGENTS, STEPS, "column", 64))
    model = tiny()
    settings = ReplaySettings(
        profile=machine_of("random:tiny", model, CPU, 512),
        policies=("pbkv",),
        policy_options=PolicyOptions(str(file)),
        gpu_blocks=(40,),
        concurrencies=(4,),
        block_size=16,
        engine=EngineConfig(128, 16),
    )
    replay([Trace(trace)], replace(settings, **changes), model, folder / name)
    return folder / name


def growing(number: int) -> Workflow:
    """Seven calls of three agents, each behind what was said before."""
    calls = []
    for i, agent in enumerate("abcabca"):
        ids, lengths = tuple(100 * number + k for k in range(i + 1)), (40, *[17] * i)
        calls.append(Call(i, agent, (i - 1,) if i else (), 0.01, ids, lengths, 4))
    return Workflow(f"w{number}", "app", None, calls)


def no_thread_is_left() -> bool:
    return not [thread for thread in threads() if thread.name.startswith("pbkv")]


@pytest.mark.usefixtures("one_core")
def test_a_replay_tells_each_forecast_once_in_the_order_of_its_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though each takes as long as some iterations."""
    run = SideThread._run

    def slow(self: SideThread, *given: Any) -> Any:
        sleep(0.02)
        return run(self, *given)

    monkeypatch.setattr(SideThread, "_run", slow)
    folder = replayed(tmp_path, "run")
    calls, told = (pq.read_table(folder / f"{name}.parquet").to_pylist() for name in ("calls", "forecasts"))
    calls.sort(key=lambda call: call["first_token_at_s"])
    ends_s = {(call["workflow_id"], call["call_index"]): call["first_token_at_s"] for call in calls}
    names = [(row["workflow_id"], row["call_index"]) for row in told]
    assert sorted(names) == sorted(ends_s)
    assert [ends_s[name] for name in names] == sorted(ends_s.values())
    assert all(row["seconds"] >= 0.02 and row["late_s"] >= 0 for row in told)
    assert max(row["late_s"] for row in told) > 0.0
    assert no_thread_is_left()
    assert json.loads((folder / "run.json").read_text())["complete"]


@pytest.mark.usefixtures("one_core")
def test_the_debug_mode_asks_at_once(tmp_path: Path) -> None:
    folder = replayed(tmp_path, "run", check=True)
    assert pq.read_table(folder / "forecasts.parquet").num_rows == 0


@pytest.mark.usefixtures("one_core")
def test_an_error_beside_ends_the_replay_and_its_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> torch.Tensor:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(DeviceNetwork, "__call__", failing)
    with pytest.raises(ConfigError, match=r"predictor .*next\.safetensors: got RuntimeError: no kernel"):
        replayed(tmp_path, "run")
    assert no_thread_is_left()
    assert not (tmp_path / "run").exists()
