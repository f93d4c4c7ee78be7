"""The manager: stories of one rule each, and conservation whatever the order of operations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbkv.cache.blocks import PathTable
from pbkv.cache.config import CacheConfig, WriteMode
from pbkv.cache.decisions import Admission, Load, Misses
from pbkv.cache.manager import CacheManager
from pbkv.cache.named import POLICIES, make_policy
from pbkv.traces.errors import ConfigError, InvariantError
from pbkv.traces.schema import Call
from tests.strategies import calls

B = 4  # tokens a block


def make(gpu_blocks: int, host_blocks: int = 0, policy: str = "lru", **rules: object) -> CacheManager:
    rules.setdefault("min_load_tokens", 0)
    config = CacheConfig(gpu_blocks, host_blocks, B, **rules)  # type: ignore[arg-type]
    return CacheManager(config, PathTable(B), make_policy(policy, 0))


class Started(NamedTuple):
    """An admission, and why the rest of its prompt was missed."""

    admission: Admission
    misses: Misses


def admit(manager: CacheManager, prompt: dict[int, int], now_s: float, owner: str = "w") -> Started:
    """Admit a prompt given as {segment id: tokens}."""
    path = manager.table.path(list(prompt), list(prompt.values()))
    admission = manager.admit(path, owner, now_s)
    assert admission is not None
    return Started(admission, manager.misses(admission.lease, now_s))


def end(manager: CacheManager, started: Started, now_s: float, answer: tuple[int, int] | None = None) -> None:
    """Compute the prompt, generate ``answer`` (segment id, tokens), give the space back."""
    lease = started.admission.lease
    manager.commit(lease, now_s)
    held = lease.path.num_tokens
    extended = None
    if answer is not None:
        extended = manager.table.extended(lease.path, *answer)
        assert manager.grow(-(-extended.num_tokens // B) - -(-held // B), lease.owner, now_s)
        held = extended.num_tokens
    manager.finish(lease, extended, held, now_s)


def serve(
    manager: CacheManager,
    prompt: dict[int, int],
    now_s: float,
    owner: str = "w",
    answer: tuple[int, int] | None = None,
) -> Started:
    """A whole request whose copies take no time."""
    started = admit(manager, prompt, now_s, owner)
    if started.admission.load is not None:
        manager.end_load(started.admission.load)
    end(manager, started, now_s, answer)
    for offload in manager.tiers.take_offloads():
        manager.tiers.end_offload(offload, now_s)
    manager.check_invariants()
    return started


def found(started: Started) -> dict[str, int]:
    """The classes of the prompt's tokens that are not empty."""
    owners = dict.fromkeys(("gpu_hit", "host_hit", "loading"), started.admission)
    tokens = {name: getattr(owner, f"{name}_tokens") for name, owner in owners.items()}
    tokens |= {name: getattr(started.misses, f"{name}_tokens") for name in ("evicted", "partial", "cold")}
    return {name: number for name, number in tokens.items() if number}


def kinds(manager: CacheManager) -> list[str]:
    return [event.kind for event in manager.tiers.events]


# ---------------------------------------------------------------------- what is found


def test_the_first_prompt_is_cold_and_the_second_shares_its_full_blocks() -> None:
    manager = make(10)
    assert found(serve(manager, {1: 6, 2: 6}, 0.0)) == {"cold": 12}
    assert found(serve(manager, {1: 6, 3: 6}, 1.0)) == {"gpu_hit": 4, "partial": 2, "cold": 6}


def test_the_last_prompt_token_is_always_computed() -> None:
    manager = make(10)
    serve(manager, {1: 8}, 0.0)
    assert found(serve(manager, {1: 8}, 1.0)) == {"gpu_hit": 4, "partial": 4}


def test_a_named_answer_is_found_by_the_prompt_that_contains_it() -> None:
    manager = make(10)
    serve(manager, {1: 6}, 0.0, answer=(2, 6))
    assert found(serve(manager, {1: 6, 2: 6, 3: 4}, 1.0)) == {"gpu_hit": 12, "cold": 4}


def test_an_evicted_prefix_is_a_miss_with_a_culprit_and_an_age() -> None:
    manager = make(3)
    serve(manager, {1: 12}, 0.0, "first")
    serve(manager, {2: 12}, 5.0, "second")
    started = serve(manager, {1: 12}, 7.0, "first")
    assert found(started) == {"evicted": 8, "partial": 4}
    assert (started.misses.evicted_by, started.misses.evicted_ago_s) == ("second", 2.0)


