"""Predictors: what they know, what they may know, and that their rows are conditional."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbkv.cache.pbkv import DiscountedReuse
from pbkv.predict.forecast import Forecast, Predictor, as_conditional, conditional, survival
from pbkv.predict.markov import Markov
from pbkv.predict.named import named_predictor
from pbkv.predict.noisy import Noisy
from pbkv.predict.oracle import Oracle
from pbkv.predict.silent import Silent
from pbkv.traces.errors import ConfigError
from pbkv.traces.schema import Workflow
from tests.predict.twin import END, MarkovTwin, workflow

AGENTS = st.lists(st.sampled_from("abc"), min_size=1, max_size=8)


def named(predictor: Predictor, agents: Sequence[str], position: int) -> list[dict[str, float]]:
    """The rows of a forecast as {agent or END: chance}, zeros left out."""
    rows = predictor.forecast(workflow(agents), position)
    names = [*predictor.agents, "END"]
    return [{name: round(float(p), 6) for name, p in zip(names, row, strict=True) if p} for row in rows]


def test_the_oracle_knows_the_next_calls_and_the_end() -> None:
    assert named(Oracle(3), "abcab", 2) == [{"a": 1.0}, {"b": 1.0}, {"END": 1.0}]


def test_markov_counts_what_came_k_calls_later() -> None:
    markov = Markov(order=1, num_steps=2, learns_online=False)
    markov.learn([workflow("aba"), workflow("abb"), workflow("ab")])
    assert named(markov, "a", 0) == [
        {"b": 0.75, "END": 0.25},
        {"a": 0.333333, "b": 0.333333, "END": 0.333333},
    ]


def test_markov_backs_off_from_contexts_it_has_not_seen() -> None:
    markov = Markov(order=3, num_steps=1, learns_online=False)
    markov.learn([workflow("ab"), workflow("cb")])
    assert named(markov, "cab", 1) == [{"b": 1.0}]  # (c, a) was never seen, (a) was
    assert named(markov, "zz", 1) == [{"b": 0.5, "END": 0.5}]  # nor was z: what comes after anything


def test_markov_starts_from_nothing_and_learns_while_serving() -> None:
    markov = Markov(order=1, num_steps=1)
    assert named(markov, "ab", 0) == [{"a": 0.5, "END": 0.5}]
    assert named(markov, "ab", 1) == [{"b": 1.0}]  # b came after a: all that was ever seen to follow
    markov.end(workflow("ab"))
    assert named(markov, "ab", 0) == [{"b": 1.0}]


@given(past=AGENTS, one=AGENTS, other=AGENTS, order=st.integers(0, 3))
def test_markov_never_looks_ahead(past: list[str], one: list[str], other: list[str], order: int) -> None:
    markov = Markov(order, learns_online=False)
    markov.learn([workflow("abcabc")])
    position = len(past) - 1
    assert named(markov, past + one, position) == named(markov, past + other, position)


@given(paths=st.lists(AGENTS, min_size=1, max_size=6), order=st.integers(0, 3), steps=st.integers(1, 4))
def test_markov_counts_as_its_naive_twin_does(paths: list[list[str]], order: int, steps: int) -> None:
    """Online, several workflows at a time: all first calls, then all second ones, and so on."""
    markov, twin = Markov(order, steps), MarkovTwin(order, steps)
    live = [workflow(path, name=str(i)) for i, path in enumerate(paths)]
    for position in range(max(map(len, paths)) + 1):
        for one, path in zip(live, paths, strict=True):
            if position < len(path):
                twin.learn(path[:position], path[position])
                rows = markov.forecast(one, position)
                names = [*markov.agents, END]
                found = [{n: p for n, p in zip(names, row.tolist(), strict=True) if p} for row in rows]
                assert found == twin.rows(path[: position + 1])
            elif position == len(path):
                twin.learn(path, END)
                markov.end(one)


def test_a_call_asked_about_out_of_order_is_learnt_all_the_same() -> None:
    orders = [(0, 1, 2), (0, 2, 1)]
    found = []
    for order in orders:
        markov = Markov(1, 2)
        one = workflow("abc")
        for position in order:
            markov.forecast(one, position)
        markov.end(one)
        found.append(named(markov, "a", 0))
    assert found[0] == found[1] == [{"b": 1.0}, {"c": 1.0}]


def test_none_gives_every_agent_the_weight_zero() -> None:
    for predictor in (named_predictor("none", 3), named_predictor("none", 3, noise=0.4)):
        rows = predictor.forecast(workflow("ab"), 0)
        assert rows.shape == (3, 1)
        assert DiscountedReuse()(rows).size == 0


class _Marginal:
    """Each call is a's; after each the workflow ends with chance ½. END: the chance to have ended by then."""

    is_conditional = False
    agents = ("a",)

    def forecast(self, workflow: Workflow, position: int) -> Forecast:
        alive = 0.5 ** np.arange(1, 4)
        return np.stack([alive, 1 - alive], axis=1)

    def end(self, workflow: Workflow) -> None:
        pass


def test_survival_would_be_counted_twice_in_marginal_rows() -> None:
    """The expected discounted number of calls is .5 + γ · .25 + γ² · .125; used raw, marginals halve it."""
    one, weigh, gamma = workflow("a"), DiscountedReuse(0.8), 0.8
    expected = sum(gamma**k * 0.5 ** (k + 1) for k in range(3))
    assert weigh(as_conditional(_Marginal()).forecast(one, 0))[0] == pytest.approx(expected)
    assert weigh(_Marginal().forecast(one, 0))[0] < 0.9 * expected
    assert weigh(Noisy(_Marginal(), 0.0).forecast(one, 0))[0] == pytest.approx(expected)
    assert as_conditional(markov := Markov()) is markov


@given(paths=st.lists(AGENTS, max_size=5), noise=st.floats(0, 1), steps=st.integers(1, 4))
def test_every_row_is_a_distribution(paths: list[list[str]], noise: float, steps: int) -> None:
    for predictor in (Noisy(Markov(2, steps), noise), Noisy(Oracle(steps), noise), Markov(1, steps)):
        for path in paths:
            for position in range(len(path)):
                rows = predictor.forecast(workflow(path), position)
                assert rows.shape == (steps, len(predictor.agents) + 1)
                assert rows.min() >= 0
                np.testing.assert_allclose(rows.sum(axis=1), 1.0)
            predictor.end(workflow(path))


@given(ends=st.lists(st.floats(0, 0.99), min_size=1, max_size=5), share=st.floats(0, 1))
def test_survival_is_counted_once(ends: list[float], share: float) -> None:
    """Marginal rows of a workflow with these chances to end give back the conditional rows."""
    rows = np.array([[(1 - end) * share, (1 - end) * (1 - share), end] for end in ends])
    alive = survival(rows)
    marginal = rows * alive[:, None]
    marginal[:, -1] = 1 - np.cumprod(1 - rows[:, -1])
    np.testing.assert_allclose(conditional(marginal), rows, atol=1e-9)


def test_bad_knobs_are_refused() -> None:
    for make in (lambda: Markov(-1), lambda: Oracle(0), lambda: Silent(0), lambda: Noisy(Oracle(), 1.5)):
        with pytest.raises(ConfigError):
            make()
