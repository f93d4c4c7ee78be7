"""What to replay: the settings of a run, on a machine with a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pbkv.serve.settings import RunSettings
from pbkv.traces.records import REPLAY_TABLES

if TYPE_CHECKING:
    from pbkv.replay.machine import Machine
    from pbkv.replay.pool import Layout


@dataclass(frozen=True, slots=True)
class ReplaySettings(RunSettings):
    """A `RunSettings` whose machine is the one at hand.

    ``real_time``: tool waits are waited for; else the clock jumps over them when nothing runs and nothing
    is copied. ``check``: the debug mode, in which every page is looked at after each call.
    """

    profile: Machine
    layout: Layout = "page-first"
    compile_backend: str | None = None
    real_time: bool = False
    check: bool = False

    @property
    def shows_trace_vectors(self) -> bool:
        return False

    def tables(self) -> list[str]:
        return [*super(ReplaySettings, self).tables(), *REPLAY_TABLES]
