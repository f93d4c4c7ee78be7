"""Attention on a CPU: scaled dot products over gathered pages, slice by slice."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import scaled_dot_product_attention

if TYPE_CHECKING:
    from pbkv.replay.attention import StepContext

MINUS_INFINITY = float("-inf")


@dataclass(frozen=True)
class Span:
    """One slice: tokens [begin, end) of the batch, which see keys [0, kv_len) on these pages."""

    begin: int
    end: int
    kv_len: int
    pages: torch.Tensor

    @cached_property
    def mask(self) -> torch.Tensor:
        """[q, kv_len], to be added to scores; made once for all layers."""
        num = self.end - self.begin
        return torch.full((num, self.kv_len), MINUS_INFINITY).triu(self.kv_len - num + 1)

    def attend(self, layer: torch.Tensor, query: torch.Tensor, scale: float) -> torch.Tensor:
        """Its rows [q, Hq, D] from query [Hq, T, D]; heads of a group share keys without a copy."""
        key, value = (self._gathered(layer[:, part]) for part in (0, 1))
        num_kv, _, width = key.shape
        num, group = self.end - self.begin, query.shape[0] // num_kv
        query = query[:, self.begin : self.end]
        if num == 1:  # sees everything: the heads of a group are the rows of one small matrix
            rows = query.reshape(1, num_kv, group, width)
            alone = scaled_dot_product_attention(rows, key[None], value[None], scale=scale)
            return alone.reshape(1, -1, width)
        shared = (num_kv, group, self.kv_len, width)
        result = scaled_dot_product_attention(
            query.reshape(num_kv, group, num, width),
            key[:, None].expand(shared),
            value[:, None].expand(shared),
            attn_mask=self.mask.to(query.dtype),
            scale=scale,
        )
        return result.reshape(-1, num, width).transpose(0, 1)

    def _gathered(self, pages: torch.Tensor) -> torch.Tensor:
        """[Hkv, kv_len, D] of a layer's keys or values [pages, page_size, Hkv, D]: copied once."""
        return pages.index_select(0, self.pages).flatten(0, 1)[: self.kv_len].transpose(0, 1)


def attend_cpu(
    context: StepContext,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layer: int,
    scale: float,
) -> torch.Tensor:
    """Writes key and value [Hkv, T, D] to the pages, then attends: query [Hq, T, D] -> [T, Hq, D]."""
    pages = context.pool.layer(layer)
    _write(pages, context.slots, key, value)
    out = torch.zeros(query.shape[1], query.shape[0], query.shape[2], dtype=query.dtype)
    if context.spans is None:
        context.spans = spans_of(context)
    for span in context.spans:
        out[span.begin : span.end] = span.attend(pages, query, scale)
    return out


def spans_of(context: StepContext) -> list[Span]:
    """The batch as the CPU computes it; padding (kv_len 0) is left out."""
    page_size = context.pool.shape.page_size
    q_starts, page_starts = context.q_starts.tolist(), context.page_starts.tolist()
    spans = []
    for number, kv_len in enumerate(context.kv_lens.tolist()):
        if kv_len:
            first = page_starts[number]
            pages = context.pages[first : first - (-kv_len // page_size)]
            spans.append(Span(q_starts[number], q_starts[number + 1], kv_len, pages))
    return spans


def _write(pages: torch.Tensor, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
    """To the slots of a layer's pages [P, 2, page_size, Hkv, D]; slot −1 is padding."""
    page_size = pages.shape[2]
    used = slots >= 0
    if not used.all():
        slots, key, value = slots[used], key[:, used], value[:, used]
    page, offset = slots // page_size, slots % page_size
    pages[page, 0, offset] = key.transpose(0, 1)
    pages[page, 1, offset] = value.transpose(0, 1)
