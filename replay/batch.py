"""One iteration's work as data: the slices of its sequences, and how they are packed for the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch

Longs = npt.NDArray[np.int64]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Slice:
    """One sequence's part of an iteration: a decode has one token, a prefill chunk more.

    tokens: [q] ids whose keys and values are to be computed now. start: tokens before them, whose keys and
    values are in the pages. pages: ids of the pages that cover start + q tokens, in order.
    """

    tokens: Longs
    start: int
    pages: Ints


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an iteration gave, in the order of its slices; on the device, and perhaps not computed yet.

    next_tokens: [slices], argmax after each slice's last token (of `decode_run`: [iterations, slices]).
    hidden: [slices, width], hidden states of those tokens after the last norm. logits: [slices, vocabulary].
    """

    next_tokens: torch.Tensor
    hidden: torch.Tensor | None = None
    logits: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Packed:
    """A batch as flat arrays: decodes first, then short slices, then long ones.

    Of T tokens and S slices: input_ids, positions and slots are [T] (slot: page · page size + offset);
    last is [S], in the batch's own order: where each slice's last token lies. In packed order: q_starts
    [S + 1] (tokens), kv_lens [S] (tokens seen by the slice's last one), page_starts [S + 1] into pages.
    """

    input_ids: Longs
    positions: Longs
    slots: Longs
    last: Longs
    q_starts: Ints
    kv_lens: Ints
    page_starts: Ints
    pages: Ints

    def arrays(self) -> dict[str, Longs | Ints]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class Groups:
    """How many slices of a packed batch are decodes, and how many of the rest are short."""

    num_decodes: int
    num_short: int


def check_batch(batch: Sequence[Slice], page_size: int) -> None:
    """Raises ValueError if a slice has no tokens, or not the pages that cover them."""
    for number, part in enumerate(batch):
        num_pages = -(-(part.start + len(part.tokens)) // page_size)
        if not len(part.tokens) or part.start < 0 or len(part.pages) < num_pages:
            said = f"{len(part.tokens)} tokens after {part.start} on {len(part.pages)} pages"
            raise ValueError(f"slice {number}: {said} of {page_size} tokens")
    if not batch:
        raise ValueError("an iteration needs at least one slice")


def pack(batch: Sequence[Slice], page_size: int, max_short: int) -> tuple[Packed, Groups]:
    """Flattens a batch; slices of more than ``max_short`` tokens are the long ones."""
    lengths = np.array([len(part.tokens) for part in batch])
    kinds = (lengths > 1).astype(np.int64) + (lengths > max_short)
    order = np.argsort(kinds, kind="stable")
    parts, lengths = [batch[i] for i in order], lengths[order]
    starts = np.array([part.start for part in parts])
    q_starts = starts_of(lengths)
    page_starts = starts_of(-(-(starts + lengths) // page_size))
    pages = np.concatenate(
        [part.pages[: b - a] for part, a, b in zip(parts, page_starts, page_starts[1:], strict=False)]
    )
    positions = np.arange(q_starts[-1]) + np.repeat(starts - q_starts[:-1], lengths)
    page_of_token = pages[np.repeat(page_starts[:-1], lengths) + positions // page_size].astype(np.int64)
    last = np.empty(len(parts), dtype=np.int64)
    last[order] = q_starts[1:] - 1
    packed = Packed(
        input_ids=np.concatenate([part.tokens for part in parts]).astype(np.int64, copy=False),
        positions=positions,
        slots=page_of_token * page_size + positions % page_size,
        last=last,
        q_starts=q_starts.astype(np.int32),
        kv_lens=(starts + lengths).astype(np.int32),
        page_starts=page_starts.astype(np.int32),
        pages=pages.astype(np.int32, copy=False),
    )
    return packed, Groups(int((kinds == 0).sum()), int((kinds == 1).sum()))


def starts_of(lengths: Longs) -> Longs:
    """[n + 1]: where each of n pieces starts, and where the last one ends."""
    return np.concatenate(([0], np.cumsum(lengths)))
