"""What is staged arrives whole; a buffer is not written before its copy is done."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pbkv.replay.staging import Array, Staging, offsets_of, view

CPU = torch.device("cpu")


def test_arrays_arrive_side_by_side_in_one_buffer() -> None:
    arrays: dict[str, Array] = {
        "ids": np.arange(5),
        "lens": np.array([7, 8, 9], dtype=np.int32),
        "bounds": np.arange(8, dtype=np.int32).reshape(2, 4),
    }
    offsets, num_bytes = offsets_of({name: array.nbytes for name, array in arrays.items()})
    assert offsets == {"ids": 0, "lens": 48, "bounds": 64}
    there = torch.zeros(num_bytes, dtype=torch.uint8)
    Staging(CPU).copy(arrays, offsets, there)
    for name, array in arrays.items():
        dtype = torch.int64 if array.dtype == np.int64 else torch.int32
        assert np.array_equal(view(there, offsets[name], array.shape, dtype).numpy(), array)


def test_a_buffer_is_reused_only_when_its_copy_is_done() -> None:
    waited: list[int] = []

    class Event:
        def __init__(self, number: int) -> None:
            self.number = number

        def synchronize(self) -> None:
            waited.append(self.number)

    staging, there = Staging(CPU), torch.zeros(64, dtype=torch.uint8)
    for number in range(4):
        staging.copy({"x": np.arange(4)}, {"x": 0}, there)
        staging._sent[staging._turn] = Event(number)
    assert waited == [0, 1]


def test_a_gap_before_an_array_is_left_alone() -> None:
    there = torch.full((64,), 9, dtype=torch.uint8)
    Staging(CPU).copy({"x": np.zeros(2, dtype=np.int64)}, {"x": 0}, there)
    assert there[:16].sum() == 0
    assert bool((there[16:] == 9).all())


@pytest.mark.parametrize("size", [1, 4095, 4097])
def test_buffers_grow(size: int) -> None:
    staging, array = Staging(CPU), np.arange(size)
    there = torch.zeros(8 * size, dtype=torch.uint8)
    staging.copy({"x": array}, {"x": 0}, there)
    assert np.array_equal(there.view(torch.int64).numpy(), array)
