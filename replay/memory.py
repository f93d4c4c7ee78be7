"""Memory for pools: how much there is, and host memory that a GPU can read and write."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pbkv.traces.errors import ConfigError

CGROUP = Path("/sys/fs/cgroup")
PORTABLE = 1  # cudaHostRegisterPortable: pinned for every context


class HostMemory:
    """``num_bytes`` of ordinary memory, pinned for CUDA if ``is_pinned``; `close` unpins it.

    mmap and cudaHostRegister instead of torch's allocator, which rounds up to powers of two: of 129 GiB it
    would take 256. Raises ConfigError if CUDA cannot pin so much.
    """

    def __init__(self, num_bytes: int, *, is_pinned: bool) -> None:
        self._map = mmap.mmap(-1, num_bytes)
        self.bytes = torch.frombuffer(self._map, dtype=torch.uint8)
        self._is_pinned = is_pinned
        if is_pinned and (
            number := _error(_cudart().cudaHostRegister(self.bytes.data_ptr(), num_bytes, PORTABLE))
        ):
            got = f"{num_bytes / 2**30:.1f} GiB"
            raise ConfigError("host pool", got, f"no more than CUDA can pin here (its error {number})")

    def close(self) -> None:
        """Unpins. The memory itself goes with the last tensor that views it."""
        if self._is_pinned:
            self._is_pinned = False
            if number := _error(_cudart().cudaHostUnregister(self.bytes.data_ptr())):
                raise RuntimeError(f"CUDA could not unpin host memory: error {number}")


def free_bytes(device: torch.device) -> int:
    """What can still be taken of the device's memory, or of the machine's (and its container's)."""
    if device.type == "cuda":
        kept_bytes = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept_bytes  # torch keeps what a cell before had
    return min(_free_ram(), _free_in_container())


def _free_ram() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _free_in_container() -> int:
    try:
        limit = int((CGROUP / "memory.max").read_text())
        return limit - int((CGROUP / "memory.current").read_text())
    except (OSError, ValueError):  # no such file, or the word "max"
        return 2**63 - 1


def _cudart() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]


def _error(status: object) -> int:
    """CUDA's number of what went wrong, 0 if nothing did."""
    return int(getattr(status, "value", 0))


@contextmanager
def memory_errors() -> Iterator[None]:
    """The device's memory errors as Python's own."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(str(error).partition("\n")[0]) from error
