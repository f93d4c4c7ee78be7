"""Attention over pages, as transformers' models call it: one op that finds pool and batch in a step context.

`pbkv` is the name under which it is registered. An op of torch.library does not know what a page table is:
it looks into the current `StepContext`, so that torch.compile sees one opaque call a layer and no break.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pbkv.replay.cpu_attention import attend_cpu

if TYPE_CHECKING:
    from pbkv.replay.cpu_attention import Span
    from pbkv.replay.cuda_attention import Launch
    from pbkv.replay.pool import Pool

NAME = "pbkv"


@dataclass(slots=True, kw_only=True)
class StepContext:
    """What attention must know of one iteration: shapes and meanings as in `batch.Packed`.

    Slices with kv_lens 0 are padding: nothing is written (their slots are −1), what they give is undefined.
    """

    pool: Pool
    slots: torch.Tensor
    q_starts: torch.Tensor
    kv_lens: torch.Tensor
    page_starts: torch.Tensor
    pages: torch.Tensor
    launch: Launch | None = None  # on CUDA: tiles and splits
    spans: list[Span] | None = None  # on a CPU; filled by the first layer

    @classmethod
    def of(cls, pool: Pool, staged: dict[str, torch.Tensor], launch: Launch | None) -> StepContext:
        """The context of a packed batch whose arrays are ``staged``."""
        return cls(
            pool=pool,
            slots=staged["slots"],
            q_starts=staged["q_starts"],
            kv_lens=staged["kv_lens"],
            page_starts=staged["page_starts"],
            pages=staged["pages"],
            launch=launch,
        )


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
