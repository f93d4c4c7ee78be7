"""Attention of one long slice whose keys were gathered, by SDPA: any number type, on any device."""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention

SCORE_BYTES = 1 << 30  # of one block of rows: SDPA may write all of its scores down


def attend_dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """Causal to the lower right: query [Hq, q, D], key and value [kv, Hkv, D] -> [q, Hq, D].

    Rows go in blocks, each over the keys that its last row sees.
    """
    num_heads, num, width = query.shape
    num_seen, num_kv, _ = key.shape
    rows = max(1, SCORE_BYTES // (4 * num_heads * num_seen))
    grouped = query.reshape(num_kv, num_heads // num_kv, num, width)
    key, value = (each.transpose(0, 1)[:, None].expand(-1, grouped.shape[1], -1, -1) for each in (key, value))
    out = query.new_empty(num, num_heads, width)
    for begin in range(0, num, rows):
        end = min(begin + rows, num)
        seen = num_seen - num + end
        mask = torch.ones(end - begin, seen, dtype=torch.bool, device=query.device).tril(seen - end + begin)
        block = grouped[:, :, begin:end]
        part = scaled_dot_product_attention(
            block, key[:, :, :seen], value[:, :, :seen], attn_mask=mask, scale=scale
        )
        out[begin:end] = part.reshape(num_heads, end - begin, width).transpose(0, 1)
    return out
