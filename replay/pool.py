"""Pools of pages, one a tier: where keys and values lie, and how pages are copied between pools."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from pbkv.replay.memory import HostMemory, free_bytes
from pbkv.traces.errors import ConfigError

Layout = Literal["page-first", "layer-first"]
Pages = npt.NDArray[np.integer]
MAX_FILL = 0.95  # of the free memory: the rest is for what else happens on the device


@dataclass(frozen=True, slots=True)
class PageShape:
    """What a page holds: keys and values of ``page_size`` tokens in every layer."""

    num_layers: int
    page_size: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        values = self.num_layers * 2 * self.page_size * self.num_kv_heads * self.head_dim
        return values * self.dtype.itemsize


class Pool:
    """``num_pages`` pages on one device: `pages` is [pages, layers, 2, page_size, kv_heads, head_dim].

    Page-first: that is also the order in memory, so a run of pages is one piece (4 MiB a page of 32 tokens
    of Llama-8B). Layer-first: the layers come first in memory (one piece a layer), the view stays the same.
    Raises ConfigError if the memory is not there; a fresh pool's content is undefined on a GPU.
    """

    def __init__(
        self,
        shape: PageShape,
        num_pages: int,
        device: torch.device,
        *,
        layout: Layout = "page-first",
        is_pinned: bool = False,
    ) -> None:
        self.shape, self.num_pages, self.layout, self.device = shape, num_pages, layout, device
        check_fits(shape, num_pages, device)
        self._memory: HostMemory | None = None
        self.pages = self._view(self._allocated(num_pages * shape.num_bytes, is_pinned))
        self._layers = tuple(self.pages[:, layer] for layer in range(shape.num_layers))

    def layer(self, layer: int) -> torch.Tensor:
        """[pages, 2, page_size, kv_heads, head_dim]: a view; index 0 holds keys, 1 values."""
        return self._layers[layer]

    def pieces(self, first: int, end: int) -> Iterator[torch.Tensor]:
        """The pages from ``first`` to before ``end``, in pieces that are contiguous in memory."""
        if self.layout == "page-first":
            yield self.pages[first:end]
        else:
            yield from (layer[first:end] for layer in self._layers)

    def bases(self) -> tuple[list[int], int]:
        """Addresses of the parts that are contiguous in memory (one; layer-first one a layer), and the bytes
        that a page has in each.
        """
        if self.layout == "page-first":
            return [self.pages.data_ptr()], self.shape.num_bytes
        return [layer.data_ptr() for layer in self._layers], self.shape.num_bytes // self.shape.num_layers

    def close(self) -> None:
        """Unpins a host pool; nothing may be copied to or from it any more."""
        if self._memory is not None:
            self._memory.close()

    def _allocated(self, num_bytes: int, is_pinned: bool) -> torch.Tensor:
        if self.device.type == "cuda":
            return torch.empty(num_bytes, dtype=torch.uint8, device=self.device)
        self._memory = HostMemory(num_bytes, is_pinned=is_pinned)
        return self._memory.bytes

    def _view(self, memory: torch.Tensor) -> torch.Tensor:
        shape, values = self.shape, memory.view(self.shape.dtype)
        inner = (2, shape.page_size, shape.num_kv_heads, shape.head_dim)
        if self.layout == "page-first":
            return values.view(self.num_pages, shape.num_layers, *inner)
        return values.view(shape.num_layers, self.num_pages, *inner).transpose(0, 1)


def runs(source: Pages, target: Pages) -> Iterator[tuple[int, int, int]]:
    """(first source page, first target page, length) of each run that is contiguous in both lists."""
    if len(source) != len(target):
        raise ValueError(f"{len(source)} pages cannot be copied to {len(target)}")
    if not len(source):
        return
    breaks = np.flatnonzero((np.diff(source) != 1) | (np.diff(target) != 1)) + 1
    starts = np.concatenate(([0], breaks))
    lengths = np.diff(np.concatenate((starts, [len(source)])))
    yield from zip(source[starts].tolist(), target[starts].tolist(), lengths.tolist(), strict=True)


def copy_runs(source: Pool, target: Pool, source_pages: Pages, target_pages: Pages) -> int:
    """Copies page by page, one copy a contiguous run, on the current stream; returns how many copies.

    Does not wait where one side is a GPU and the other pinned. The pools must be of equal shape and layout.
    """
    check_alike(source, target)
    num_copies = 0
    for first, to, length in runs(source_pages, target_pages):
        pieces = zip(source.pieces(first, first + length), target.pieces(to, to + length), strict=True)
        for piece, place in pieces:
            place.copy_(piece, non_blocking=True)
            num_copies += 1
    return num_copies


def check_alike(source: Pool, target: Pool) -> None:
    """Raises ValueError for pools between which pages cannot be copied."""
    if source.shape != target.shape or source.layout != target.layout:
        raise ValueError("pages are copied between pools of the same shape and layout only")


def check_fits(shape: PageShape, num_pages: int, device: torch.device) -> None:
    """Raises ConfigError if the memory that is free does not hold so many pages."""
    where = "GPU" if device.type == "cuda" else "RAM"
    if num_pages < 1:
        raise ConfigError("pool", num_pages, "at least one page")
    most = int(free_bytes(device) * MAX_FILL) // shape.num_bytes
    if num_pages > most:
        size = num_pages * shape.num_bytes / 2**30
        expected = f"at most {most} pages: that is what fits in the {where} that is free"
        raise ConfigError("pool", f"{num_pages} pages ({size:.1f} GiB)", expected)
