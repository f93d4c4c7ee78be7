# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""Triton kernels: keys and values into pages, and attention over pages, split along the keys.

Run in Triton's interpreter and cross-compiled to sm_90 by the tests. Nothing here has run on a GPU yet:
block sizes and numbers of warps are reasoned, not measured.

Split-KV as in Dao et al., "Flash-Decoding" (2023): each block of threads attends to a part of the keys,
`_merge` weighs the parts by their log-sum-exp. The heads of a group are rows of the same tile, so that
a group's keys are read once.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def write_pages(
    key,
    value,
    layer,
    slots,
    key_head,
    key_token,
    value_head,
    value_token,
    page_stride,
    value_stride,
    token_stride,
    head_stride,
    NUM_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """One program a token. Slot −1: the token is padding and nothing is written."""
    token = tl.program_id(0)
    slot = tl.load(slots + token)
    if slot >= 0:
        heads = tl.arange(0, BLOCK_H)[:, None]
        dims = tl.arange(0, HEAD_DIM)[None, :]
        is_head = heads < NUM_HEADS
        place = layer + (slot // PAGE_SIZE) * page_stride + (slot % PAGE_SIZE) * token_stride
        there = place + heads * head_stride + dims
        k = tl.load(key + token.to(tl.int64) * key_token + heads * key_head + dims, mask=is_head)
        v = tl.load(value + token.to(tl.int64) * value_token + heads * value_head + dims, mask=is_head)
        tl.store(there, k, mask=is_head)
        tl.store(there + value_stride, v, mask=is_head)


@triton.jit
def _attend_keys(
    q,
    acc,
    top,
    total,
    begin,
    end,
    position,
    table,
    keys_at,
    value_stride,
    page_stride,
    token_stride,
    scale,
    HEAD_DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    IS_MASKED: tl.constexpr,
):
    """Keys [begin, end) of one sequence for a tile of rows; softmax kept online, to the base of 2."""
    dims = tl.arange(0, HEAD_DIM)[None, :]
    for first in range(begin, end, BLOCK_N):
        keys = first + tl.arange(0, BLOCK_N)
        if IS_MASKED:
            is_key = keys < end
            page = tl.load(table + keys // PAGE_SIZE, mask=is_key, other=0).to(tl.int64)
            at = keys_at + (page * page_stride + (keys % PAGE_SIZE) * token_stride)[:, None] + dims
            k = tl.load(at, mask=is_key[:, None], other=0.0)
            v = tl.load(at + value_stride, mask=is_key[:, None], other=0.0)
        else:
            page = tl.load(table + keys // PAGE_SIZE).to(tl.int64)
            at = keys_at + (page * page_stride + (keys % PAGE_SIZE) * token_stride)[:, None] + dims
            k = tl.load(at)
            v = tl.load(at + value_stride)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        if IS_MASKED:
            is_seen = (keys[None, :] <= position[:, None]) & is_key[None, :]
            scores = tl.where(is_seen, scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        level = tl.where(higher == float("-inf"), 0.0, higher)  # a row that has seen nothing yet
        weights = tl.exp2(scores - level[:, None])
        fade = tl.exp2(top - level)
        total = total * fade + tl.sum(weights, 1)
        acc = tl.dot(weights.to(v.dtype), v, acc * fade[:, None], input_precision="ieee")
        top = higher
    return acc, top, total


@triton.jit(do_not_specialize=["first_token"], do_not_specialize_on_alignment=["tile_slices", "tile_firsts"])
def attend_pages(
    query,
    layer,
    out,
    parts,
    parts_lse,
    tile_slices,
    tile_firsts,
    q_starts,
    kv_lens,
    page_starts,
    pages,
    first_token,
    scale,
    query_head,
    query_token,
    page_stride,
    value_stride,
    token_stride,
    head_stride,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
):
    """One program a (tile of rows, key-value head, part of the keys).

    A tile is BLOCK_M // GROUP tokens of one slice, from ``tile_firsts`` on; a row is one (token, head of
    the group). ``query`` starts at the batch's ``first_token``; so do ``out`` [T, Hq, D] and, if there are
    several parts, ``parts`` [T, Hq, splits, D] and ``parts_lse`` [T, Hq, splits], both fp32.
    """
    tile = tl.program_id(0)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    TOKENS: tl.constexpr = BLOCK_M // GROUP
    number = tl.load(tile_slices + tile)
    first = tl.load(tile_firsts + tile)
    q_start = tl.load(q_starts + number)
    num_tokens = tl.load(q_starts + number + 1) - q_start
    kv_len = tl.load(kv_lens + number)
    table = pages + tl.load(page_starts + number)
    context = kv_len - num_tokens

    rows = tl.arange(0, BLOCK_M)
    token = first + rows // GROUP
    head = kv_head * GROUP + rows % GROUP
    is_row = (rows < TOKENS * GROUP) & (token < num_tokens)
    row = (q_start - first_token + token).to(tl.int64)
    dims = tl.arange(0, HEAD_DIM)
    q_at = query + (row * query_token + head * query_head)[:, None] + dims[None, :]
    q = tl.load(q_at, mask=is_row[:, None], other=0.0)

    num_seen = context + tl.minimum(first + TOKENS, num_tokens)  # keys that the tile's last token sees
    num_blocks = tl.cdiv(num_seen, BLOCK_N)
    begin = split * tl.cdiv(num_blocks, NUM_SPLITS) * BLOCK_N
    end = tl.minimum(begin + tl.cdiv(num_blocks, NUM_SPLITS) * BLOCK_N, num_seen)
    seen_by_all = tl.minimum(context + first + 1, end)
    masked_from = begin + tl.maximum(seen_by_all - begin, 0) // BLOCK_N * BLOCK_N

    acc = tl.zeros((BLOCK_M, HEAD_DIM), dtype=tl.float32)
    top = tl.full((BLOCK_M,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BLOCK_M,), dtype=tl.float32)
    keys_at = layer + kv_head * head_stride
    position = context + token
    scale2 = scale * 1.4426950408889634  # log2(e)
    acc, top, total = _attend_keys(
        q, acc, top, total, begin, masked_from, position, table, keys_at, value_stride, page_stride,
        token_stride, scale2, HEAD_DIM, PAGE_SIZE, BLOCK_N, False,
    )  # fmt: skip
    acc, top, total = _attend_keys(
        q, acc, top, total, masked_from, end, position, table, keys_at, value_stride, page_stride,
        token_stride, scale2, HEAD_DIM, PAGE_SIZE, BLOCK_N, True,
    )  # fmt: skip

    has_seen = total > 0
    result = acc / tl.where(has_seen, total, 1.0)[:, None]
    num_heads = tl.num_programs(1) * GROUP
    place = row * num_heads + head
    if NUM_SPLITS == 1:
        there = out + place[:, None] * HEAD_DIM + dims[None, :]
        tl.store(there, result.to(out.dtype.element_ty), mask=is_row[:, None])
    else:
        place = place * NUM_SPLITS + split
        lse = tl.where(has_seen, top + tl.log2(tl.where(has_seen, total, 1.0)), float("-inf"))
        tl.store(parts + place[:, None] * HEAD_DIM + dims[None, :], result, mask=is_row[:, None])
        tl.store(parts_lse + place, lse, mask=is_row)


@triton.jit
def merge_parts(
    parts,
    parts_lse,
    out,
    HEAD_DIM: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
):
    """One program a (token, head): its parts weighed by their share of the softmax's sum."""
    place = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    splits = tl.arange(0, NUM_SPLITS)
    dims = tl.arange(0, HEAD_DIM)
    lse = tl.load(parts_lse + place * NUM_SPLITS + splits)
    top = tl.max(lse, 0)
    weights = tl.exp2(lse - tl.where(top == float("-inf"), 0.0, top))
    part = tl.load(parts + (place * NUM_SPLITS + splits)[:, None] * HEAD_DIM + dims[None, :])
    total = tl.sum(weights, 0)
    result = tl.sum(part * weights[:, None], 0) / tl.where(total > 0, total, 1.0)
    tl.store(out + place * HEAD_DIM + dims, result.to(out.dtype.element_ty))
