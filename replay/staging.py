"""From numpy to the device in one copy a step: pinned double buffers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

ALIGNMENT = 16  # bytes: what Triton's vector loads like
NUM_BUFFERS = 2

Array = np.ndarray[Any, np.dtype[Any]]
_DTYPES = {np.dtype(np.int64): torch.int64, np.dtype(np.int32): torch.int32}


class Staging:
    """Sends a step's arrays (int32 and int64) to ``device`` and gives them back as tensors there.

    On CUDA all arrays go in one asynchronous copy from a pinned buffer; there are two, so that the host
    waits only if it is two steps ahead of the device. The tensors are views that live as long as they are
    held. On a CPU the arrays are simply shared.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._turn = 0
        self._buffers = [torch.empty(0, dtype=torch.uint8)] * NUM_BUFFERS
        self._sent: list[Any] = [None] * NUM_BUFFERS

    def send(self, arrays: Mapping[str, Array]) -> dict[str, torch.Tensor]:
        if self._device.type == "cpu":
            return {name: torch.from_numpy(array) for name, array in arrays.items()}
        offsets, num_bytes = offsets_of({name: array.nbytes for name, array in arrays.items()})
        there = torch.empty(num_bytes, dtype=torch.uint8, device=self._device)
        self.copy(arrays, offsets, there)
        return {
            name: view(there, offsets[name], array.shape, _DTYPES[array.dtype])
            for name, array in arrays.items()
        }

    def copy(self, arrays: Mapping[str, Array], offsets: Mapping[str, int], there: torch.Tensor) -> None:
        """Puts the arrays at byte ``offsets`` of ``there``, up to the end of the last one."""
        num_bytes = max(offsets[name] + array.nbytes for name, array in arrays.items())
        buffer = self._free_buffer(num_bytes)
        bytes_here = buffer.numpy()
        for name, array in arrays.items():
            first = offsets[name]
            bytes_here[first : first + array.nbytes].view(array.dtype)[:] = array.ravel()
        there[:num_bytes].copy_(buffer[:num_bytes], non_blocking=True)
        if self._device.type == "cuda":
            self._sent[self._turn] = torch.cuda.current_stream(self._device).record_event()

    def _free_buffer(self, num_bytes: int) -> torch.Tensor:
        """The other buffer of the two, once its copy is done; grown if it is too small."""
        self._turn = (self._turn + 1) % NUM_BUFFERS
        if self._sent[self._turn] is not None:
            self._sent[self._turn].synchronize()
        if self._buffers[self._turn].numel() < num_bytes:
            size = 1 << max(num_bytes - 1, 1).bit_length()
            pinned = self._device.type == "cuda"
            self._buffers[self._turn] = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
        return self._buffers[self._turn]


def offsets_of(sizes: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """Where arrays of so many bytes lie one after the other, aligned; and where they end."""
    offsets, end = {}, 0
    for name, size in sizes.items():
        offsets[name] = end
        end += -(-size // ALIGNMENT) * ALIGNMENT
    return offsets, end


def view(there: torch.Tensor, first: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """The tensor of ``shape`` that lies at byte ``first``."""
    num_bytes = int(np.prod(shape)) * dtype.itemsize
    return there[first : first + num_bytes].view(dtype).view(shape)
