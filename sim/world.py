"""The simulated world: what decisions cost on a hardware profile, in the time of a simpy environment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import simpy

from pbkv.cache.pages import Pages
from pbkv.serve.world import World
from pbkv.sim.copies import SimulatedCopies
from pbkv.sim.worker import SimulatedWorker

if TYPE_CHECKING:
    from pbkv.sim.profile import HardwareProfile


def simulated_world(profile: HardwareProfile) -> World:
    """A world at second 0."""
    env = simpy.Environment()
    worker = SimulatedWorker(profile.cost)
    return World(env, worker, lambda tiers, end: SimulatedCopies(env, tiers, profile, end), Pages())
