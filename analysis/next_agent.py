"""How predictable the next agent is, measured on the workflows themselves.

"Next" is the next call of the workflow in start order; after the last call comes END.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import log2

START, END = "START", "END"
NUM_FOLDS = 5

Handovers = Mapping[str, Mapping[str, int]]
_Context = tuple[str, ...]


def handovers(sequences: Iterable[Sequence[str]]) -> Handovers:
    """How often each agent (or START) is followed by each agent (or END), the most frequent first."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for sequence in sequences:
        for agent, follower in zip([START, *sequence], [*sequence, END], strict=True):
            counts[agent][follower] += 1
    return {agent: dict(followers.most_common()) for agent, followers in counts.items()}


def conditional_entropy_bits(counts: Handovers) -> float:
    """Bits that the current agent leaves open about the next one, END included; 0 = static."""
    bits = 0.0
    total = 0
    for agent, followers in counts.items():
        if agent != START:
            num_calls = sum(followers.values())
            bits -= sum(count * log2(count / num_calls) for count in followers.values())
            total += num_calls
    return bits / total


def markov_accuracy(sequences: Sequence[Sequence[str]], order: int) -> float | None:
    """Share of next agents (END included, the first agent not) that a back-off Markov predictor gets right.

    The predictor looks at the last ``order`` agents, the start included, and at fewer where it has not
    seen them; ties go to the follower seen first. Workflow i is tested in fold i mod 5, with the other
    folds for training. None for fewer workflows than folds.
    """
    if len(sequences) < NUM_FOLDS:
        return None
    num_right = num_all = 0
    for fold in range(NUM_FOLDS):
        training = (sequence for i, sequence in enumerate(sequences) if i % NUM_FOLDS != fold)
        followers = _count(training, order)
        for contexts, follower in _steps(sequences[fold::NUM_FOLDS], order):
            num_right += _guess(followers, contexts) == follower
            num_all += 1
    return num_right / num_all


def _count(sequences: Iterable[Sequence[str]], order: int) -> dict[_Context, Counter[str]]:
    followers: defaultdict[_Context, Counter[str]] = defaultdict(Counter)
    for contexts, follower in _steps(sequences, order):
        for context in contexts:
            followers[context][follower] += 1
    return followers


def _steps(sequences: Iterable[Sequence[str]], order: int) -> Iterator[tuple[list[_Context], str]]:
    """For each call: its contexts, the longest first and the empty one last, and the agent after it."""
    for sequence in sequences:
        padded = (START,) * order + tuple(sequence) + (END,)
        for index in range(order + 1, len(padded)):
            yield [padded[index - length : index] for length in range(order, -1, -1)], padded[index]


def _guess(followers: Mapping[_Context, Counter[str]], contexts: Sequence[_Context]) -> str:
    known = next(followers[context] for context in contexts if context in followers)
    return max(known, key=known.__getitem__)
