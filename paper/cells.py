"""Runs cells in several processes and keeps each as it ends, so that a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from importlib.resources import files
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pbkv.paper.experiments import Arm

if TYPE_CHECKING:
    from pbkv.sim.settings import Settings

Row = Mapping[str, Any]
_SCRATCH = ".cell-"
_MEASURES = (
    "jct_s",
    "jct_p95_s",
    "ttft_s",
    "tpot_s",
    "gpu_hit_ratio",
    "host_hit_ratio",
    "hit_ratio",
    "evicted_ratio",
    "workflows_per_s",
)


@dataclass(frozen=True, slots=True)
class Job:
    """One cell and where its trace and its network are (made if missing: `prepare`)."""

    arm: Arm
    seed: int
    trace: Path
    graph_file: Path

    def key(self) -> dict[str, Any]:
        return {**asdict(self.arm), "seed": self.seed}

    def run(self) -> dict[str, Any]:
        """Simulate the cell: its key, its measures' means, and what became of prefetches."""
        return {**self.key(), **simulated(self.trace, self.arm.settings(self.seed, str(self.graph_file)))}


def simulated(trace: Path, settings: Settings) -> dict[str, Any]:
    """The measures of the one cell of ``settings``."""
    from pbkv.analysis.summary import summarise
    from pbkv.sim.run import simulate
    from pbkv.traces.reader import Trace

    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=trace.parent) as scratch:
        out = Path(scratch) / "run"
        result = simulate([Trace(trace)], settings, out)[0]
        summary = summarise(out)[0]
    measures = {name: found.mean for name in _MEASURES if (found := getattr(summary, name)) is not None}
    names = ("num_workflows", "num_calls", "num_preemptions", "num_iterations", "num_pure_decodes")
    counts = {name: getattr(result, name) for name in (*names, "makespan_s", "loop_wall_s")}
    return {**measures, **counts, **asdict(result.prefetch)}


class Keyed(Protocol):
    """Some work that is told from other work by its key, in a process of its own."""

    def key(self) -> dict[str, Any]: ...
    def run(self) -> dict[str, Any]: ...


class Kept:
    """The cells that have ended, a line each, in a file that belongs to one state of the code."""

    def __init__(self, path: Path, state: str) -> None:
        self._path = path
        self._state = state
        self.rows: dict[str, Row] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                kept = json.loads(line)
            except ValueError:  # the line that a kill cut off
                continue
            if kept["state"] == state:
                self.rows[kept["key"]] = kept["row"]

    def has(self, job: Keyed) -> bool:
        return _text(job.key()) in self.rows

    def add(self, job: Keyed, row: Row) -> None:
        key = _text(job.key())
        self.rows[key] = row
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"state": self._state, "key": key, "row": row}) + "\n")

    def of(self, jobs: Iterable[Keyed]) -> list[Row]:
        return [self.rows[_text(job.key())] for job in jobs]


def run_jobs(
    jobs: Sequence[Keyed], kept: Kept, num_workers: int, progress: Callable[[int], None]
) -> Iterator[Row]:
    """Run the jobs that ``kept`` lacks; yields rows as they end. An interrupt leaves what has ended."""
    left = iter([job for job in jobs if not kept.has(job)])
    num_done = sum(kept.has(job) for job in jobs)
    progress(num_done)
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        running: dict[Future[dict[str, Any]], Keyed] = {}
        try:
            while True:
                while len(running) < 2 * num_workers and (job := next(left, None)) is not None:
                    running[pool.submit(_run, job)] = job
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    row = future.result()
                    kept.add(running.pop(future), row)
                    num_done += 1
                    progress(num_done)
                    yield row
        except BaseException:  # an interrupt too: what runs is not waited for
            pool.shutdown(wait=False, cancel_futures=True)
            for child in active_children():
                child.terminate()
            raise


def clear_scratch(folder: Path) -> None:
    """Remove what cells that were killed have left beside their traces."""
    for left in folder.glob(f"{_SCRATCH}*"):
        shutil.rmtree(left)


def code_state(package: Path | None = None) -> str:
    """A digest of the package's sources and data: cells of other code or constants are not taken up again."""
    package = package or Path(str(files("pbkv")))
    digest = hashlib.sha256()
    for folder in ("analysis", "cache", "paper", "predict", "sim", "traces"):
        for path in sorted((package / folder).rglob("*")):
            if path.suffix in (".py", ".toml"):
                digest.update(str(path.relative_to(package)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _run(job: Keyed) -> dict[str, Any]:
    return job.run()


def _text(key: Mapping[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)
