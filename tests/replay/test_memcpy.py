"""Many pieces in one call of a driver: the right ones, on the right stream, and a way on without it."""

from __future__ import annotations

import ctypes
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pbkv.replay.memcpy import BatchCopy, PageCopies, batch_copy, pieces
from pbkv.replay.pool import Layout, PageShape, Pool

CPU = torch.device("cpu")
SHAPE = PageShape(num_layers=3, page_size=4, num_kv_heads=2, head_dim=8, dtype=torch.bfloat16)
ORDER = SimpleNamespace(CU_MEMCPY_SRC_ACCESS_ORDER_STREAM=1)


class Driver:
    """What of `cuda.bindings.driver` is used; copies at once. Answers as 12.9 (two values) or 13 (one)."""

    CUmemcpyAttributes, CUmemcpySrcAccessOrder = SimpleNamespace, ORDER

    class CUdeviceptr:
        def __init__(self, address: int) -> None:
            self.address = address

    def __init__(self, version: int = 13, status: int = 0) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._answer = (status, 2**64 - 1) if version == 12 else (status,)

    def cuMemcpyBatchAsync(  # noqa: N802 - its name
        self, dsts: Any, srcs: Any, sizes: Any, count: int, attrs: Any, indices: Any, num: int, stream: int
    ) -> tuple[int, ...]:
        assert count > 0
        assert (count, num, indices) == (len(dsts), len(attrs), [0])
        assert len(dsts) == len(srcs) == len(sizes)
        assert attrs[0].srcAccessOrder == 1
        targets, sources = ([pointer.address for pointer in each] for each in (dsts, srcs))
        self.calls.append((targets, sources, sizes, stream))
        if not self._answer[0]:
            for copied in zip(targets, sources, sizes, strict=True):
                ctypes.memmove(*copied)
        return self._answer


class Stream:
    """A CUDA stream's handle; whether the thread's context was there before the driver was called."""

    cuda_stream, num_queries = 77, 0

    def query(self) -> bool:
        self.num_queries += 1
        return True


def filled(num_pages: int, layout: Layout) -> Pool:
    pool = Pool(SHAPE, num_pages, CPU, layout=layout)
    pool.pages.view(torch.int16).copy_(torch.randint(-(2**15), 2**15, pool.pages.shape, dtype=torch.int16))
    return pool


@pytest.mark.parametrize("version", [12, 13])
def test_one_call_names_each_run_s_address_and_bytes(version: int) -> None:
    source, target, driver, stream = (
        filled(9, "page-first"),
        filled(9, "page-first"),
        Driver(version),
        Stream(),
    )
    copies = PageCopies(BatchCopy(driver))
    copies.enqueue(source, target, np.array([3, 4, 8]), np.array([0, 1, 5]), stream)
    size, to, at = SHAPE.num_bytes, target.pages.data_ptr(), source.pages.data_ptr()
    assert driver.calls == [([to, to + 5 * size], [at + 3 * size, at + 8 * size], [2 * size, size], 77)]
    assert stream.num_queries == 1
    assert copies.has_batch


def test_layer_first_a_run_is_a_piece_in_each_layer() -> None:
    source, target = filled(9, "layer-first"), filled(9, "layer-first")
    targets, sources, sizes = pieces(source, target, np.array([3, 4, 8]), np.array([0, 1, 5]))
    size = SHAPE.num_bytes // 3
    assert sizes == [2 * size, size] * 3
    assert targets == [target.layer(i)[page].data_ptr() for i in range(3) for page in (0, 5)]
    assert sources == [source.layer(i)[page].data_ptr() for i in range(3) for page in (3, 8)]


@given(
    st.lists(st.integers(0, 11), unique=True, max_size=9),
    st.permutations(range(12)),
    st.sampled_from(["page-first", "layer-first"]),
)
def test_every_page_goes_where_it_is_sent_and_no_other_changes(
    taken: list[int], places: list[int], layout: Layout
) -> None:
    source, target = filled(12, layout), filled(12, layout)
    before, there = target.pages.clone(), places[: len(taken)]
    found = PageCopies(BatchCopy(Driver()))
    found.enqueue(source, target, np.array(taken, np.int32), np.array(there, np.int32), Stream())
    expected = before.view(torch.int16)
    expected[there] = source.pages.view(torch.int16)[taken]
    assert torch.equal(target.pages.view(torch.int16), expected)


@pytest.mark.parametrize("driver", [Driver(status=801), Driver(12, status=1), SimpleNamespace()])
def test_a_call_that_fails_is_made_up_for_and_said_once(driver: Any) -> None:
    class Old(Driver):
        def cuMemcpyBatchAsync(self, *_: Any) -> tuple[int, ...]:  # noqa: N802
            raise RuntimeError('Function "cuMemcpyBatchAsync" not found')

    source, target = filled(4, "page-first"), filled(4, "page-first")
    copies = PageCopies(BatchCopy(driver if isinstance(driver, Driver) else Old()))

    def copy_each() -> None:
        for page in range(4):
            copies.enqueue(source, target, np.array([page]), np.array([3 - page]), Stream())

    with pytest.warns(RuntimeWarning, match=r"run by run from here on: .*cuMemcpyBatchAsync") as said:
        copy_each()
    assert len(said) == 1
    assert not copies.has_batch
    assert torch.equal(target.pages.view(torch.int16), source.pages.view(torch.int16).flip(0))


@pytest.mark.parametrize("pages", [[-1], [4]])
def test_no_address_beyond_a_pool(pages: list[int]) -> None:
    source, target = filled(4, "page-first"), filled(4, "page-first")
    with pytest.raises(ValueError, match="of a pool of 4"):
        pieces(source, target, np.array([0]), np.array(pages))


@pytest.mark.parametrize(("has_bindings", "has_call"), [(False, False), (True, False), (True, True)])
def test_without_bindings_that_know_of_it_there_is_no_batch(
    has_bindings: bool, has_call: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, bindings, old = ModuleType("cuda"), ModuleType("cuda.bindings"), ModuleType("driver")
    if has_bindings:
        bindings.driver = Driver() if has_call else old  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda", package)
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    assert (batch_copy() is not None) == has_call
