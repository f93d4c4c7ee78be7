"""The step graph: exact where all workflows are alike, the likeliest path where they are not."""

from __future__ import annotations

from collections.abc import Sequence

from pbkv.predict.step_graph import StepGraph
from pbkv.traces.schema import Call, Workflow


def workflow(name: str, calls: Sequence[tuple[str, tuple[int, ...]]]) -> Workflow:
    made = [Call(i, agent, parents, None, (1,), (4,), 1) for i, (agent, parents) in enumerate(calls)]
    return Workflow(name, "app", None, made)


def chain(name: str, agents: str) -> Workflow:
    return workflow(name, [(agent, (index - 1,) if index else ()) for index, agent in enumerate(agents)])


def learn(graph: StepGraph, flow: Workflow) -> None:
    for position in range(len(flow.calls)):
        graph.submitted(flow, position)
        graph.call_ended(flow, position)
    graph.ended(flow)


def test_nothing_is_known_before_anything_was_seen() -> None:
    assert StepGraph().submitted(chain("x", "abc"), 0) == {"a": 0}


def test_a_static_chain_is_known_from_the_first_workflow_on() -> None:
    graph = StepGraph()
    learn(graph, chain("x", "abca"))
    assert graph.submitted(chain("y", "abca"), 0) == {"a": 0, "b": 1, "c": 2}
    assert graph.call_ended(chain("y", "abca"), 0) == {"b": 1, "c": 2, "a": 3}
    assert graph.is_static


def test_a_join_is_one_step_behind_the_last_of_its_unfinished_parents() -> None:
    """a starts b and c; c needs d first; e joins b and d."""
    shape = [("a", ()), ("b", (0,)), ("c", (0,)), ("d", (2,)), ("e", (1, 3))]
    graph = StepGraph()
    learn(graph, workflow("x", shape))
    flow = workflow("y", shape)
    assert graph.submitted(flow, 0) == {"a": 0, "b": 1, "c": 1, "d": 2, "e": 3}
    graph.call_ended(flow, 0)
    graph.submitted(flow, 1)
    graph.submitted(flow, 2)
    graph.call_ended(flow, 2)
    assert graph.submitted(flow, 3) == {"b": 0, "d": 0, "e": 1}


def test_two_orders_of_agents_make_a_likeliest_path() -> None:
    graph = StepGraph()
    for number, agents in enumerate(["abc", "abc", "acb"]):
        learn(graph, chain(f"w{number}", agents))
    assert not graph.is_static
    flow = chain("y", "abc")
    assert graph.submitted(flow, 0) == {"a": 0, "b": 1, "c": 2}
    assert graph.call_ended(flow, 0) == {"b": 1, "c": 2}


def test_the_path_stops_where_it_goes_round() -> None:
    graph = StepGraph()
    for number, agents in enumerate(["abababab", "abab"]):
        learn(graph, chain(f"w{number}", agents))
    flow = chain("y", "ab")
    assert graph.submitted(flow, 0) == {"a": 0, "b": 1}
    assert graph.call_ended(flow, 0) == {"b": 1, "a": 2}


def test_a_workflow_that_goes_on_is_not_static() -> None:
    graph = StepGraph()
    learn(graph, chain("x", "ab"))
    longer = chain("y", "abc")
    for position in range(3):
        graph.submitted(longer, position)
    assert not graph.is_static
