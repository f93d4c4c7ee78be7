"""Triton reads this once, when it is imported: its kernels then run on the CPU, in an interpreter."""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"
