"""Inheritance: who is taken to read on from whom, and what that keeps in the cache."""

from __future__ import annotations

import pytest

from pbkv.cache.blocks import BlockPath, PathTable
from pbkv.cache.inheritance import LearnedInheritance, make_inheritance
from pbkv.cache.policy import PolicyOptions
from pbkv.traces.schema import Workflow
from tests.cache.world import B, World, call, flow

GIVER, HEIR, OTHER = 1, 2, 4  # agents, as bits
TABLE = PathTable(B)


def prompt(*segments: int, tokens: int = 2 * B) -> BlockPath:
    return TABLE.path(segments, [tokens] * len(segments))


def taught(*prompts_of_heir: BlockPath, last_of_giver: BlockPath) -> LearnedInheritance:
    learned = LearnedInheritance()
    for prompt_of_heir in prompts_of_heir:
        learned.learn({GIVER: last_of_giver, HEIR: prompt_of_heir}, HEIR, lambda: None)
        learned.readers(GIVER)  # what it has answered before does not stay true
    return learned


# ---------------------------------------------------------------------- what is learnt


def test_before_anything_was_seen_each_reads_its_own() -> None:
    learned = LearnedInheritance()
    assert [learned.readers(agents) for agents in (0, GIVER, HEIR, GIVER | HEIR)] == [
        0,
        GIVER,
        HEIR,
        GIVER | HEIR,
    ]


def test_whose_prompts_start_with_anothers_last_one_reads_on_from_it_and_not_the_other_way() -> None:
    learned = taught(prompt(1, 2), last_of_giver=prompt(1))
    assert learned.readers(GIVER) == GIVER | HEIR
    assert learned.readers(HEIR) == HEIR
    assert learned.readers(OTHER) == OTHER


@pytest.mark.parametrize(
    ("story", "inherits"),
    [("+", True), ("-", False), ("-+", True), ("+-", True), ("+--", False), ("--++", True), ("+-+--", False)],
)
def test_half_of_the_prompts_are_enough(story: str, inherits: bool) -> None:
    """+ is a prompt that starts with the other's last one, - one that does not."""
    prompts = {"+": prompt(1, 2), "-": prompt(3, 2)}
    learned = taught(*(prompts[letter] for letter in story), last_of_giver=prompt(1))
    assert learned.readers(GIVER) == (GIVER | HEIR if inherits else GIVER)


@pytest.mark.parametrize(
    ("last_of_giver", "prompt_of_heir"),
    [
        (prompt(1, 2), prompt(1)),  # shorter
        (prompt(1, 2), prompt(1, 3)),  # parts from it half-way
        (prompt(1, tokens=B - 1), prompt(1, 2)),  # no full block that could be read
    ],
)
def test_what_is_no_start(last_of_giver: BlockPath, prompt_of_heir: BlockPath) -> None:
    assert taught(prompt_of_heir, last_of_giver=last_of_giver).readers(GIVER) == GIVER


# ---------------------------------------------------------------------- what it keeps


def handed_on(name: str, first: int) -> Workflow:
    """b's prompt is a's with one more segment behind it."""
    a, b = {first: 2 * B}, {first: 2 * B, first + 1: 2 * B}
    return Workflow(name, "app", None, [call(0, "a", a), call(1, "b", b, (0,))])


def kept(inherit: str) -> tuple[int, int]:
    """Blocks of x and y when z has come. Of x b is next, which never called before; of y c in two calls."""
    world = World("pbkv-he", 4, options=PolicyOptions("oracle", inherit=inherit))
    world.play(handed_on("teacher", 1))
    x, y = handed_on("x", 11), flow("y", "cdc")
    for workflow in (x, y, flow("z", "ee")):
        world.serve(workflow)
    return world.blocks_of(x), world.blocks_of(y)


@pytest.mark.parametrize(("inherit", "expected"), [("none", (0, 2)), ("learned", (2, 0))])
def test_who_inherits_keeps_what_the_next_agent_reads_on_from(
    inherit: str, expected: tuple[int, int]
) -> None:
    """x's freshest entry was touched by a alone, which is not called again: without b it is worth nothing."""
    assert kept(inherit) == expected


def test_it_is_learnt_and_not_assumed() -> None:
    """Without the teacher nobody knows that b reads on from a."""
    world = World("pbkv-he", 4, options=PolicyOptions("oracle", inherit="learned"))
    x, y = handed_on("x", 11), flow("y", "cdc")
    for workflow in (x, y, flow("z", "ee")):
        world.serve(workflow)
    assert (world.blocks_of(x), world.blocks_of(y)) == (0, 2)


def test_names() -> None:
    assert make_inheritance("none").readers(GIVER) == GIVER
    assert make_inheritance("all").readers(GIVER) & HEIR
