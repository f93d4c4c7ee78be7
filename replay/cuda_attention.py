"""Attention on a GPU: the kernels' launches, and in-tree varlen attention (fp32: SDPA) for long chunks.

Nothing here has run on a GPU yet; the launches are tested in Triton's interpreter.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pbkv.replay import kernels
from pbkv.replay.dense_attention import attend_dense

if TYPE_CHECKING:
    from collections.abc import Callable

    from pbkv.replay.attention import StepContext
    from pbkv.replay.batch import Groups, Ints, Packed

DECODE_ROWS = 16  # rows of a decode's tile: the least a tensor core takes
EXTEND_ROWS = 64
NUM_KEYS = 64  # keys a step of the loop: 16 KiB each of K and V at bf16, head 128
BLOCKS_PER_SM = 4  # blocks of threads that a launch aims at, so that loads of some hide waits of others
MAX_SPLITS = 64
MIN_SPLIT_KEYS = 256  # a part is worth its partial result from here on


@dataclass(frozen=True, slots=True)
class Tiles:
    """The tiles of one launch: ``num`` of them from ``first`` in the staged arrays, for these tokens."""

    first: int
    num: int
    first_token: int
    num_tokens: int
    num_rows: int
    num_splits: int


@dataclass(frozen=True, slots=True)
class Launch:
    """What a step launches per layer: its tiles, and the long slices as (first token, tokens, keys, pages).

    The staged arrays (see `tile_arrays`): tile_slices and tile_firsts hold tiles; long_bounds holds
    (0, tokens, 0, keys) for each long slice.
    """

    tiles: tuple[Tiles, ...]
    long: tuple[tuple[int, int, int, int, int], ...]
    tile_slices: torch.Tensor
    tile_firsts: torch.Tensor
    long_bounds: torch.Tensor


def num_splits(num_tiles: int, num_kv_heads: int, max_keys: int, num_processors: int) -> int:
    """Parts of the keys, a power of two: enough to fill the GPU, none shorter than is worth it."""
    wanted = BLOCKS_PER_SM * num_processors / (num_tiles * num_kv_heads)
    most = min(MAX_SPLITS, max(1, max_keys // MIN_SPLIT_KEYS))
    return 1 << int(np.log2(max(1.0, min(wanted, most))))


def tile_arrays(packed: Packed, groups: Groups, group_size: int) -> dict[str, Ints]:
    """The arrays of `Launch` for a packed batch, to be staged with it."""
    lengths = np.diff(packed.q_starts)
    num_short = groups.num_decodes + groups.num_short
    per_tile = np.full(num_short, EXTEND_ROWS // group_size)
    per_tile[: groups.num_decodes] = 1
    counts = -(-lengths[:num_short] // per_tile)
    slices = np.repeat(np.arange(num_short), counts)
    within = np.arange(len(slices)) - np.repeat(np.cumsum(counts) - counts, counts)
    long = np.zeros((len(lengths) - num_short, 4), dtype=np.int32)
    long[:, 1], long[:, 3] = lengths[num_short:], packed.kv_lens[num_short:]
    return {
        "tile_slices": slices.astype(np.int32),
        "tile_firsts": (within * per_tile[slices]).astype(np.int32),
        "long_bounds": long,
    }


def plan_launch(
    packed: Packed, groups: Groups, staged: dict[str, torch.Tensor], num_kv_heads: int, num_processors: int
) -> Launch:
    """What to launch for a batch whose `tile_arrays` are ``staged``."""
    ends = (groups.num_decodes, groups.num_decodes + groups.num_short)
    num_tiles = staged["tile_slices"].shape[0]
    tiles, slices = [], ((0, ends[0], 0, ends[0]), (ends[0], ends[1], ends[0], num_tiles))
    for rows, (begin, end, first, last) in zip((DECODE_ROWS, EXTEND_ROWS), slices, strict=True):
        if end > begin:
            tokens = int(packed.q_starts[begin]), int(packed.q_starts[end])
            splits = num_splits(
                last - first, num_kv_heads, int(packed.kv_lens[begin:end].max()), num_processors
            )
            tiles.append(Tiles(first, last - first, tokens[0], tokens[1] - tokens[0], rows, splits))
    numbers = range(ends[1], len(packed.kv_lens))
    arrays = (packed.q_starts, packed.kv_lens, packed.page_starts)
    long = tuple(
        (
            int(arrays[0][n]),
            int(arrays[0][n + 1]),
            int(arrays[1][n]),
            int(arrays[2][n]),
            int(arrays[2][n + 1]),
        )
        for n in numbers
    )
    named = {name: staged[name] for name in ("tile_slices", "tile_firsts", "long_bounds")}
    return Launch(tuple(tiles), long, **named)


def decode_launch(
    numbers: torch.Tensor, num_slices: int, num_kv_heads: int, max_keys: int, device: torch.device
) -> Launch:
    """The launch of ``num_slices`` decodes; ``numbers`` are 0, 1, … on the device."""
    splits = num_splits(num_slices, num_kv_heads, max_keys, num_sms(device))
    tiles = Tiles(0, num_slices, 0, num_slices, DECODE_ROWS, splits)
    return Launch((tiles,), (), numbers, torch.zeros_like(numbers), numbers[:0])


@cache
def num_sms(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def attend_cuda(
    context: StepContext,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layer: int,
    scale: float,
) -> torch.Tensor:
    """As `attention.attend_cpu`, without a wait."""
    pages, launch = context.pool.layer(layer), context.launch
    if launch is None:
        raise RuntimeError("a step on CUDA needs a launch")
    write(pages, context.slots, key, value)
    out = torch.empty(query.shape[1], query.shape[0], query.shape[2], dtype=query.dtype, device=query.device)
    for tiles in launch.tiles:
        attend_tiles(pages, context, launch, tiles, query, out, scale)
    for number, (begin, end, *where) in enumerate(launch.long):
        bounds = launch.long_bounds[number]
        rows = slice(begin, end)
        out[rows] = _attend_long(pages, context, bounds, where, query[:, rows], scale)
    return out


def write(pages: torch.Tensor, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
    """Key and value [Hkv, T, D] to slots [T] of a layer's pages [P, 2, page_size, Hkv, D]."""
    num_heads, num_tokens, head_dim = key.shape
    page_stride, value_stride, token_stride, head_stride, _ = pages.stride()
    kernels.write_pages[(num_tokens,)](
        key, value, pages, slots, key.stride(0), key.stride(1), value.stride(0), value.stride(1),
        page_stride, value_stride, token_stride, head_stride,
        NUM_HEADS=num_heads, HEAD_DIM=head_dim, PAGE_SIZE=pages.shape[2],
        BLOCK_H=1 << (num_heads - 1).bit_length(), num_warps=4,
    )  # fmt: skip


