"""The simulated world: cost model and links on simpy."""

from pbkv.sim.profile import HardwareProfile, load_profile, shipped_profiles
from pbkv.sim.run import simulate
from pbkv.sim.settings import Settings

__all__ = ["HardwareProfile", "Settings", "load_profile", "shipped_profiles", "simulate"]
