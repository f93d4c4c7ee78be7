"""Token ids for traces without text: equal segments give equal tokens, so equal prefixes do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_NUM_SPECIAL = 16  # ids below are left out: special tokens lie there in many vocabularies
_TOKEN_STEP, _SEGMENT_STEP = 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03  # odd: every id and place counts


def tokens_of(
    segment_ids: Sequence[int], segment_tokens: Sequence[int], vocabulary: int
) -> npt.NDArray[np.int64]:
    """[Σ segment_tokens] ids from 16 to below ``vocabulary``: a hash of (segment, place in it).

    A segment that appears with fewer tokens gives the first of them.
    """
    lengths = np.asarray(segment_tokens, np.int64)
    ids = np.repeat(np.asarray(segment_ids, np.int64).astype(np.uint64), lengths)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    places = (np.arange(len(ids)) - starts).astype(np.uint64)
    mixed = _mixed(ids * np.uint64(_SEGMENT_STEP) + (places + np.uint64(1)) * np.uint64(_TOKEN_STEP))
    return (mixed % np.uint64(vocabulary - _NUM_SPECIAL)).astype(np.int64) + _NUM_SPECIAL


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser: every bit of the input moves half of the output's."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
