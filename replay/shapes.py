"""Which iterations a calibration measures, and what the cost model sees of them.

An iteration's *shape* is a list of (q, c): a sequence computes q tokens behind c of context. One token
is a decode, more are a prefill chunk, as in the simulator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np

from pbkv.traces.errors import ConfigError

Shape = Sequence[tuple[int, int]]
_LEAST_CHUNK = 16


@dataclass(frozen=True, slots=True)
class Scale:
    """The largest shapes that are measured: tokens of an iteration, context, sequences, tokens of all.

    ``max_pool_tokens`` bounds Σ (c + q), for which pages are needed. Raises ConfigError.
    """

    max_batched_tokens: int = 8192
    max_context: int = 32_768
    max_sequences: int = 256
    max_pool_tokens: int = 524_288

    def __post_init__(self) -> None:
        least = {"max_batched_tokens": 64, "max_context": 64, "max_sequences": 2}
        least["max_pool_tokens"] = self.max_context + self.max_batched_tokens
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ConfigError(name, getattr(self, name), f"a number ≥ {value} for a calibration")
        if self.max_batched_tokens <= self.max_sequences:
            raise ConfigError(
                "max_batched_tokens", self.max_batched_tokens, f"more than {self.max_sequences} sequences"
            )

    def holds(self, shape: Shape) -> bool:
        return (
            sum(q for q, _ in shape) <= self.max_batched_tokens
            and len(shape) <= self.max_sequences
            and sum(q + c for q, c in shape) <= self.max_pool_tokens
        )


class Sums(NamedTuple):
    """What the cost model sees: T, B, Σ q(c + q/2) and Σ (c + q) of chunks, Σ c of decodes."""

    num_tokens: int
    num_sequences: int
    prefill_work: float
    gathered_tokens: int
    decode_context: int


def sums_of(shape: Shape) -> Sums:
    chunks = [(q, c) for q, c in shape if q > 1]
    return Sums(
        sum(q for q, _ in shape),
        len(shape),
        sum(q * (c + q / 2) for q, c in chunks),
        sum(q + c for q, c in chunks),
        sum(c for q, c in shape if q == 1),
    )


def shapes_to_fit(scale: Scale) -> list[Shape]:
    """About 115 at full scale: decodes, prefills, extends of a context, several chunks, mixed batches.

    A third are mixed: an engine under load runs hardly any chunk alone.
    """
    found = dict.fromkeys(tuple(shape) for shape in _all_shapes(scale) if scale.holds(shape))
    return [list(shape) for shape in found]


def shapes_to_hold_out(scale: Scale, number: int, seed: int) -> list[Shape]:
    """Mixed iterations drawn at random: decodes of various contexts beside one to three chunks."""
    rng = np.random.default_rng(seed)
    found: list[Shape] = []
    while len(found) < number:
        decodes = [(1, _log_uniform(rng, 16, scale.max_context)) for _ in range(_num_decodes(rng, scale))]
        chunks = [_chunk(rng, scale) for _ in range(int(rng.integers(1, 4)))]
        shape = [*decodes, *chunks]
        if scale.holds(shape):
            found.append(shape)
    return found


def _all_shapes(scale: Scale) -> Iterator[Shape]:
    budget = scale.max_batched_tokens
    contexts = [scale.max_context // divisor for divisor in (32, 8, 4, 2, 1)]
    chunks = _halvings(budget, _LEAST_CHUNK)
    some = [max(_LEAST_CHUNK, budget // divisor) for divisor in (128, 32, 8, 4, 1)]
    for number in _halvings(scale.max_sequences, 1):
        yield from ([(1, context)] * number for context in (16, *contexts[:3], contexts[4]))
    yield from ([(chunk, 0)] for chunk in chunks)
    yield from ([(chunk, context)] for chunk in some for context in contexts[1:])
    yield from ([(chunk, contexts[1])] * number for number in (2, 4) for chunk in some[:3])
    for number in (scale.max_sequences // divisor for divisor in (32, 16, 4)):
        decodes = [(1, contexts[1])] * max(number, 1)
        for chunk, context in product(some[:3], (0, contexts[2])):
            yield [*decodes, (chunk, context)]
            yield [*decodes, (chunk, context), (chunk, contexts[0])]


def _halvings(most: int, least: int) -> list[int]:
    """most, most/2, … down to ``least``, rising."""
    found = []
    while most >= least:
        found.append(most)
        most //= 2
    return found[::-1]


def _num_decodes(rng: np.random.Generator, scale: Scale) -> int:
    return _log_uniform(rng, 1, max(2, scale.max_sequences // 2))


def _chunk(rng: np.random.Generator, scale: Scale) -> tuple[int, int]:
    context = int(rng.integers(0, 2)) and _log_uniform(rng, 16, scale.max_context)
    return _log_uniform(rng, _LEAST_CHUNK, max(_LEAST_CHUNK + 1, scale.max_batched_tokens // 2)), context


def _log_uniform(rng: np.random.Generator, least: int, most: int) -> int:
    return round(float(np.exp(rng.uniform(np.log(least), np.log(most)))))
