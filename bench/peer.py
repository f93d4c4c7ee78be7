"""AISimulate as a child process: where it is installed, how it is run, what it reports of itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measure import Child

VERSION = "0.13.0.dev202610270000000085"
CONFIG = Path("aisimulate/h100_table.yaml")  # in the folder of benchmark traces
TRACE = "agent20k.v2.jsonl"  # the name that the configuration expects beside it


@dataclass(frozen=True, slots=True)
class Peer:
    """An environment with AISimulate, and the configuration that it is run with."""

    program: Path
    config: Path

    def version(self) -> str:
        code = "import importlib.metadata as m; print(m.version('aisimulate'))"
        python = self.program.with_name("python")
        return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()

    def lay_out(self, folder: Path, trace: Path) -> None:
        """``folder`` with the configuration and, under the name that it expects, the unpacked trace."""
        folder.mkdir()
        shutil.copyfile(self.config, folder / self.config.name)
        (folder / TRACE).symlink_to(trace)

    def child(self, folder: Path, out: str, *extra: str) -> Child:
        """One whole prediction in a folder that ``lay_out`` made; reports go to ``folder / out``."""
        flags = ["-c", self.config.name, "--output-dir", out, "--overwrite", *extra]
        path = os.pathsep.join([str(self.program.parent), os.environ.get("PATH", "")])
        return Child([str(self.program), "predict", *flags], folder, {"PATH": path})


def find(place: Path, config: Path) -> Peer:
    """From the program, its folder or the environment's. Raises FileNotFoundError naming what is missing."""
    for program in (place / "bin" / "aisimulate", place / "aisimulate", place.with_name("aisimulate")):
        if program.is_file():
            return Peer(program.absolute(), config)
    raise FileNotFoundError(f"--peer {place}: expected an environment with AISimulate (see --install-peer)")


def install(folder: Path, python: str) -> None:
    """A fresh environment with the version compared against (1.5 GB; needs Python 3.11)."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin" / "python", "-m", "pip", "install", f"aisimulate=={VERSION}"], check=True)


def prediction(folder: Path) -> dict[str, Any]:
    """What a run reported; ``wall_time_ms`` is its loop alone, ``completed_requests`` its calls."""
    report: dict[str, Any] = json.loads((folder / "prediction.json").read_text())
    return report
