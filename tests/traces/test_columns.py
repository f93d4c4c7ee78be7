"""Arrow arrays without pandas are the arrays pyarrow itself would make."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbkv.traces.columns import column, numbers, repeated

VALUES: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.string(), st.text(st.characters(exclude_categories=["Cs"]))),
    (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.float32(), st.floats(width=32, allow_nan=False)),
    (pa.float64(), st.floats(allow_nan=False)),
]


@pytest.mark.parametrize(("kind", "values"), VALUES, ids=lambda value: str(value)[:7])
@settings(deadline=None)  # the first one imports pandas
@given(data=st.data())
def test_values_with_nulls(kind: pa.DataType, values: st.SearchStrategy[Any], data: st.DataObject) -> None:
    given_values = data.draw(st.lists(st.none() | values, max_size=30))
    made = column(given_values, kind)
    made.validate(full=True)
    assert made.equals(pa.array(given_values, kind))


@pytest.mark.parametrize(("value", "kind"), [("µ-lru", pa.string()), (7, pa.int32()), (7, pa.int64())])
def test_one_value_in_each_row(value: str | int, kind: pa.DataType) -> None:
    assert repeated(value, 3, kind).equals(pa.array([value] * 3, kind))
    assert len(repeated(value, 0, kind)) == 0


@given(values=st.lists(st.none() | st.integers(-9, 9), max_size=30), start=st.integers(0, 30))
def test_numbers_are_the_values_without_nulls_also_of_a_slice(values: list[int | None], start: int) -> None:
    array = pa.array(values, pa.int32()).slice(start)
    assert numbers(array).tolist() == [value for value in values[start:] if value is not None]
    assert numbers(array).dtype == np.int32
