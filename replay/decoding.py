"""Pure decodes: fixed buffers, one CUDA graph a bucket of batch sizes, iterations back to back.

On a CPU the same body runs without a graph. The graph has not run on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pbkv.replay.attention import StepContext
from pbkv.replay.batch import Longs, Slice, starts_of
from pbkv.replay.staging import Staging, offsets_of, view

if TYPE_CHECKING:
    from pbkv.replay.cuda_attention import Launch
    from pbkv.replay.pool import Pool
    from pbkv.replay.runner import Forward, RunnerConfig

Results = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
SMALL_BUCKETS = (1, 2, 4, 8)
BUCKET_STEP = 8
ANY_LENGTH = 1 << 30  # keys: a graph must do for contexts of every length


def bucket_of(num_slices: int) -> int:
    """The batch size whose graph serves ``num_slices`` decodes: 1, 2, 4, 8, then multiples of 8."""
    for bucket in SMALL_BUCKETS:
        if num_slices <= bucket:
            return bucket
    return -(-num_slices // BUCKET_STEP) * BUCKET_STEP


class DecodeRunner:
    """Decodes of one token a sequence, over buffers that stay where they are.

    A body reads input_ids, kv_lens (0: padding), page_starts and pages, and adds one to kv_lens at its end:
    so several iterations need one copy to the device.
    """

    def __init__(self, forward: Forward, pool: Pool, config: RunnerConfig) -> None:
        self._forward, self._pool, self._config = forward, pool, config
        self._device = pool.device
        most = bucket_of(config.max_decodes)
        sizes = {"input_ids": 8 * most, "kv_lens": 4 * most, "page_starts": 4 * (most + 1)}
        self._offsets, num_bytes = offsets_of(sizes | {"pages": 4 * config.max_pages})
        self._bytes = torch.zeros(num_bytes, dtype=torch.uint8, device=self._device)
        self._input_ids = view(self._bytes, self._offsets["input_ids"], (most,), torch.int64)
        self._kv_lens = view(self._bytes, self._offsets["kv_lens"], (most,), torch.int32)
        self._page_starts = view(self._bytes, self._offsets["page_starts"], (most + 1,), torch.int32)
        self._pages = view(self._bytes, self._offsets["pages"], (config.max_pages,), torch.int32)
        self._numbers = torch.arange(most + 1, device=self._device)
        self._q_starts = self._numbers.to(torch.int32)
        self._staging, self._tokens = Staging(self._device), Staging(self._device)
        self._graphs: dict[int, tuple[Callable[[], None], Results]] = {}
        self._memory: Any = None  # shared by the graphs: only one runs at a time

    def takes(self, batch: Sequence[Slice]) -> bool:
        """Whether all are decodes, and not too many of them."""
        return (
            len(batch) <= self._config.max_decodes
            and all(len(part.tokens) == 1 for part in batch)
            and sum(len(part.pages) for part in batch) <= self._config.max_pages
        )

    def warm_up(self, num_slices: int) -> None:
        """Captures the graph that serves ``num_slices`` ahead of time. Must not run beside an iteration."""
        if self._device.type == "cuda":
            self._graph(bucket_of(num_slices))

    def run_one(self, batch: Sequence[Slice]) -> Results:
        bucket = bucket_of(len(batch))
        self.warm_up(bucket)
        self._stage(batch, np.concatenate([part.tokens for part in batch]), 1)
        tokens, hidden, logits = self._step(bucket)
        some = slice(len(batch))
        if self._device.type == "cuda":  # the graph's own results live until its next run only
            return tokens[some].clone(), hidden[some].clone(), logits[some]
        return tokens[some], hidden[some], logits[some]

    def run_many(self, batch: Sequence[Slice], tokens: Longs) -> torch.Tensor:
        """Feeds tokens [iterations, slices]; gives what came next, of the same shape."""
        num_iterations, num_slices = tokens.shape
        bucket = bucket_of(num_slices)
        self.warm_up(bucket)
        self._stage(batch, tokens[0], num_iterations)
        there = self._tokens.send({"tokens": tokens})["tokens"]
        found = torch.empty_like(there)
        for number in range(num_iterations):
            self._input_ids[:num_slices].copy_(there[number])
            found[number].copy_(self._step(bucket)[0][:num_slices])
        return found

    def _stage(self, batch: Sequence[Slice], tokens: Longs, num_iterations: int) -> None:
        """Fills the buffers: one copy, up to the last page in use."""
        bucket, page_size = bucket_of(len(batch)), self._pool.shape.page_size
        starts = np.array([part.start for part in batch])
        num_pages = -(-(starts + num_iterations) // page_size)
        if any(len(part.pages) < num for part, num in zip(batch, num_pages, strict=True)):
            raise ValueError(f"not all slices have the pages for {num_iterations} more tokens")
        padded = np.zeros((3, bucket + 1), dtype=np.int64)
        padded[0, : len(batch)], padded[1, : len(batch)] = tokens, starts + 1
        padded[2, : len(batch) + 1] = starts_of(num_pages)
        arrays = {
            "input_ids": padded[0, :bucket],
            "kv_lens": padded[1, :bucket].astype(np.int32),
            "page_starts": padded[2].astype(np.int32),
            "pages": np.concatenate([part.pages[:n] for part, n in zip(batch, num_pages, strict=True)]),
        }
        arrays["pages"] = arrays["pages"].astype(np.int32, copy=False)
        self._staging.copy(arrays, self._offsets, self._bytes)

    def _step(self, bucket: int) -> Results:
        if self._device.type == "cpu":
            return self._body(bucket)
        replay, results = self._graph(bucket)
        replay()
        return results

    def _graph(self, bucket: int) -> tuple[Callable[[], None], Results]:
        """The bucket's graph, captured over padding: the warm-up writes to no page."""
        if bucket not in self._graphs:
            self._kv_lens.zero_()
            self._body(bucket)
            self._memory = self._memory or torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            # The copies' threads go on meanwhile and wait for their streams: not this capture's affair.
            with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
                results = self._body(bucket)
            self._graphs[bucket] = graph.replay, results
        return self._graphs[bucket]

    def _body(self, bucket: int) -> Results:
        kv_lens, page_size = self._kv_lens[:bucket], self._pool.shape.page_size
        is_used = kv_lens > 0
        positions = (kv_lens - 1).clamp_min(0).long()
        page = self._pages[self._page_starts[:bucket] + positions // page_size].long()
        context = StepContext(
            pool=self._pool,
            slots=torch.where(is_used, page * page_size + positions % page_size, -1),
            q_starts=self._q_starts[: bucket + 1],
            kv_lens=kv_lens,
            page_starts=self._page_starts[: bucket + 1],
            pages=self._pages,
            launch=self._launch(bucket),
        )
        last = self._numbers[:bucket]
        results = self._forward(context, self._input_ids[:bucket], positions, last)
        kv_lens.add_(is_used)
        return results

    def _launch(self, bucket: int) -> Launch | None:
        if self._device.type == "cpu":
            return None
        from pbkv.replay.cuda_attention import decode_launch

        return decode_launch(self._q_starts, bucket, self._pool.shape.num_kv_heads, ANY_LENGTH, self._device)
