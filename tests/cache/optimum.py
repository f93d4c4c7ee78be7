"""The best that any cache could have done on a tiny trace, by dynamic programming over what it may hold.

A prompt is a tuple of blocks, a block's identity its whole prefix. A state is a prefix-closed set of at
most ``capacity`` blocks; a prompt's hits are its leading blocks in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

Prompt = tuple[int, ...]
State = frozenset[Prompt]  # prefixes, none without its own


def optimum(prompts: Sequence[Prompt], capacity: int, *, keeps_prompts: bool) -> int:
    """Most blocks that can be hit in all.

    ``keeps_prompts``: as in an engine, a prompt is held whole (as far as it fits) once it is served. Else
    a block may be computed and forgotten at once (bypass), which no engine can do with a running request.
    """
    best: dict[State, int] = {frozenset(): 0}
    for prompt in prompts:
        path = [prompt[:end] for end in range(1, len(prompt) + 1)]
        kept = set(path[:capacity]) if keeps_prompts else set()
        after: dict[State, int] = {}
        for state, num_hits in best.items():
            found = num_hits + sum(prefix in state for prefix in path)
            for following in _fitting(state | set(path), frozenset(kept), capacity):
                after[following] = max(after.get(following, 0), found)
        best = after
    return max(best.values())


def infinite(prompts: Sequence[Prompt]) -> int:
    """Blocks hit if nothing is ever forgotten."""
    seen: set[Prompt] = set()
    num_hits = 0
    for prompt in prompts:
        path = [prompt[:end] for end in range(1, len(prompt) + 1)]
        num_hits += sum(prefix in seen for prefix in path)
        seen.update(path)
    return num_hits


def _fitting(blocks: frozenset[Prompt] | set[Prompt], kept: State, capacity: int) -> Iterator[State]:
    """The largest prefix-closed subsets of ``blocks`` that hold ``kept``: holding less is never better."""
    others = sorted(set(blocks) - kept)
    for chosen in combinations(others, min(len(others), capacity - len(kept))):
        state = kept.union(chosen)
        if all(prefix[:-1] in state for prefix in state if len(prefix) > 1):
            yield state
