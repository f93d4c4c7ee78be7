"""An engine with nothing to run and nothing to copy."""

from __future__ import annotations

from typing import Any, cast

import simpy

from pbkv.replay.copies import RealCopies
from pbkv.replay.pace import Pace
from pbkv.replay.page_tables import PageTables


def test_in_real_time_an_idle_engine_without_a_host_tier_waits_for_the_next_event() -> None:
    env, pace = simpy.Environment(), Pace()
    tables, nothing = PageTables(4, 0), cast("Any", None)
    copies = RealCopies(env, nothing, nothing, tables, None, pace, 1, is_real_time=True)
    env.timeout(0.05)
    waited_s = copies.idle_s(wants_offloads=False)
    assert waited_s is not None
    assert waited_s >= 0.049  # not asked again and again until then
