"""Runs one command as a child process and takes its wall time, CPU time and peak memory."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# getrusage(2): Linux counts ru_maxrss in KiB, macOS in bytes.
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


class ChildError(RuntimeError):
    """A measured command failed; the message holds the command and the end of what it printed."""


@dataclass(frozen=True, slots=True)
class Run:
    """One whole process, descendants that it waited for included. ``peak_bytes`` is a maximum, no sum."""

    command: tuple[str, ...]
    wall_s: float
    cpu_s: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Child:
    """A command, where it runs, and what its environment adds to ours."""

    command: Sequence[str]
    cwd: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, log: Path) -> Run:
        """Run to the end; output goes to ``log``. Raises ChildError if it cannot start or exits non-zero.

        A child that exec()s starts with its parent's resident set as its peak (Linux), so the process
        that measures must stay small: import nothing heavy before the last measurement.
        """
        with log.open("wb") as sink:
            started = time.perf_counter()
            try:
                process = subprocess.Popen(
                    self.command,
                    cwd=self.cwd,
                    env={**os.environ, **self.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                )
            except OSError as error:
                raise ChildError(f"cannot run {self.command[0]}: {error}") from error
            _, status, usage = os.wait4(process.pid, 0)
            wall_s = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise ChildError(f"exit {process.returncode}: {' '.join(self.command)}\n{tail(log)}")
        cpu_s = usage.ru_utime + usage.ru_stime
        return Run(tuple(self.command), wall_s, cpu_s, usage.ru_maxrss * _MAXRSS_UNIT)


def tail(log: Path, num_lines: int = 15) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join(lines[-num_lines:])


def pin(core: int) -> bool:
    """Keep this process and its children on one core; False where the system has no such call."""
    if sys.platform != "linux":
        return False
    os.sched_setaffinity(0, {core})
    return True


def machine() -> dict[str, object]:
    """What a reader needs to judge the timings: processor, cores, memory, system, load before the runs."""
    return {
        "cpu": _cpu_model(),
        "num_cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_before": [round(load, 2) for load in os.getloadavg()],
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
