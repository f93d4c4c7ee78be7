"""From prompts given as block hash ids to segments: blocks that only occur together become one segment.

Two prompts share exactly their leading run of equal ids. So prompts form a tree; a segment is a stretch
of it in which no prompt branches off and none ends. A last block that is not full counts as another
block than a full one with the same id, for a segment has one length in a trace.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pbkv.traces.errors import ConfigError, TraceError
from pbkv.traces.importers.lines import MAX_TOKENS, Row

Blocks = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class HashedPrompt:
    """A prompt of ``num_tokens`` tokens as the ids of its blocks, all but the last one full."""

    line: int
    num_tokens: int
    hash_ids: npt.NDArray[np.uint64]


def read_prompt(row: Row) -> HashedPrompt:
    """The prompt of a Mooncake row. Raises TraceError."""
    num_tokens = row.count("input_length", 1)
    raw = row.items("hash_ids")
    if set(map(type, raw)) != {int} or not 0 <= min(raw) <= max(raw) < 2**64:
        raise row.error("hash_ids", _odd_one(raw), "whole numbers from 0 to 2^64 − 1, at least one")
    return HashedPrompt(row.line, num_tokens, np.array(raw, np.uint64))


def block_size_of(path: Path, prompts: Sequence[HashedPrompt]) -> int:
    """The block size that all prompts agree with; where several do, the only power of two among them.

    Raises TraceError if none agrees, and ConfigError if the choice is open.
    """
    least = max(-(-prompt.num_tokens // prompt.hash_ids.size) for prompt in prompts)
    longer = [prompt for prompt in prompts if prompt.hash_ids.size > 1]
    most = min(
        ((prompt.num_tokens - 1) // (prompt.hash_ids.size - 1) for prompt in longer), default=MAX_TOKENS
    )
    if least > most:
        raise TraceError(path, "hash_ids", f"blocks of ≥ {least} and of ≤ {most} tokens", "one block size")
    powers = [1 << power for power in range(31) if least <= 1 << power <= most]
    if least == most or len(powers) == 1:
        return least if least == most else powers[0]
    raise ConfigError("block_size", "none", f"a number from {least} to {most}, which {path} leaves open")


def to_segments(
    path: Path, prompts: Sequence[HashedPrompt], block_size: int
) -> Iterator[tuple[list[int], list[int]]]:
    """Segment ids and lengths of each prompt; ids count up in the order they are first seen.

    Raises TraceError at once if a prompt has not the blocks that its length asks for.
    """
    for prompt in prompts:
        _check_num_blocks(path, prompt, block_size)
    codes = _Codes(block_size)
    coded = [codes.of(prompt) for prompt in prompts]
    tree = RunTree()
    for blocks in coded:
        tree.insert(blocks)
    return _numbered(tree, prompts, coded, block_size)


@dataclass(slots=True)
class _Run:
    """Blocks that only occur together, and what follows them, by its first block."""

    blocks: Blocks
    followers: dict[int, _Run] = field(default_factory=dict)

    def split(self, num_blocks: int) -> None:
        """Leave ``num_blocks`` blocks in this run and move the others behind it."""
        rest = _Run(self.blocks[num_blocks:], self.followers)
        self.blocks = self.blocks[:num_blocks]
        self.followers = {int(rest.blocks[0]): rest}


class RunTree:
    """A radix tree over block sequences. Memory: the blocks of all sequences, as inserted."""

    def __init__(self) -> None:
        self._first: dict[int, _Run] = {}

    def insert(self, blocks: Blocks) -> None:
        """Add a sequence: afterwards a run ends where it ends, and where it leaves another."""
        position, followers = 0, self._first
        while position < len(blocks):
            rest = blocks[position:]
            run = followers.get(int(rest[0]))
            if run is None:
                followers[int(rest[0])] = _Run(rest)
                return
            num_shared = _num_shared(run.blocks, rest)
            if num_shared < len(run.blocks):
                run.split(num_shared)
            position, followers = position + num_shared, run.followers

    def runs(self, blocks: Blocks) -> Iterator[_Run]:
        """The runs of a sequence that was inserted."""
        position, followers = 0, self._first
        while position < len(blocks):
            run = followers[int(blocks[position])]
            yield run
            position, followers = position + len(run.blocks), run.followers


def _num_shared(one: Blocks, other: Blocks) -> int:
    shorter = min(len(one), len(other))
    differing = np.flatnonzero(one[:shorter] != other[:shorter])
    return int(differing[0]) if differing.size else shorter


class _Codes:
    """Blocks as int64: full ones keep an id that fits, each other (id, length) gets a number below 0."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._others: dict[tuple[int, int], int] = {}

    def of(self, prompt: HashedPrompt) -> Blocks:
        blocks = prompt.hash_ids.astype(np.int64)  # ids from 2^63 on wrap to below 0
        for index in np.flatnonzero(blocks < 0):
            blocks[index] = self._other(prompt, int(index), self._block_size)
        num_last = prompt.num_tokens % self._block_size
        if num_last:
            blocks[-1] = self._other(prompt, -1, num_last)
        return blocks

    def _other(self, prompt: HashedPrompt, index: int, num_tokens: int) -> int:
        return self._others.setdefault((int(prompt.hash_ids[index]), num_tokens), -1 - len(self._others))


def _numbered(
    tree: RunTree, prompts: Sequence[HashedPrompt], coded: Sequence[Blocks], block_size: int
) -> Iterator[tuple[list[int], list[int]]]:
    numbers: dict[int, int] = {}
    for prompt, blocks in zip(prompts, coded, strict=True):
        runs = list(tree.runs(blocks))
        ids = [numbers.setdefault(id(run), len(numbers)) for run in runs]
        tokens = [len(run.blocks) * block_size for run in runs]
        tokens[-1] -= -prompt.num_tokens % block_size
        yield ids, tokens


def _check_num_blocks(path: Path, prompt: HashedPrompt, block_size: int) -> None:
    expected = -(-prompt.num_tokens // block_size)
    if prompt.hash_ids.size != expected:
        field_name = f"line {prompt.line}: hash_ids"
        reason = f"{expected} ids ({prompt.num_tokens} tokens in blocks of {block_size})"
        raise TraceError(path, field_name, f"{prompt.hash_ids.size} ids", reason)


def _odd_one(raw: list[Any]) -> object:
    odd = [item for item in raw if type(item) is not int or not 0 <= item < 2**64]
    return odd[0] if odd else raw
