"""What the paper proves of its score (appendix G), and what its order of eviction rests on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbkv.cache.activity import Activity
from pbkv.cache.blocks import PathTable
from pbkv.cache.config import CacheConfig
from pbkv.cache.decisions import Lease
from pbkv.cache.eviction import Lru
from pbkv.cache.inheritance import make_inheritance
from pbkv.cache.manager import CacheManager
from pbkv.cache.pbkv import DiscountedReuse, ExpectedReuse
from pbkv.cache.policy import Policy
from pbkv.cache.tree import Node
from pbkv.predict.forecast import Forecast, conditional, survival
from pbkv.predict.markov import Markov
from pbkv.traces.schema import Call, Workflow
from tests.strategies import calls

AGENTS = "abc"
TOLERANCE = 1e-9  # sums of at most some dozens of products, in another order
ROW = st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0]), min_size=4, max_size=4).filter(sum)
GAMMA = st.sampled_from([0.0, 0.3, 0.7, 0.99, 1.0])
TOUCHED = st.sets(st.integers(0, 2))  # agents, by column


def rows_of(drawn: Sequence[Sequence[float]]) -> Forecast:
    return np.array([np.array(row) / sum(row) for row in drawn])


@st.composite
def forecasts(draw: st.DrawFn, num_steps: int) -> Forecast:
    """Conditional rows over three agents and END."""
    return rows_of(draw(st.lists(ROW, min_size=num_steps, max_size=num_steps)))


@st.composite
def pairs_of_forecasts(draw: st.DrawFn) -> list[tuple[Forecast, Forecast]]:
    """The truth and an estimate for each of one to three workflows, over the same K ≤ 3."""
    num_steps = draw(st.integers(1, 3))
    pair = st.tuples(forecasts(num_steps), forecasts(num_steps))
    return draw(st.lists(pair, min_size=1, max_size=3))


def score(touched: set[int], forecast: Forecast, gamma: float) -> float:
    return float(DiscountedReuse(gamma)(forecast)[sorted(touched)].sum())


def distance(truth: Forecast, estimate: Forecast, gamma: float) -> float:
    """One workflow's part of ε: Σ over k of γ^(k−1) · ‖P − P̂‖₁."""
    return float(gamma ** np.arange(len(truth)) @ np.abs(truth - estimate).sum(axis=1))


def factor(num_steps: int, gamma: float) -> float:
    """(1 − γ^K) / (2 (1 − γ)), written so that γ = 1 needs no limit."""
    return sum(gamma**k for k in range(num_steps)) / 2


# ---------------------------------------------------------------------- G.1


def expected_misses(touched: set[int], forecast: Forecast, gamma: float) -> float:
    """Over every future of one workflow: its chance × its discounted misses of an entry that is gone."""
    num_steps, end = len(forecast), forecast.shape[1] - 1
    total = 0.0
    for future in product(range(end + 1), repeat=num_steps):
        chance, misses, is_alive = 1.0, 0.0, True
        for k, outcome in enumerate(future):
            if is_alive:
                chance *= forecast[k, outcome]
                misses += gamma**k * (outcome in touched)
                is_alive = outcome != end
            elif outcome != end:
                chance = 0.0  # nothing follows an end
        total += chance * misses
    return total


class Told:
    """A predictor that says what it has been told, by workflow."""

    agents = tuple(AGENTS)

    def __init__(self, forecasts: dict[str, Forecast]) -> None:
        self._forecasts = forecasts

    def forecast(self, workflow: Workflow, position: int) -> Forecast:
        return self._forecasts[workflow.workflow_id]

    def end(self, workflow: Workflow) -> None:
        """Nothing to learn."""


@given(drawn=pairs_of_forecasts(), touched=st.lists(TOUCHED, min_size=3, max_size=3), gamma=GAMMA)
def test_g1_the_score_is_the_expected_discounted_number_of_misses(
    drawn: list[tuple[Forecast, Forecast]], touched: list[set[int]], gamma: float
) -> None:
    truths = {f"w{i}": truth for i, (truth, _) in enumerate(drawn)}
    activity = Activity(Told(truths), DiscountedReuse(gamma))
    root, path = Node(None, [], [], 0, 0, ""), PathTable(4).path([1], [8])
    entry = Node(root, path.keys, path.ends, 0, 1, "w0")
    expected = 0.0
    for (name, truth), agents in zip(truths.items(), touched, strict=False):
        for agent in sorted(agents):
            activity.touched(entry, Lease(path, name, AGENTS[agent], entry))
        call = Call(0, AGENTS[min(agents, default=0)], (), None, (1,), (8,), 1)
        activity.computed(Workflow(name, "app", None, [call]), 0, 0.0)
        expected += expected_misses(agents, truth, gamma)
    assert activity.score(entry) == pytest.approx(expected, abs=TOLERANCE)


