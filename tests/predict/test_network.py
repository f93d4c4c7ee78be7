"""The network in numpy: the formulas as written, call by call and workflow by workflow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbkv.predict.graph import Graph
from pbkv.predict.network import RELATIONS, Floats, Network
from pbkv.traces.errors import TraceError
from tests.predict.twin import network_rows, random_arrays, workflow

AGENTS, STEPS, DIMS, SIZE = "abc", 2, 3, 4
PATHS = st.lists(st.sampled_from("abcz"), min_size=1, max_size=9)  # z was not trained on


def arrays(seed: int = 0, spread: float = 1.0, network: str = "graph") -> dict[str, Floats]:
    """Random weights of a network of that kind; a larger spread makes a sharper attention."""
    rng = np.random.default_rng(seed)
    return random_arrays(rng, len(AGENTS), STEPS, SIZE, DIMS, spread, RELATIONS[network])


def graph(seed: int = 0, spread: float = 1.0, kind: str = "column", network: str = "graph") -> Graph:
    return Graph(tuple(AGENTS), Network(arrays(seed, spread, network), STEPS), kind)


def vectors(num_calls: int, seed: int = 0) -> list[list[float]]:
    drawn: list[list[float]] = np.random.default_rng(seed).standard_normal((num_calls, DIMS)).tolist()
    return drawn


@given(
    path=PATHS,
    seed=st.integers(0, 20),
    spread=st.sampled_from([0.3, 1.0, 2.0]),
    network=st.sampled_from(list(RELATIONS)),
)
def test_it_computes_the_papers_formulas(path: list[str], seed: int, spread: float, network: str) -> None:
    contexts = vectors(len(path), seed)
    table = graph(seed, spread, network=network).table(workflow(path, contexts))
    rows = [("abcz").index(agent) for agent in path]
    for position, x in enumerate(contexts):
        expected = network_rows(arrays(seed, spread, network), rows[: position + 1], np.array(x), STEPS)
        np.testing.assert_allclose(table[position], expected, atol=2e-4)


@given(path=PATHS, seed=st.integers(0, 20))
def test_a_whole_table_is_what_one_call_at_a_time_gives(path: list[str], seed: int) -> None:
    predictor, one = graph(seed), workflow(path, vectors(len(path)))
    for position in range(len(path)):
        alone = predictor.at(one, position)
        np.testing.assert_allclose(predictor.forecast(one, position), alone, atol=1e-6)
        np.testing.assert_allclose(alone.sum(axis=1), 1.0)


@given(past=PATHS, one=PATHS, other=PATHS, kind=st.sampled_from(["column", "none"]))
def test_it_never_looks_ahead(past: list[str], one: list[str], other: list[str], kind: str) -> None:
    first, second = (past + future for future in (one, other))
    shown = vectors(len(past))
    rows = [
        graph(kind=kind).forecast(
            workflow(path, [*shown, *vectors(len(path) - len(past), len(path))]), len(past) - 1
        )
        for path in (first, second)
    ]
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)


def test_a_call_without_a_vector_is_a_call_with_the_mean_vector() -> None:
    mean = arrays()["context_mean"].tolist()
    missing = graph().forecast(workflow("ab", []), 1)
    np.testing.assert_allclose(missing, graph().forecast(workflow("ab", [mean, mean]), 1), atol=1e-6)


def test_an_unseen_agent_has_the_mean_embedding_and_no_column() -> None:
    predictor = graph()
    rows = predictor.network.agent_rows()
    np.testing.assert_allclose(rows[3], arrays()["frequencies"] @ rows[:3], rtol=1e-5)
    assert predictor.forecast(workflow("azb", vectors(3)), 1).shape == (STEPS, 4)
    assert predictor.agents == tuple(AGENTS)


def test_a_history_that_hardly_counts_still_counts() -> None:
    """Attention so sharp that e^(score − best) is no number any more, where the best agent is not there."""
    table = graph(spread=60.0).table(workflow("aabbzc", vectors(6)))
    assert np.isfinite(table).all()


def test_a_server_may_bring_its_own_vector() -> None:
    x = [0.5, -1.0, 2.0]
    given_now = graph().at(workflow("ab"), 1, context=x)
    np.testing.assert_allclose(given_now, graph().forecast(workflow("ab", [x, x]), 1), atol=1e-6)


def test_a_vector_of_another_length_is_refused() -> None:
    with pytest.raises(TraceError, match="call 1: got 2 values, expected 3"):
        graph().forecast(workflow("ab", [[1.0, 2.0, 3.0], [1.0, 2.0]]), 0)


def test_a_workflow_that_grew_or_another_of_its_name_is_worked_out_anew() -> None:
    predictor, calls = graph(kind="none"), list(workflow("ab").calls)
    growing = workflow("a")
    object.__setattr__(growing, "calls", calls[:1])
    predictor.forecast(growing, 0)
    object.__setattr__(growing, "calls", calls)
    np.testing.assert_allclose(predictor.forecast(growing, 1), predictor.at(growing, 1), atol=1e-6)
    other = workflow("cc")
    np.testing.assert_allclose(predictor.forecast(other, 1), predictor.at(other, 1), atol=1e-6)


def test_steps_are_a_prefix() -> None:
    one = workflow("ab", vectors(2))
    short = Graph(tuple(AGENTS), Network(arrays(), STEPS), "column", num_steps=1)
    np.testing.assert_array_equal(short.forecast(one, 1), graph().forecast(one, 1)[:1])