def test_a_prefix_on_its_way_up_is_waited_for_and_not_loaded_twice() -> None:
    manager = make(4, 8)
    serve(manager, {1: 12}, 0.0)
    serve(manager, {2: 16}, 1.0)
    first = admit(manager, {1: 12, 3: 1}, 2.0).admission
    assert first.load is not None
    with pytest.raises(InvariantError, match="before its copy has ended"):
        manager.commit(first.lease, 2.0)
    manager.preempt(first.lease, 13)
    second = admit(manager, {1: 12, 4: 1}, 3.0)
    assert (second.admission.load, second.admission.waits_for) == (None, [first.load])
    assert found(second) == {"loading": 12, "cold": 1}


# ---------------------------------------------------------------------- who goes


def test_a_running_request_is_never_evicted() -> None:
    manager = make(4)
    running = admit(manager, {1: 8}, 0.0).admission
    manager.commit(running.lease, 0.0)
    path = manager.table.path([2], [12])
    assert manager.admit(path, "w", 1.0) is None
    manager.finish(running.lease, None, 8, 1.0)
    assert manager.admit(path, "w", 2.0) is not None


def test_whole_nodes_go_unless_blocks_are_asked_for() -> None:
    for whole_nodes, left in ((True, 0), (False, 2)):
        manager = make(4, whole_nodes=whole_nodes)
        serve(manager, {1: 12}, 0.0)
        serve(manager, {2: 8}, 1.0)
        assert manager.cached_blocks(manager.table.path([1, 9], [12, 4])) == left


def test_children_go_before_their_parents() -> None:
    manager = make(4)
    serve(manager, {1: 8}, 0.0)
    serve(manager, {1: 8, 2: 8}, 1.0)
    serve(manager, {3: 8}, 2.0)
    assert manager.cached_blocks(manager.table.path([1, 2, 9], [8, 8, 1])) == 2


def test_the_watermark_keeps_room_unless_nothing_runs() -> None:
    manager = make(4, watermark_blocks=1)
    alone = admit(manager, {1: 12}, 0.0).admission
    assert manager.admit(manager.table.path([2], [4]), "w", 0.0) is None
    manager.preempt(alone.lease, 12)
    assert manager.admit(manager.table.path([2], [16]), "w", 1.0) is not None


# ---------------------------------------------------------------------- two tiers


def test_a_node_with_a_host_copy_is_demoted_and_one_without_is_deleted() -> None:
    with_host, without = make(4, 6), make(4)
    for manager in (with_host, without):
        serve(manager, {1: 12}, 0.0)
        serve(manager, {2: 12}, 1.0)
    assert [kind for kind in kinds(with_host) if kind != "offload"] == ["demote"]
    assert kinds(without) == ["evict"]
    assert found(admit(with_host, {1: 12, 3: 1}, 2.0)) == {"host_hit": 12, "cold": 1}


@pytest.mark.parametrize(
    ("mode", "after_first", "after_second"),
    [("write-through", 1, 1), ("write-through-selective", 0, 1), ("write-back", 0, 0), ("exclusive", 0, 0)],
)
def test_when_a_copy_is_written(mode: str, after_first: int, after_second: int) -> None:
    manager = make(8, 8, write_mode=WriteMode(mode))
    end(manager, admit(manager, {1: 8}, 0.0), 0.0)
    assert len(manager.tiers.offloads) == after_first
    end(manager, admit(manager, {1: 8, 2: 4}, 1.0), 1.0)
    written = {node for offload in manager.tiers.offloads for node in offload.nodes if node.start == 0}
    assert len(written) == after_second


def test_write_back_frees_the_space_when_its_copy_has_ended() -> None:
    manager = make(3, 6, write_mode=WriteMode.WRITE_BACK)
    serve(manager, {1: 12}, 0.0)
    path = manager.table.path([2], [12])
    assert manager.admit(path, "w", 1.0) is None
    assert manager.tiers.is_making_room
    (offload,) = manager.tiers.take_offloads()
    manager.tiers.end_offload(offload, 2.0)
    assert manager.admit(path, "w", 2.0) is not None
    assert manager.cached_blocks(manager.table.path([1, 9], [12, 1])) == 3


def test_exclusive_never_holds_a_block_twice() -> None:
    manager = make(3, 6, write_mode=WriteMode.EXCLUSIVE)
    serve(manager, {1: 12}, 0.0)
    manager.admit(manager.table.path([2], [12]), "w", 1.0)
    (offload,) = manager.tiers.take_offloads()
    manager.tiers.end_offload(offload, 1.0)
    assert manager.tiers.free_host_blocks == 3
    admission = admit(manager, {1: 12}, 2.0).admission
    assert admission.load is not None
    manager.end_load(admission.load)
    assert manager.tiers.free_host_blocks == 6 - 1  # the block of the last token was not loaded


