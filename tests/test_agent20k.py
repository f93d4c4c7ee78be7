"""Golden numbers of agent20k, counted by independent tools (bench/README.md beside the data)."""

from __future__ import annotations

import gzip
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
    with gzip.open(plain, "rt") as file:
        prompts = [json.loads(line)["hash_ids"] for line in file]
    for capacity, expected in FIFO_HIT_TOKENS.items():
        assert _flat_fifo_hits(prompts, capacity) * BLOCK_SIZE == expected
    with open_trace(plain) as trace:
        found = hit_curve(trace, ["fifo"], [4096], block_size=BLOCK_SIZE, order="file")
    assert found.points[0].hit_blocks == LRU_HITS_AT_4096


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
