"""Jobs in processes: what has ended is kept, what dies is found out, nothing outlives its parent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pbkv.study.cells import Kept, Row, code_state, run_jobs
from pbkv.study.workers import Keyed, Processes


@dataclass(frozen=True)
class Noted:
    """A job that leaves a mark each time it runs, and may kill its own process."""

    name: str
    folder: str
    deadly: bool = False

    def key(self) -> dict[str, Any]:
        return {"name": self.name}

    def run(self) -> dict[str, Any]:
        with (Path(self.folder) / f"{self.name}.runs").open("a") as file:
            file.write("x")
        if self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"name": self.name}

    def num_runs(self) -> int:
        return len((Path(self.folder) / f"{self.name}.runs").read_text())


def jobs(folder: Path, names: str) -> list[Noted]:
    return [Noted(name, str(folder)) for name in names]


def done(found: Sequence[Keyed], kept: Kept, workers: int = 1) -> list[Row]:
    return list(run_jobs(found, kept, Processes(workers), lambda _: None))


def test_what_has_ended_is_kept_and_not_run_again(tmp_path: Path) -> None:
    abc, file = jobs(tmp_path, "abc"), tmp_path / "cells.jsonl"
    done(abc[:2], Kept(file, "now"))
    assert [row["name"] for row in done(abc, Kept(file, "now"))] == ["c"]
    assert [job.num_runs() for job in abc] == [1, 1, 1]
    assert [row["name"] for row in Kept(file, "now").of(abc)] == ["a", "b", "c"]


def test_a_line_that_a_kill_cut_off_costs_that_line_alone(tmp_path: Path) -> None:
    (a, b, c), file = jobs(tmp_path, "abc"), tmp_path / "cells.jsonl"
    Kept(file, "now").add(a, {"name": "a"})
    file.write_text(file.read_text() + json.dumps({"state": "now", "key": "x"})[:-9])
    Kept(file, "now").add(b, {"name": "b"})
    Kept(file, "old").add(c, {"name": "c"})
    kept = Kept(file, "now")
    assert [kept.has(job) for job in (a, b, c)] == [True, True, False]


def test_a_process_that_dies_costs_its_own_job_alone(tmp_path: Path) -> None:
    found: list[Keyed] = [*jobs(tmp_path, "ab"), Noted("bad", str(tmp_path), True), *jobs(tmp_path, "cd")]
    kept = Kept(tmp_path / "cells.jsonl", "now")

    def lost(job: Keyed, reason: str) -> Row:
        return {"name": job.key()["name"], "reason": reason}

    rows = {row["name"]: row for row in run_jobs(found, kept, Processes(2), lambda _: None, lost)}
    assert sorted(rows) == ["a", "b", "bad", "c", "d"]
    assert rows["bad"]["reason"] == "its process died (killed, or out of memory)"
    assert "reason" not in rows["a"]


def test_without_a_word_for_it_a_death_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="its process died"):
        done([Noted("bad", str(tmp_path), True)], Kept(tmp_path / "cells.jsonl", "now"))


_PARENT = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from pbkv.study.workers import _pool
if __name__ == "__main__":
    with _pool(1) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(60)
"""


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(_PARENT)
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, env=paths, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
    end_at_s = time.monotonic() + 20
    while _runs(worker) and time.monotonic() < end_at_s:
        time.sleep(0.1)
    assert not _runs(worker)


def _runs(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    try:
        return "State:\tZ" not in status.read_text()
    except OSError:
        return False


@pytest.mark.parametrize("folder", ["analysis", "cache", "paper", "predict", "sim", "traces"])
def test_any_change_of_the_code_is_another_state(folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir()
    states = []
    for text in ("a = 1", "a = 2"):
        (tmp_path / folder / "x.py").write_text(text)
        states.append(code_state(tmp_path))
    assert states[0] != states[1]
