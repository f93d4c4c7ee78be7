"""Attention over pages, as transformers' models call it: one op that finds pool and batch in a step context.

`pbkv` is the name under which it is registered. An op of torch.library does not know what a page table is:
it looks into the current `StepContext`, so that torch.compile sees one opaque call a layer and no break.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention

if TYPE_CHECKING:
    from pbkv.replay.batch import Groups
    from pbkv.replay.cuda_attention import Launch
    from pbkv.replay.pool import Pool

NAME = "pbkv"


@dataclass(slots=True, kw_only=True)
class StepContext:
    """What attention must know of one iteration: shapes and meanings as in `batch.Packed`.

    Slices with kv_lens 0 are padding: nothing is written (their slots are −1), what they give is undefined.
    """

    pool: Pool
    groups: Groups
    slots: torch.Tensor
    q_starts: torch.Tensor
    kv_lens: torch.Tensor
    page_starts: torch.Tensor
    pages: torch.Tensor
    launch: Launch | None = None  # on CUDA: tiles and splits
    spans: list[Span] = field(default_factory=list)  # on a CPU

    @classmethod
    def of(
        cls, pool: Pool, groups: Groups, staged: dict[str, torch.Tensor], launch: Launch | None
    ) -> StepContext:
        """The context of a packed batch whose arrays are ``staged``."""
        return cls(
            pool=pool,
            groups=groups,
            slots=staged["slots"],
            q_starts=staged["q_starts"],
            kv_lens=staged["kv_lens"],
            page_starts=staged["page_starts"],
            pages=staged["pages"],
            launch=launch,
        )


@dataclass(frozen=True)
class Span:
    """One slice as the CPU sees it: tokens [begin, end) of the batch, keys [0, kv_len) on its pages."""

    begin: int
    end: int
    kv_len: int
    pages: torch.Tensor

    @cached_property
    def mask(self) -> torch.Tensor | None:
        """[q, kv_len], true where a token may look; None for a decode, which sees everything."""
        num = self.end - self.begin
        if num == 1:
            return None
        return torch.ones(num, self.kv_len, dtype=torch.bool).tril(self.kv_len - num)


_current: StepContext | None = None


@contextmanager
def step(context: StepContext) -> Iterator[None]:
    """Within it, models with attention `pbkv` read and write ``context``'s pages."""
    global _current
    before, _current = _current, context
    try:
        yield
    finally:
        _current = before


def register() -> None:
    """Makes `pbkv` known to transformers. May be called again."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, paged_attention)


def paged_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers calls it: query [1, Hq, T, D], key and value [1, Hkv, T, D] -> [1, T, Hq, D]."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if torch.compiler.is_compiling():
        return _op(query, key, value, module.layer_idx, scale), None
    return _attend(query, key, value, module.layer_idx, scale), None


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layer: int, scale: float
) -> torch.Tensor:
    if _current is None:
        raise RuntimeError("attention over pages was called outside of a step")
    if query.device.type == "cuda":
        from pbkv.replay.cuda_attention import attend_cuda

        return attend_cuda(_current, query[0], key[0], value[0], layer, scale)[None]
    return attend_cpu(_current, query[0], key[0], value[0], layer, scale)[None]


_op = torch.library.custom_op("pbkv::paged_attention", _attend, mutates_args=())


@_op.register_fake
def _(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layer: int, scale: float) -> torch.Tensor:
    return query.new_empty(query.shape[0], query.shape[2], query.shape[1], query.shape[3])


def attend_cpu(
    context: StepContext,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layer: int,
    scale: float,
) -> torch.Tensor:
    """Writes key and value [Hkv, T, D] to the pages, then attends slice by slice: [T, Hq, D]."""
    pages = context.pool.layer(layer)
    _write(pages, context, key, value)
    out = torch.zeros(query.shape[1], query.shape[0], query.shape[2], dtype=query.dtype)
    for span in context.spans or _fill_spans(context):
        rows = slice(span.begin, span.end)
        out[rows] = _attend_span(pages, span, query[:, rows], scale)
    return out


def _fill_spans(context: StepContext) -> list[Span]:
    q_starts, page_starts = context.q_starts.tolist(), context.page_starts.tolist()
    page_size = context.pool.shape.page_size
    for number, kv_len in enumerate(context.kv_lens.tolist()):
        if kv_len:
            first = page_starts[number]
            pages = context.pages[first : first - (-kv_len // page_size)]
            context.spans.append(Span(q_starts[number], q_starts[number + 1], kv_len, pages))
    return context.spans


def _write(pages: torch.Tensor, context: StepContext, key: torch.Tensor, value: torch.Tensor) -> None:
    slots, page_size = context.slots, context.pool.shape.page_size
    used = slots >= 0
    if not used.all():
        slots, key, value = slots[used], key[:, used], value[:, used]
    page, offset = slots // page_size, slots % page_size
    pages[page, 0, offset] = key.transpose(0, 1)
    pages[page, 1, offset] = value.transpose(0, 1)


def _attend_span(pages: torch.Tensor, span: Span, query: torch.Tensor, scale: float) -> torch.Tensor:
    """[q, Hq, D] of query [Hq, q, D]; the heads of a group share keys by a stride of 0, not by a copy."""
    num_heads, num, width = query.shape
    key, value = (_gathered(pages[:, part], span) for part in (0, 1))
    num_kv = key.shape[0]
    group = num_heads // num_kv
    if num == 1:  # the group's heads are rows of one small matrix
        out = scaled_dot_product_attention(
            query.view(1, num_kv, group, width), key[None], value[None], scale=scale
        )
        return out.view(1, num_heads, width)
    shared = (num_kv, group, span.kv_len, width)
    out = scaled_dot_product_attention(
        query.reshape(num_kv, group, num, width),
        key[:, None].expand(shared),
        value[:, None].expand(shared),
        attn_mask=span.mask,
        scale=scale,
    )
    return out.reshape(num_heads, num, width).transpose(0, 1)


def _gathered(pages: torch.Tensor, span: Span) -> torch.Tensor:
    """[Hkv, kv_len, D] of a layer's keys or values [pages, page_size, Hkv, D]: copied once."""
    return pages.index_select(0, span.pages).flatten(0, 1)[: span.kv_len].transpose(0, 1)
