"""What to simulate: the settings of a run, on a machine that is known by its cost model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pbkv.serve.settings import RunSettings

if TYPE_CHECKING:
    from pbkv.sim.profile import HardwareProfile


@dataclass(frozen=True, slots=True)
class Settings(RunSettings):
    """A `RunSettings` whose machine is a profile."""

    profile: HardwareProfile