# ---------------------------------------------------------------------- G.2


@given(drawn=pairs_of_forecasts(), touched=st.lists(TOUCHED, min_size=3, max_size=3), gamma=GAMMA)
@settings(max_examples=500)
def test_g2_the_error_of_a_score_is_bounded_by_that_of_the_forecast(
    drawn: list[tuple[Forecast, Forecast]], touched: list[set[int]], gamma: float
) -> None:
    """With conditional rows, whose survival differs too."""
    error = epsilon = 0.0
    for (truth, estimate), agents in zip(drawn, touched, strict=False):
        error += score(agents, truth, gamma) - score(agents, estimate, gamma)
        epsilon += distance(truth, estimate, gamma)
    assert abs(error) <= factor(len(drawn[0][0]), gamma) * epsilon + TOLERANCE


@given(num_steps=st.integers(1, 5), gamma=GAMMA)
def test_g2_is_attained_by_an_end_that_was_not_foreseen(num_steps: int, gamma: float) -> None:
    """The first step's row is wrong and no other: all that would have followed is counted in vain."""
    estimate = rows_of([[1, 0, 0, 0]] * num_steps)
    truth = estimate.copy()
    truth[0] = [0, 0, 0, 1]
    error = score({0}, estimate, gamma) - score({0}, truth, gamma)
    assert error == pytest.approx(factor(num_steps, gamma) * distance(truth, estimate, gamma))
    over_agents_alone = distance(truth[:, :-1], estimate[:, :-1], gamma)
    assert error > factor(num_steps, gamma) * over_agents_alone  # END must be an outcome


@given(drawn=pairs_of_forecasts(), touched=TOUCHED, gamma=GAMMA)
def test_g2_of_marginal_rows_needs_no_factor_but_a_half(
    drawn: list[tuple[Forecast, Forecast]], touched: set[int], gamma: float
) -> None:
    truth, estimate = (_marginal(each) for each in drawn[0])
    error = score(touched, conditional(truth), gamma) - score(touched, conditional(estimate), gamma)
    assert abs(error) <= distance(truth, estimate, gamma) / 2 + TOLERANCE


def _marginal(forecast: Forecast) -> Forecast:
    """The chance of each agent at step k, and that it has ended by then."""
    alive = survival(forecast)
    rows: Forecast = forecast * alive[:, None]
    rows[:, -1] += 1 - alive
    return rows


# ---------------------------------------------------------------------- G.4


@given(
    drawn=pairs_of_forecasts(),
    entries=st.lists(st.lists(TOUCHED, min_size=3, max_size=3), min_size=1, max_size=7),
    num_evicted=st.integers(0, 7),
    gamma=GAMMA,
)
@settings(max_examples=300)
def test_g4_the_regret_is_bounded_by_what_was_confused(
    drawn: list[tuple[Forecast, Forecast]],
    entries: list[list[set[int]]],
    num_evicted: int,
    gamma: float,
) -> None:
    truths, estimates = ([pair[i] for pair in drawn] for i in (0, 1))
    true = [_total(entry, truths, gamma) for entry in entries]
    best = _lowest(true, num_evicted)
    chosen = _lowest([_total(entry, estimates, gamma) for entry in entries], num_evicted)
    regret = sum(true[i] for i in chosen) - sum(true[i] for i in best)
    # ε of an entry sums over those of its workflows that are active
    epsilons = [
        sum(distance(*pair, gamma) for pair, agents in zip(drawn, entry, strict=False) if agents)
        for entry in entries
    ]
    confused = sum(epsilons[i] for i in chosen ^ best)
    assert -TOLERANCE <= regret <= factor(len(truths[0]), gamma) * confused + TOLERANCE


def _total(entry: Sequence[set[int]], rows: Sequence[Forecast], gamma: float) -> float:
    return sum(score(agents, row, gamma) for agents, row in zip(entry, rows, strict=False))


def _lowest(scores: Sequence[float], number: int) -> set[int]:
    return set(sorted(range(len(scores)), key=lambda i: scores[i])[:number])


