"""Arrow arrays from Python values and back to numpy, without pandas.

`pyarrow.array` and `Array.to_numpy` import pandas where it is installed, `pyarrow.compute` a thousand
kernels: 0.3 s and 50 MB that a simulation has no use for.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any

import numpy as np
import pyarrow as pa


def column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """``values`` (None = null) as an array of strings, int32, int64, float32 or float64."""
    if kind == pa.string():
        return _strings(values)
    validity, num_nulls = _validity(values)
    known = [0 if value is None else value for value in values] if num_nulls else values
    buffers = [validity, pa.py_buffer(np.array(known, _dtype(kind)))]
    return pa.Array.from_buffers(kind, len(values), buffers, num_nulls)


def numbers(array: pa.Array) -> np.ndarray[Any, Any]:
    """The values of a numeric array, nulls left out."""
    validity, values = array.buffers()
    span = slice(array.offset, array.offset + len(array))
    kind = _dtype(array.type)
    found: np.ndarray[Any, Any] = np.frombuffer(values, kind)[span] if values else np.empty(0, kind)
    if not array.null_count:
        return found
    present = np.unpackbits(np.frombuffer(validity, np.uint8), bitorder="little")[span]
    return np.asarray(found[present.astype(bool)])


def repeated(value: str | int, num_rows: int, kind: pa.DataType) -> pa.Array:
    """The same value in each of ``num_rows`` rows."""
    if isinstance(value, int):
        return pa.Array.from_buffers(
            kind, num_rows, [None, pa.py_buffer(np.full(num_rows, value, _dtype(kind)))]
        )
    text = value.encode()
    offsets = np.arange(num_rows + 1, dtype=np.int32) * np.int32(len(text))
    return pa.Array.from_buffers(kind, num_rows, [None, pa.py_buffer(offsets), pa.py_buffer(text * num_rows)])


def _dtype(kind: pa.DataType) -> Any:
    """Numpy's type of a number's type (pandas has no part in it, in spite of the name)."""
    return kind.to_pandas_dtype()


def _strings(values: Sequence[str | None]) -> pa.Array:
    validity, num_nulls = _validity(values)
    encoded = [b"" if value is None else value.encode() for value in values]
    offsets = np.fromiter(chain((0,), accumulate(map(len, encoded))), np.int32, len(values) + 1)
    buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(values), buffers, num_nulls)


def _validity(values: Sequence[Any]) -> tuple[pa.Buffer | None, int]:
    num_nulls = values.count(None)
    if not num_nulls:
        return None, 0
    present = np.fromiter((value is not None for value in values), bool, len(values))
    return pa.py_buffer(np.packbits(present, bitorder="little")), num_nulls
