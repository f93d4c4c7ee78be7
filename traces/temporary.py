"""Temporary names beside a result: what is written under one is renamed when it is whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
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
            _remove(left)
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name for a file or folder to be written, which takes the place of ``path`` when the block ends well.

    What was begun is removed otherwise. An OSError that names no file (pyarrow's) is raised with this one.
    """
    temporary = temporary_beside(path)
    try:
        yield temporary
    except BaseException as error:  # an interrupt too
        _remove(temporary)
        if isinstance(error, OSError) and error.filename is None:
            raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from error
        raise
    if path.is_dir():
        shutil.rmtree(path)
    temporary.replace(path)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _is_abandoned(left: Path) -> bool:
    pid, processes = left.name.split(".")[-2], Path("/proc")
    return pid.isdigit() and processes.exists() and not (processes / pid).exists()
