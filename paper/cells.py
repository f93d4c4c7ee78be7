"""A cell of the paper's experiments as a job: `pbkv.study.cells` runs and keeps it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pbkv.paper.experiments import Arm
from pbkv.study.cells import simulated
from pbkv.study.measures import means_of


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
        settings = self.arm.settings(self.seed, str(self.graph_file))
        with simulated(self.trace, settings, self.trace.parent) as (result, out):
            return {**self.key(), **means_of(result, out)}
