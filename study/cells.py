"""Runs cells and keeps each as it ends, so that a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pbkv.study.workers import Keyed, Lost, Workers

if TYPE_CHECKING:
    from pbkv.serve.cell import CellResult
    from pbkv.sim.settings import Settings

Row = Mapping[str, Any]
_SCRATCH = ".cell-"


class Kept:
    """The cells that have ended, a line each, in a file that belongs to one state of the code."""

    def __init__(self, path: Path, state: str) -> None:
        self._path = path
        self._state = state
        self.rows: dict[str, Row] = {}
        self._outdated: set[str] = set()
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if text and not text.endswith("\n"):  # a kill cut off the line: the next one starts anew
            with path.open("a", encoding="utf-8") as file:
                file.write("\n")
        for line in text.splitlines():
            try:
                kept = json.loads(line)
            except ValueError:  # the line that a kill cut off
                continue
            if kept["state"] == state:
                self.rows[kept["key"]] = kept["row"]
            else:
                self._outdated.add(kept["key"])

    def has(self, job: Keyed) -> bool:
        return text_of(job.key()) in self.rows

    def is_outdated(self, job: Keyed) -> bool:
        """Whether it ended with another state of the code only, so that it has to run again."""
        key = text_of(job.key())
        return key in self._outdated and key not in self.rows

    def add(self, job: Keyed, row: Row) -> None:
        key = text_of(job.key())
        self.rows[key] = row
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"state": self._state, "key": key, "row": row}) + "\n")

    def forget(self, job: Keyed) -> None:
        """Let it be run again; its next row takes the place of this one."""
        del self.rows[text_of(job.key())]

    def of(self, jobs: Iterable[Keyed]) -> list[Row]:
        return [self.rows[text_of(job.key())] for job in jobs]


def run_jobs(
    jobs: Sequence[Keyed],
    kept: Kept,
    workers: Workers,
    progress: Callable[[int], None],
    when_lost: Callable[[Keyed, str], Row] | None = None,
) -> Iterator[Row]:
    """Run the jobs that ``kept`` lacks; yields rows as they end. An interrupt leaves what has ended.

    A job whose process died becomes the row that ``when_lost`` makes of it and the reason; without it,
    RuntimeError.
    """
    left = [job for job in jobs if not kept.has(job)]
    num_done = len(jobs) - len(left)
    progress(num_done)
    row: Row | Lost
    for job, outcome in workers.outcomes(left):
        row = outcome
        if isinstance(row, Lost):
            if when_lost is None:
                raise RuntimeError(f"{job.key()}: {row.reason}")
            row = when_lost(job, row.reason)
        kept.add(job, row)
        num_done += 1
        progress(num_done)
        yield row


@contextmanager
def simulated(trace: Path, settings: Settings, scratch: Path) -> Iterator[tuple[CellResult, Path]]:
    """The result of the one cell of ``settings`` and the folder of its run, which is removed at the end."""
    from pbkv.sim.run import simulate
    from pbkv.traces.reader import Trace

    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=scratch) as folder:
        out = Path(folder) / "run"
        yield simulate([Trace(trace)], settings, out)[0], out


def clear_scratch(folder: Path) -> None:
    """Remove what cells that were killed have left."""
    for left in folder.glob(f"{_SCRATCH}*"):
        shutil.rmtree(left, ignore_errors=True)  # a worker that is just dying may still write there


def code_state(package: Path | None = None) -> str:
    """A digest of the package's sources and data: cells of other code or constants are not taken up again."""
    package = package or Path(str(files("pbkv")))
    digest = hashlib.sha256()
    for folder in sorted(entry for entry in package.iterdir() if entry.is_dir()):
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".py", ".toml"):
                digest.update(str(path.relative_to(package)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def text_of(key: Mapping[str, Any]) -> str:
    """The key as one text, whatever the order of its fields."""
    return json.dumps(key, sort_keys=True)
