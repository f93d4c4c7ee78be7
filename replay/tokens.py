"""Token ids for a trace that has none: equal prefixes become equal tokens.

A trace names its segments and not their words, so words are made up: the j-th token of a segment is a
hash of the segment's id and j. The same segment is the same tokens wherever it stands, and two prompts
agree at least as far as their leading segments do. Where they part company the tokens differ but by
chance: with V ordinary ids, a full block of 16 tokens agrees with probability V⁻¹⁶.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pbkv.traces.errors import ConfigError
from pbkv.traces.schema import Call

TokenArray = NDArray[np.int64]

# SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): its increment, and the two multipliers of its finaliser.
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_WORD = 2**64


def tokens_of(
    segment_ids: Sequence[int],
    segment_tokens: Sequence[int],
    vocab_size: int,
    *,
    special_ids: Sequence[int] = (),
    namespace: int = 0,
) -> TokenArray:
    """The tokens of a prompt whose i-th segment has ``segment_tokens[i]`` tokens; shape (Σ tokens,).

    They lie in 0 … ``vocab_size`` − 1 and are none of ``special_ids``. ``namespace`` is that of
    `pbkv.cache.blocks.PathTable.path`: ids mean something within one trace. Raises ConfigError if fewer
    than two ids are left to choose from.
    """
    special = np.unique(np.array([i for i in special_ids if 0 <= i < vocab_size], np.int64))
    num_ordinary = vocab_size - len(special)
    if not 2 <= num_ordinary < 2**32:
        raise ConfigError("vocab_size", vocab_size, "at least two token ids that are not special, below 2**32")
    counts = np.asarray(segment_tokens, np.int64)
    seeds = _mixed(_words(segment_ids) + np.uint64(namespace * _GOLDEN % _WORD))
    firsts = np.cumsum(counts) - counts
    places = (np.arange(int(counts.sum())) - np.repeat(firsts, counts)).astype(np.uint64)
    hashes = _mixed(np.repeat(seeds, counts) + (places + np.uint64(1)) * np.uint64(_GOLDEN))
    ranks = ((hashes >> np.uint64(32)) * np.uint64(num_ordinary)) >> np.uint64(32)
    return _unranked(ranks.astype(np.int64), special)


def answer_of(
    call: Call,
    workflow_id: str,
    vocab_size: int,
    *,
    special_ids: Sequence[int] = (),
    namespace: int = 0,
) -> TokenArray:
    """The tokens that ``call`` generates, the last one included; shape (num_output_tokens,).

    They are those of the segment ``output_id``, as a later prompt holds it; an answer that no later
    prompt holds gets tokens of its own, from the workflow's id and the call's index.
    """
    segment_id = _own_id(workflow_id, call.call_index) if call.output_id is None else call.output_id
    return tokens_of(
        (segment_id,),
        (call.num_output_tokens,),
        vocab_size,
        special_ids=special_ids,
        namespace=namespace,
    )


def _own_id(workflow_id: str, call_index: int) -> int:
    """A segment id for an answer without one: 63 bits of a hash, so that no id of a trace is met."""
    digest = hashlib.blake2b(f"{call_index} {workflow_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _words(ids: Sequence[int]) -> NDArray[np.uint64]:
    """Ids (int64, of either sign) as words, each multiplied apart from its neighbours."""
    return np.asarray(ids, np.int64).astype(np.uint64) * np.uint64(_GOLDEN)


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: a bijection of the words that spreads each bit over all."""
    words = (words ^ (words >> np.uint64(30))) * _FIRST
    words = (words ^ (words >> np.uint64(27))) * _SECOND
    return words ^ (words >> np.uint64(31))


def _unranked(ranks: TokenArray, special: TokenArray) -> TokenArray:
    """The ``ranks``-th ids (from 0) that are not in ``special``, which is sorted and without repeats."""
    below = special - np.arange(len(special))  # how many ordinary ids lie below each special one
    return ranks + np.searchsorted(below, ranks, side="right")
