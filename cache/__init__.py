"""Blocks, prefix tree, tiers, eviction and the manager: decides without a clock and without a GPU.

What a policy of one's own may want to name (docs/policies.md) is found here, and loaded when it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pbkv.cache.config import CacheConfig as CacheConfig
    from pbkv.cache.decisions import Lease as Lease
    from pbkv.cache.follower import NOTHING as NOTHING
    from pbkv.cache.follower import Changed as Changed
    from pbkv.cache.follower import Follower as Follower
    from pbkv.cache.manager import CacheManager as CacheManager
    from pbkv.cache.policy import PolicyOptions as PolicyOptions
    from pbkv.cache.prefetch import Situation as Situation
    from pbkv.cache.scheduling import Waiting as Waiting
    from pbkv.cache.tree import Node as Node

_HOMES = {
    "CacheConfig": "config",
    "CacheManager": "manager",
    "Changed": "follower",
    "Follower": "follower",
    "Lease": "decisions",
    "NOTHING": "follower",
    "Node": "tree",
    "PolicyOptions": "policy",
    "Situation": "prefetch",
    "Waiting": "scheduling",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
