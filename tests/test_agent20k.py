"""Golden numbers of agent20k, counted by independent tools (bench/README.md beside the data)."""

from __future__ import annotations

import gzip
import heapq
import json
from collections import OrderedDict
from pathlib import Path

import pytest

from pbkv.sim.curve import hit_curve
from pbkv.traces.sources import open_trace

BLOCK_SIZE = 64
NUM_BLOCKS = 2_754_968
LRU_HITS_AT_4096 = 2_072_402
# The second half of the requests: tokens, and hit tokens by capacity (kvcache-simulator).
SECOND_HALF_TOKENS = 89_633_856
LRU_HIT_TOKENS = {2048: 44_209_152, 4096: 65_685_376, 8192: 79_189_120}
FIFO_HIT_TOKENS = {2048: 36_931_968, 4096: 56_946_560, 8192: 68_195_200}
OPTIMUM_HIT_TOKENS = {2048: 65_363_712, 4096: 77_565_248, 8192: 81_926_080}
# Ours, and of the twin below: a request holds its whole prompt, which the peer's optimum need not.
BELADY_HIT_TOKENS = {2048: 64_346_880, 4096: 77_428_416, 8192: 81_925_376}


@pytest.fixture(scope="module")
def plain(shared_bench: Path) -> Path:
    return shared_bench / "agent20k.plain.jsonl.gz"


def test_lru_is_exact(plain: Path) -> None:
    with open_trace(plain) as trace:
        found = hit_curve(trace, ["lru"], [4096], block_size=BLOCK_SIZE, order="file")
    assert (found.num_prompt_blocks, found.points[0].hit_blocks) == (NUM_BLOCKS, LRU_HITS_AT_4096)


def test_lru_of_the_second_half_is_exact(plain: Path) -> None:
    with open_trace(plain) as trace:
        half = trace.num_calls // 2
        sizes = list(LRU_HIT_TOKENS)
        found = hit_curve(trace, ["lru"], sizes, block_size=BLOCK_SIZE, order="file", warm_up_calls=half)
    assert found.num_prompt_tokens == SECOND_HALF_TOKENS
    assert {p.gpu_blocks: p.hit_blocks * BLOCK_SIZE for p in found.points} == LRU_HIT_TOKENS


def test_fifo_is_exact_under_the_peers_rules(plain: Path) -> None:
    """The peer's FIFO knows no prefixes: one queue of blocks, a prompt's head enters first and goes first.

    So it evicts heads before their tails, which are then useless. A prefix tree evicts leaves only and
    its FIFO cannot do that: on this trace, where every prompt adds blocks, it equals LRU to the block.
    """
    prompts = _prompts(plain)
    for capacity, expected in FIFO_HIT_TOKENS.items():
        assert _flat_fifo_hits(prompts, capacity) * BLOCK_SIZE == expected
    with open_trace(plain) as trace:
        found = hit_curve(trace, ["fifo"], [4096], block_size=BLOCK_SIZE, order="file")
    assert found.points[0].hit_blocks == LRU_HITS_AT_4096


def test_belady_is_below_the_peers_optimum_by_what_running_prompts_must_hold(plain: Path) -> None:
    """The peer's optimum may compute a block and forget it while its request runs; an engine may not.

    A twin of flat blocks gives the peer's numbers under the peer's rule, and ours under ours: on a prefix
    tree the block used again latest is always a leaf, so evicting leaves alone costs nothing.
    """
    prompts, sizes = _prompts(plain), list(OPTIMUM_HIT_TOKENS)
    for bypasses, expected in ((True, OPTIMUM_HIT_TOKENS), (False, BELADY_HIT_TOKENS)):
        for size in sizes[:2]:  # where the optimum leads by far
            assert _flat_optimum_hits(prompts, size, bypasses=bypasses) * BLOCK_SIZE == expected[size]
    with open_trace(plain) as trace:
        half = trace.num_calls // 2
        found = hit_curve(trace, ["belady"], sizes, block_size=BLOCK_SIZE, order="file", warm_up_calls=half)
    assert {p.gpu_blocks: p.hit_blocks * BLOCK_SIZE for p in found.points} == BELADY_HIT_TOKENS


def _prompts(plain: Path) -> list[list[int]]:
    with gzip.open(plain, "rt") as file:
        return [json.loads(line)["hash_ids"] for line in file]


def _flat_optimum_hits(prompts: list[list[int]], capacity: int, *, bypasses: bool) -> int:
    """Leading blocks found by the second half, if the block used again latest goes, no prefixes known.

    ``bypasses``: a block needed later than all that is held is not kept. Else the prompt is held whole.
    """
    next_uses, cached, num_hits = _next_uses(prompts), dict[int, int](), 0
    heap: list[tuple[int, int, int]] = []  # (− next use, the deeper first, block); valid while that is so
    for number, (prompt, coming) in enumerate(zip(prompts, next_uses, strict=True)):
        hits = next((i for i, block in enumerate(prompt) if block not in cached), len(prompt))
        num_hits += hits if number >= len(prompts) // 2 else 0
        held = set() if bypasses else set(prompt)
        num_missing = sum(block not in cached for block in prompt)
        while not bypasses and len(cached) + num_missing > capacity:
            at, _, block = heapq.heappop(heap)
            if cached.get(block) == -at and block not in held:
                del cached[block]
        for depth, (block, next_use) in enumerate(zip(prompt, coming, strict=True)):
            if block not in cached and len(cached) == capacity:
                while cached.get(heap[0][2]) != -heap[0][0]:
                    heapq.heappop(heap)
                if -heap[0][0] <= next_use:
                    continue
                del cached[heapq.heappop(heap)[2]]
            cached[block] = next_use
            heapq.heappush(heap, (-next_use, -depth, block))
    return num_hits


def _next_uses(prompts: list[list[int]]) -> list[list[int]]:
    """For each block of each prompt the number of the next prompt that has it; a large one if none has."""
    following: dict[int, int] = {}
    found = []
    for number in reversed(range(len(prompts))):
        found.append([following.get(block, len(prompts)) for block in prompts[number]])
        following.update(dict.fromkeys(prompts[number], number))
    return found[::-1]


def _flat_fifo_hits(prompts: list[list[int]], capacity: int) -> int:
    """Leading blocks found by the second half of ``prompts``."""
    cached: OrderedDict[int, None] = OrderedDict()
    num_hits = 0
    for number, prompt in enumerate(prompts):
        hits = next((i for i, block in enumerate(prompt) if block not in cached), len(prompt))
        num_hits += hits if number >= len(prompts) // 2 else 0
        for block in prompt:
            if block not in cached:
                if len(cached) == capacity:
                    cached.popitem(last=False)
                cached[block] = None
    return num_hits