def test_a_prefix_too_short_to_load_is_computed_again() -> None:
    manager = make(3, 6, min_load_tokens=10)
    serve(manager, {1: 8}, 0.0)
    serve(manager, {2: 12}, 1.0)
    assert found(admit(manager, {1: 8, 3: 1}, 2.0)) == {"evicted": 8, "cold": 1}


def test_a_full_host_drops_its_oldest_leaf() -> None:
    manager = make(3, 3)
    for now, segment in enumerate((1, 2, 3)):
        serve(manager, {segment: 12}, float(now))
    assert [kind for kind in kinds(manager) if kind != "offload"] == ["demote", "drop"] * 2


@pytest.mark.parametrize(("field_name", "value"), [("gpu_blocks", 0), ("host_blocks", -1), ("block_size", 0)])
def test_bad_sizes_are_refused(field_name: str, value: int) -> None:
    sizes = {"gpu_blocks": 4, "host_blocks": 0, "block_size": 4, field_name: value}
    with pytest.raises(ConfigError, match=field_name):
        CacheConfig(sizes["gpu_blocks"], sizes["host_blocks"], sizes["block_size"])


# ---------------------------------------------------------------------- whatever happens


@dataclass
class Life:
    """A request on its way: admitted, waiting for copies, committed, growing."""

    admission: Admission
    call: Call
    waits_for: list[Load]
    held: int
    committed: bool = False
    grown: int = 0


@dataclass
class Everything:
    """An engine without a clock: does what it is told if it may, and copies when it is told."""

    manager: CacheManager
    lives: list[Life] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    now_s: float = 0.0

    def start(self, call: Call) -> None:
        path = self.manager.table.path(call.segment_ids, call.segment_tokens)
        admission = self.manager.admit(path, f"w{call.agent}", self.now_s)
        if admission is not None:
            classes = found(Started(admission, self.manager.misses(admission.lease, self.now_s)))
            assert sum(classes.values()) == path.num_tokens
            assert min(classes.values()) > 0
            waits_for = [*admission.waits_for, *([admission.load] if admission.load else [])]
            self.loads += [admission.load] if admission.load else []
            self.lives.append(Life(admission, call, waits_for, path.num_tokens))

    def go_on(self, index: int) -> None:
        life = self.lives[index % len(self.lives)]
        if any(load in self.loads for load in life.waits_for):
            return
        if not life.committed:
            self.manager.commit(life.admission.lease, self.now_s)
            life.committed = True
        elif life.grown + 1 < life.call.num_output_tokens:
            if life.held % B or self.manager.grow(1, "w", self.now_s):
                life.held += 1
                life.grown += 1
        else:
            self.lives.remove(life)
            lease, answer = life.admission.lease, None
            if life.call.output_id is not None and life.grown:
                answer = self.manager.table.extended(lease.path, 1000 + life.call.output_id, life.grown)
            self.manager.finish(lease, answer, life.held, self.now_s)

    def preempt(self, index: int) -> None:
        life = self.lives.pop(index % len(self.lives))
        self.manager.preempt(life.admission.lease, life.held)

    def end_load(self, index: int) -> None:
        self.manager.end_load(self.loads.pop(index % len(self.loads)))

    def end_offload(self) -> None:
        self.manager.tiers.end_offload(self.manager.tiers.offloads.pop(0), self.now_s)


STEPS = st.one_of(
    st.tuples(st.just("start"), calls()),
    st.tuples(st.sampled_from(["go_on"] * 5 + ["preempt", "copy"]), st.integers(0, 7)),
)


@pytest.mark.parametrize("mode", WriteMode)
@pytest.mark.parametrize("policy", [*POLICIES, "lru+admission", "lae+prefetch"])
@given(
    steps=st.lists(STEPS, max_size=60),
    gpu_blocks=st.integers(12, 30),
    host_blocks=st.integers(0, 30),
    whole_nodes=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_conservation_after_random_operations(
    mode: WriteMode,
    policy: str,
    steps: list[tuple[str, Call | int]],
    gpu_blocks: int,
    host_blocks: int,
    whole_nodes: bool,
) -> None:
    world = Everything(make(gpu_blocks, host_blocks, policy, write_mode=mode, whole_nodes=whole_nodes))
    for name, value in steps:
        world.now_s += 1.0
        if isinstance(value, Call):
            world.start(value)
        elif name == "copy" and (world.loads or world.manager.tiers.offloads):
            if world.loads:
                world.end_load(value)
            else:
                world.end_offload()
        elif name != "copy" and world.lives:
            getattr(world, name)(value)
        world.manager.check_invariants()
    while world.loads or world.manager.tiers.offloads:
        world.end_load(0) if world.loads else world.end_offload()
    while world.lives:
        world.preempt(0)
    world.manager.check_invariants()
    assert world.manager.private_blocks == 0
    assert world.manager.tree.protected_blocks == 0