@given(
    drawn=pairs_of_forecasts(),
    entries=st.lists(st.lists(TOUCHED, min_size=3, max_size=3), min_size=1, max_size=5),
    num_evicted=st.integers(0, 5),
    gamma=GAMMA,
)
@settings(deadline=None)
def test_g4_with_a_perfect_forecast_no_other_choice_misses_less(
    drawn: list[tuple[Forecast, Forecast]], entries: list[list[set[int]]], num_evicted: int, gamma: float
) -> None:
    """Every choice of as many entries is tried, its misses counted over all futures."""
    truths = [truth for truth, _ in drawn]
    misses = [
        sum(expected_misses(agents, truth, gamma) for agents, truth in zip(entry, truths, strict=False))
        for entry in entries
    ]
    chosen = _lowest([_total(entry, truths, gamma) for entry in entries], num_evicted)
    least = min(sum(choice) for choice in combinations(misses, len(chosen)))
    assert sum(misses[i] for i in chosen) == pytest.approx(least, abs=TOLERANCE)


# ---------------------------------------------------------------------- along a path


STEP = st.one_of(
    st.tuples(st.just("start"), st.integers(0, 3), calls()),
    st.tuples(st.sampled_from(["finish", "finish", "preempt", "end"]), st.integers(0, 3), st.none()),
)


class History:
    """Calls of four workflows that come and go, under PBKV's eviction on both tiers."""

    def __init__(self, inherit: str, gpu_blocks: int, host_blocks: int) -> None:
        self.activity = Activity(Markov(2), DiscountedReuse(0.7), make_inheritance(inherit))
        policy = Policy(ExpectedReuse(self.activity), Lru(), (self.activity,))
        config = CacheConfig(gpu_blocks, host_blocks, 4, min_load_tokens=0)
        self.manager = CacheManager(config, PathTable(4), policy)
        self.running: list[tuple[Lease, Workflow]] = []
        self.calls: dict[int, list[Call]] = {}
        self.num_ended = [0] * 4
        self.now_s = 0.0

    def start(self, owner: int, call: Call) -> None:
        path = self.manager.table.path(call.segment_ids, call.segment_tokens)
        name = f"{owner}.{self.num_ended[owner]}"
        admission = self.manager.admit(path, name, self.now_s, agent=call.agent)
        if admission is None:
            return
        if admission.load is not None:
            self.manager.end_load(admission.load)
        self.manager.commit(admission.lease, self.now_s)
        made = self.calls.setdefault(owner, [])
        made.append(call._replace(call_index=len(made)))
        flow = Workflow(name, "app", None, list(made))
        self.manager.call_computed(flow, len(made) - 1, self.now_s)
        self.running.append((admission.lease, flow))

    def finish(self, index: int) -> None:
        if self.running:
            lease, _ = self.running.pop(index % len(self.running))
            self.manager.finish(lease, None, lease.path.num_tokens, self.now_s)

    def preempt(self, index: int) -> None:
        if self.running:
            lease, _ = self.running.pop(index % len(self.running))
            self.manager.preempt(lease, lease.path.num_tokens)

    def end(self, owner: int) -> None:
        name = f"{owner}.{self.num_ended[owner]}"
        if owner in self.calls and all(flow.workflow_id != name for _, flow in self.running):
            self.manager.workflow_ended(Workflow(name, "app", None, self.calls.pop(owner)), self.now_s)
            self.num_ended[owner] += 1

    def check(self) -> None:
        activity = self.activity
        for node in self.manager.tree.nodes():
            above = node.parent
            if above is not None and above.parent is not None:
                assert activity.score(above) >= activity.score(node) - TOLERANCE
                assert activity.value(above) >= activity.value(node) - TOLERANCE
                assert above.num_workflows >= node.num_workflows
                assert set(above.tags or ()) >= set(node.tags or ())


@pytest.mark.parametrize("inherit", ["none", "learned", "all"])
@given(steps=st.lists(STEP, max_size=60), gpu_blocks=st.integers(15, 40), host_blocks=st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_nothing_rises_with_depth(
    inherit: str, steps: list[tuple[str, int, Call | None]], gpu_blocks: int, host_blocks: int
) -> None:
    """Score, value and the number of touching workflows (spec §3): so leaves may go first."""
    history = History(inherit, gpu_blocks, host_blocks)
    for name, number, call in steps:
        history.now_s += 1.0
        if call is not None:
            history.start(number, call)
        else:
            getattr(history, name)(number)
        for offload in history.manager.tiers.take_offloads():
            history.manager.tiers.end_offload(offload, history.now_s)
        history.check()
