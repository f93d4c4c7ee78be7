"""Copies of many pieces in one call of CUDA's driver, where there is one; else a copy a run of pages.

`cuMemcpyBatchAsync` came with CUDA 12.8; cuda-bindings (an extra: ``pbkv[cuda]``) has it from 12.8 on. Its
arguments are the same in 12.9 and 13; it answers with (status, place of the fault) and (status,). It has not
been called on a GPU yet, only with a driver that is a test's.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any
from warnings import warn

import numpy as np

from pbkv.replay.pool import check_alike, copy_runs, runs

if TYPE_CHECKING:
    from pbkv.replay.pool import Pages, Pool

_NAME = "cuMemcpyBatchAsync"


class BatchCopy:
    """`cuMemcpyBatchAsync` of ``driver`` (`cuda.bindings.driver`): each source is read in stream order."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        attributes = driver.CUmemcpyAttributes()
        attributes.srcAccessOrder = driver.CUmemcpySrcAccessOrder.CU_MEMCPY_SRC_ACCESS_ORDER_STREAM
        self._attributes = [attributes]  # of all copies from the first on

    def __call__(self, targets: list[int], sources: list[int], sizes: list[int], stream: int) -> None:
        """Enqueues copies between addresses, in no order among them. Raises RuntimeError if that fails."""
        pointer = self._driver.CUdeviceptr
        status = self._driver.cuMemcpyBatchAsync(
            [pointer(address) for address in targets],
            [pointer(address) for address in sources],
            sizes,
            len(sizes),
            self._attributes,
            [0],
            1,
            stream,
        )[0]
        if int(status):
            raise RuntimeError(f"{_NAME} gave {status}")


def batch_copy() -> BatchCopy | None:
    """None without cuda-bindings, or with ones that do not know of it."""
    try:
        from cuda.bindings import driver
    except ImportError:
        return None
    return BatchCopy(driver) if hasattr(driver, _NAME) else None


class PageCopies:
    """Copies of pages on a stream, by ``batch`` where there is one; after its first failure without it."""

    def __init__(self, batch: BatchCopy | None) -> None:
        self._batch, self._lock = batch, Lock()

    @property
    def has_batch(self) -> bool:
        return self._batch is not None

    def enqueue(
        self, source: Pool, target: Pool, source_pages: Pages, target_pages: Pages, stream: Any
    ) -> None:
        """As `copy_runs`, on ``stream``, which is the current one (a `torch.cuda.Stream`)."""
        if self._batch is not None and len(source_pages):
            addresses = pieces(source, target, source_pages, target_pages)
            stream.query()  # makes the device's context this thread's, which the driver does not by itself
            try:
                self._batch(*addresses, stream.cuda_stream)
                return
            except (RuntimeError, TypeError) as error:
                self._give_up(error)
        copy_runs(source, target, source_pages, target_pages)

    def _give_up(self, error: Exception) -> None:
        with self._lock:
            is_first, self._batch = self._batch is not None, None
        if is_first:
            warn(f"copies go run by run from here on: {error}", RuntimeWarning, stacklevel=3)


def pieces(
    source: Pool, target: Pool, source_pages: Pages, target_pages: Pages
) -> tuple[list[int], list[int], list[int]]:
    """Addresses to, addresses from, and bytes of the pieces that hold the pages: a run's, page-first; else a
    run's in each layer. Raises ValueError for pages that a pool has not.
    """
    check_alike(source, target)
    for pool, pages in ((source, source_pages), (target, target_pages)):
        if len(pages) and not 0 <= pages.min() <= pages.max() < pool.num_pages:
            raise ValueError(f"pages {pages.min()} to {pages.max()} of a pool of {pool.num_pages}")
    found = np.array(list(runs(source_pages, target_pages)), np.int64).reshape(-1, 3)
    bases, page_bytes = target.bases()
    first, to, lengths = page_bytes * found.T
    targets, sources = (
        (np.array(each)[:, None] + starts).ravel().tolist()
        for each, starts in ((bases, to), (source.bases()[0], first))
    )
    return targets, sources, lengths.tolist() * len(bases)