def attend_tiles(
    pages: torch.Tensor,
    context: StepContext,
    launch: Launch,
    tiles: Tiles,
    query: torch.Tensor,
    out: torch.Tensor,
    scale: float,
) -> None:
    """Fills ``out`` [T, Hq, D] for the tokens of ``tiles`` from query [Hq, T, D]."""
    num_heads, _, head_dim = query.shape
    num_kv = pages.shape[3]
    page_stride, value_stride, token_stride, head_stride, _ = pages.stride()
    rows = slice(tiles.first_token, tiles.first_token + tiles.num_tokens)
    query, out, some = query[:, rows], out[rows], slice(tiles.first, tiles.first + tiles.num)
    parts_shape = (tiles.num_tokens, num_heads, tiles.num_splits)
    is_split = tiles.num_splits > 1
    lse = torch.empty(parts_shape, dtype=torch.float32, device=out.device) if is_split else out
    parts = torch.empty((*parts_shape, head_dim), dtype=torch.float32, device=out.device) if is_split else out
    kernels.attend_pages[(tiles.num, num_kv, tiles.num_splits)](
        query, pages, out, parts, lse, launch.tile_slices[some], launch.tile_firsts[some],
        context.q_starts, context.kv_lens, context.page_starts, context.pages, tiles.first_token, scale,
        query.stride(0), query.stride(1), page_stride, value_stride, token_stride, head_stride,
        GROUP=num_heads // num_kv, HEAD_DIM=head_dim, PAGE_SIZE=pages.shape[2], BLOCK_M=tiles.num_rows,
        BLOCK_N=NUM_KEYS, NUM_SPLITS=tiles.num_splits, enable_fp_fusion=True, num_warps=4, num_stages=3,
    )  # fmt: skip
    if is_split:
        kernels.merge_parts[(tiles.num_tokens, num_heads)](
            parts, lse, out, HEAD_DIM=head_dim, NUM_SPLITS=tiles.num_splits, num_warps=4
        )


def _attend_long(
    pages: torch.Tensor,
    context: StepContext,
    bounds: torch.Tensor,
    where: list[int],
    query: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """[q, Hq, D] of one long slice: its pages gathered once, then FlashAttention, which has no fp32."""
    kv_len, first_page, end_page = where
    seen = pages.index_select(0, context.pages[first_page:end_page])
    key, value = (seen[:, part].reshape(-1, *seen.shape[3:])[:kv_len] for part in (0, 1))
    if query.dtype == torch.float32:
        return attend_dense(query, key, value, scale)
    num = query.shape[1]
    return varlen(query.transpose(0, 1).contiguous(), key, value, bounds[:2], bounds[2:], num, kv_len, scale)


def varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    q_bounds: torch.Tensor,
    kv_bounds: torch.Tensor,
    max_q: int,
    max_kv: int,
    scale: float,
) -> torch.Tensor:
    """`torch.nn.attention.varlen.varlen_attn`, causal to the lower right, with grouped heads."""
    function, options = _varlen_options()
    result: torch.Tensor = function(
        query, key, value, q_bounds, kv_bounds, max_q, max_kv, scale=scale, **options
    )
    return result


@cache
def _varlen_options() -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function and how this torch spells causal (2.11: window_size) and grouped heads (2.12: a flag)."""
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn, options_of(varlen_attn)


def options_of(function: Callable[..., Any]) -> dict[str, Any]:
    known = inspect.signature(function).parameters
    causal: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    return causal | ({"enable_gqa": True} if "enable_gqa" in known else {})
