"""MORI: who acts and who reasons, and what that does to places on the two tiers."""

from __future__ import annotations

from pbkv.cache.mori import Idleness, _Rhythm
from pbkv.traces.schema import Workflow
from tests.cache.world import World, flow


def test_idleness_is_the_share_of_acting_without_the_queue() -> None:
    rhythm = _Rhythm()
    rhythm.submit(0.0)
    rhythm.reason(10.0)  # ten seconds in the queue
    rhythm.end_call(12.0)
    assert rhythm.idleness(12.0) == 0.0
    assert rhythm.idleness(18.0) == 6 / 8  # the present wait counts
    rhythm.submit(18.0)
    assert rhythm.idleness(30.0) == 6 / 8
    rhythm.reason(30.0)
    assert rhythm.idleness(34.0) == 6 / 12


def test_five_cycles_are_remembered() -> None:
    rhythm = _Rhythm()
    for cycle in range(6):
        start = 10.0 * cycle
        rhythm.submit(start)
        rhythm.reason(start)
        rhythm.end_call(start + (9.0 if cycle == 0 else 1.0))
    assert rhythm.idleness(51.0) == 36 / 41  # 4 × 9 s acting, 5 × 1 s reasoning


def place(world: World, name: str) -> int:
    followed = world.manager.policy.followers[0]
    assert isinstance(followed, Idleness)
    return followed._rhythms[name].place


def take_turn(world: World, workflow: Workflow) -> None:
    """Half a second of nothing, half a second of reasoning."""
    world.now_s += 0.5
    world.submit(workflow)
    admission = world.start(workflow)
    world.now_s += 0.5
    world.finish(workflow, 0, admission, is_last=False)


def test_the_most_idle_are_demoted_first() -> None:
    """Six blocks hold three contexts of two; x has acted longest when places are given."""
    world = World("mori", 6, 2)
    flows = [flow(name, "aa") for name in "xyzw"]
    for workflow in flows:
        take_turn(world, workflow)
    world.manager.tiers.note_time(4.9)
    assert [place(world, name) for name in "xyzw"] == [2, 2, 2, 2]
    world.manager.tiers.note_time(5.0)
    assert [place(world, name) for name in "xyzw"] == [1, 2, 2, 2]


def test_what_fits_on_neither_tier_waits() -> None:
    world = World("mori", 4, 0)
    for name in "xyz":
        take_turn(world, flow(name, "aa"))
    world.manager.tiers.note_time(5.0)
    assert [place(world, name) for name in "xyz"] == [0, 2, 2]


def test_who_reasons_is_placed_before_who_acts() -> None:
    world = World("mori", 4, 4)
    acts, runs, other = flow("x", "aa"), flow("y", "aa"), flow("z", "aa")
    world.now_s = 4.0
    world.submit(runs)
    world.start(runs)
    world.now_s = 4.5
    for workflow in (acts, other):
        world.serve(workflow, takes_s=0.1)
    world.manager.tiers.note_time(5.0)
    assert place(world, "y") == 2
    assert sorted((place(world, "x"), place(world, "z"))) == [1, 2]


def test_the_host_tier_keeps_the_idle_longest() -> None:
    world = World("mori", 4, 6)
    order = world.manager.policy.host_order
    flows = [flow(name, "aa") for name in "xy"]
    for workflow in flows:
        world.serve(workflow)
    followed = world.manager.policy.followers[0]
    assert isinstance(followed, Idleness)
    followed._rhythms["x"].place = 1
    keys = {node.owner: order.key(node) for node in world.manager.tree.nodes()}
    assert keys["x"] > keys["y"]
    gpu = {node.owner: world.manager.policy.gpu_order.key(node) for node in world.manager.tree.nodes()}
    assert gpu["x"] < gpu["y"]
