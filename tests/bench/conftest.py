"""Puts the checkout on the path: bench/ is a folder of scripts and belongs to no installed package."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
