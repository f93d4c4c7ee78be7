"""Temporary names beside a result: what is written under one is renamed when it is whole."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pbkv.traces.errors import ConfigError


def check_free_file(path: Path, force: bool) -> None:
    """Raises ConfigError if no file can be put at ``path``: it is taken, or there is no folder for it."""
    if path.is_dir() or (path.exists() and not force):
        raise ConfigError("output", str(path), "a path that does not exist (or a file and --force)")
    if not path.parent.is_dir():
        raise ConfigError("output", str(path), f"an existing folder {path.parent}")


def temporary_beside(path: Path) -> Path:
    """A hidden name in the folder of ``path`` for this process; what killed processes left is removed."""
    for left in path.absolute().parent.glob(f".{path.name}.*.tmp"):
        if _is_abandoned(left):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _is_abandoned(left: Path) -> bool:
    pid, processes = left.name.split(".")[-2], Path("/proc")
    return pid.isdigit() and processes.exists() and not (processes / pid).exists()
