"""Block sequences in a temporary file without a name: written one behind the other, read back by place."""

from __future__ import annotations

import os
from tempfile import TemporaryFile
from weakref import finalize

import numpy as np
import numpy.typing as npt

Blocks = npt.NDArray[np.int64]

_BLOCK_BYTES = 8


class BlockFile:
    """Reads do not see what was appended since the last ``flush``. Memory: none that grows."""

    def __init__(self) -> None:
        self._file = TemporaryFile()  # noqa: SIM115 (closed with this object)
        finalize(self, self._file.close)
        self.num_blocks = 0

    def append(self, blocks: Blocks) -> int:
        """Put ``blocks`` at the end: the place of the first one."""
        self._file.write(blocks.tobytes())
        start, self.num_blocks = self.num_blocks, self.num_blocks + len(blocks)
        return start

    def flush(self) -> None:
        self._file.flush()

    def read(self, start: int, num_blocks: int) -> Blocks:
        raw = os.pread(self._file.fileno(), num_blocks * _BLOCK_BYTES, start * _BLOCK_BYTES)
        return np.frombuffer(raw, np.int64)

    def overwrite(self, start: int, blocks: Blocks) -> None:
        os.pwrite(self._file.fileno(), blocks.tobytes(), start * _BLOCK_BYTES)
