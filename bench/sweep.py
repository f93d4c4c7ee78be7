"""A sweep of 200 cells over tau2_bench: one process, two, killed and taken up again, through a local Ray.

    python bench/sweep.py --data ../shared/data --ray-python PYTHON      # → docs/results/sweep.md

PYTHON is one with Ray and what pbkv needs; without it, Ray is left out. Wall times depend on who else uses
the machine, so that CPU times stand beside them.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that this file runs by its path, as well as by `-m bench.sweep`

import pyarrow.parquet as pq  # noqa: E402 - needs the line above

from pbkv.analysis.table import markdown  # noqa: E402
from pbkv.study.dataset import content_digest  # noqa: E402

HEADER = (
    "run",
    "load before",
    "wall s",
    "CPU s of cells",
    "of the busiest process",
    "cells run",
    "content",
)


@dataclass(frozen=True)
class Run:
    """One call of `pbkv sweep`, as it was measured."""

    name: str
    load: float
    wall_s: float
    cpu_s: float
    busiest_s: float
    num_cells: int
    content: str

    def row(self) -> tuple[str, ...]:
        times = (f"{self.wall_s:.1f}", f"{self.cpu_s:.1f}", f"{self.busiest_s:.1f}")
        return (self.name, f"{self.load:.1f}", *times, f"{self.num_cells}", f"`{self.content}`")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--ray-python", default=None)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs/results/sweep.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pbkv-sweep-") as scratch:
        work = Path(scratch)
        text = (ROOT / "bench/sweep.toml").read_text(encoding="utf-8")
        (work / "sweep.toml").write_text(text, encoding="utf-8")
        (work / "tau2_bench.jsonl.gz").symlink_to((arguments.data / "tau2_bench.jsonl.gz").resolve())
        runs = []
        for number in range(arguments.rounds):
            runs.append(measured(work, f"one process, round {number + 1}", f"one-{number}", "1"))
            runs.append(measured(work, f"two processes, round {number + 1}", f"two-{number}", "2"))
        killed = kill(work, "killed")
        runs.append(measured(work, "after kill -9, two processes", "killed", "2", killed))
        if arguments.ray_python:
            ray = ("--ray", "local")
            runs.append(
                measured(work, "local Ray, two CPUs", "ray", "2", python=arguments.ray_python, more=ray)
            )
    arguments.output.write_text(report(runs, killed, text), encoding="utf-8")


def command(python: str, out: str, workers: str, more: tuple[str, ...] = ()) -> list[str]:
    return [python, "-m", "pbkv", "sweep", "sweep.toml", "-o", out, "--workers", workers, *more]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def measured(
    work: Path,
    name: str,
    out: str,
    workers: str,
    num_there: int = 0,
    python: str = sys.executable,
    more: tuple[str, ...] = (),
) -> Run:
    load, started_at_s = os.getloadavg()[0], time.perf_counter()
    subprocess.run(command(python, out, workers, more), cwd=work, env=environment(), check=True)
    wall_s = time.perf_counter() - started_at_s
    times = pq.read_table(work / out / "times.parquet").to_pylist()
    by_process: dict[str, float] = {}
    for row in times:
        by_process[row["process"]] = by_process.get(row["process"], 0.0) + row["cpu_s"]
    total_s, busiest_s = sum(by_process.values()), max(by_process.values())
    num_run = (
        num_lines(work / out / ".work" / "cells.jsonl") - num_there
    )  # one run again would have two lines
    return Run(name, load, wall_s, total_s, busiest_s, num_run, content_digest(work / out))


def kill(work: Path, out: str) -> int:
    """Kill a sweep of two processes when about half of its cells have ended; how many it has kept."""
    journal = work / out / ".work" / "cells.jsonl"
    with subprocess.Popen(command(sys.executable, out, "2"), cwd=work, env=environment()) as process:
        while num_lines(journal) < 100 and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    return num_lines(journal)


def num_lines(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n") if path.exists() else 0


def report(runs: list[Run], killed: int, scenario: str) -> str:
    ones, twos = ([run for run in runs if run.name.startswith(name)] for name in ("one", "two"))
    ratios = [one.wall_s / two.wall_s for one, two in zip(ones, twos, strict=True)]
    cpu = [one.cpu_s / two.busiest_s for one, two in zip(ones, twos, strict=True)]
    same = "the same" if len({run.content for run in runs}) == 1 else "NOT the same"
    return "\n\n".join(
        [
            "# A sweep of 200 cells",
            f"Made by `python bench/sweep.py` on {time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, "
            f"Python {platform.python_version()}. The cores were shared with other work, which the load "
            "average before each run tells; so CPU times stand beside wall times.",
            markdown(HEADER, [run.row() for run in runs]),
            f"The content of the data set (every byte under `cells`) is {same} in all runs. The killed sweep "
            f'had kept {killed} cells; "cells run" is counted from the lines of its journal.',
            "Speed-up of two processes over one, by wall time: "
            f"{', '.join(f'{ratio:.2f}' for ratio in ratios)}. By CPU time (that of one process over that "
            "of the busier of two, what free cores would give without start-up and the parent's own work): "
            f"{', '.join(f'{ratio:.2f}' for ratio in cpu)}. "
            "Where the scheduler's autogroup is on, busy cores are shared out between sessions and not "
            "between processes, so that a second process of one session gains little while others compute. "
            "The row after `kill -9` counts the CPU time of all cells, also of those that the killed call "
            "had run.",
            "The scenario (`bench/sweep.toml`):",
            f"```toml\n{scenario}```\n",
        ]
    )


if __name__ == "__main__":
    main()
