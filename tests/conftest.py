"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["TRITON_INTERPRET"] = "1"  # read once, when triton is imported: its kernels then run on the CPU

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real traces beside the checkout; the test is skipped where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"real traces are not at {SHARED / 'data'} (they are never committed)")
    return SHARED / "data"


@pytest.fixture(scope="session")
def shared_bench() -> Path:
    """The folder of benchmark traces beside the checkout; the test is skipped where it is absent."""
    if not (SHARED / "bench").is_dir():
        pytest.skip(f"benchmark traces are not at {SHARED / 'bench'} (they are never committed)")
    return SHARED / "bench"
