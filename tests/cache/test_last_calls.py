"""Who has read an entry with its last call, and who has left it behind."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pbkv.cache.last_calls import LastCallActivity
from pbkv.cache.pbkv import DiscountedReuse, ExpectedReuse
from pbkv.cache.policy import Policy, PolicyOptions
from pbkv.cache.tree import Node
from pbkv.traces.schema import Workflow
from tests.cache.world import World, call

A, B, C = 1, 2, 3  # segments of two blocks each


def make(gpu_blocks: int = 400) -> tuple[World, LastCallActivity]:
    predictor = PolicyOptions().make_predictor()
    activity = LastCallActivity(predictor, DiscountedReuse())
    order = ExpectedReuse(activity)
    return World(Policy(order, order, (activity,), predictor=predictor), gpu_blocks), activity


def flow(*prompts: tuple[str, tuple[int, ...]], name: str = "x") -> Workflow:
    """A call an entry: its agent, and the segments of its prompt, of two blocks each but for a last token."""
    calls = [
        call(index, agent, {**dict.fromkeys(segments, 8), 10**6 + index: 1}, (index - 1,) if index else ())
        for index, (agent, segments) in enumerate(prompts)
    ]
    return Workflow(name, "app", None, [*calls, call(len(prompts), "last", {10**7: 1}, (len(prompts) - 1,))])


def readers(world: World, activity: LastCallActivity, workflow: Workflow, position: int) -> list[set[str]]:
    """Agents by node on the path of the call, from the top."""
    names = {bit: agent for agent, bit in activity._bits.items()}
    nodes = world.manager.tree.match(world.path(workflow, position), 10**6).nodes
    return [{n for bit, n in names.items() if agents_of(node, workflow) & bit} for node in nodes]


def agents_of(node: Node, workflow: Workflow) -> int:
    return (node.tags or {}).get(workflow.workflow_id, 0)


def test_a_prompt_that_grows_keeps_its_reader() -> None:
    world, activity = make()
    grows = flow(("a", (A,)), ("a", (A, B)), ("a", (A, B, C)))
    for position in range(3):
        world.serve(grows, position)
    assert readers(world, activity, grows, 2) == [{"a"}, {"a"}, {"a"}]


def test_an_agent_that_starts_anew_leaves_its_history_but_not_what_both_share() -> None:
    world, activity = make()
    anew = flow(("a", (A, B)), ("a", (A, C)))
    world.serve(anew, 0)
    world.serve(anew, 1)
    assert readers(world, activity, anew, 0) == [{"a"}, set()]
    assert readers(world, activity, anew, 1) == [{"a"}, {"a"}]


def test_what_another_agent_read_last_stays_his() -> None:
    world, activity = make()
    two = flow(("a", (A, B)), ("b", (A, B)), ("a", (C,)))
    for position in range(3):
        world.serve(two, position)
    assert readers(world, activity, two, 0) == [{"b"}]


def test_what_was_left_is_read_again_after_all() -> None:
    world, activity = make()
    back = flow(("a", (A, B)), ("a", (A, C)), ("a", (A, B)))
    for position in range(3):
        world.serve(back, position)
    assert readers(world, activity, back, 0) == [{"a"}, {"a"}]
    assert readers(world, activity, back, 1) == [{"a"}, set()]


def test_what_was_left_goes_before_what_will_be_read() -> None:
    world, _ = make(gpu_blocks=6)
    anew = flow(("a", (A,)), ("a", (B,)))
    world.serve(anew, 0)
    world.serve(anew, 1)
    world.serve(flow(("a", (C,)), name="y"))
    assert (world.blocks_of(anew, 0), world.blocks_of(anew, 1)) == (0, 2)


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.lists(st.integers(1, 4), min_size=1, max_size=4, unique=True)),
        max_size=8,
    ),
    st.sampled_from([12, 16, 400]),
)
@settings(max_examples=100, deadline=None)
def test_the_readers_of_a_node_are_those_whose_last_calls_run_through_it(
    drawn: list[tuple[str, list[int]]], gpu_blocks: int
) -> None:
    """Whatever was cut. What was evicted and is computed again for one agent has that one alone."""
    world, activity = make(gpu_blocks)
    workflow = flow(*[(agent, tuple(segments)) for agent, segments in drawn])
    last: dict[str, int] = {}
    for position in range(len(drawn)):
        world.serve(workflow, position)
        last[workflow.calls[position].agent] = position
        paths = {
            agent: world.manager.tree.match(world.path(workflow, at), 10**6) for agent, at in last.items()
        }
        for node in world.manager.tree.nodes():
            expected = {agent for agent, match in paths.items() if node in match.nodes}
            names = {n for n, bit in activity._bits.items() if agents_of(node, workflow) & bit}
            assert names <= expected
            assert names == expected or gpu_blocks < 400
