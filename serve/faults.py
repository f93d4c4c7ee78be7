"""What clients get wrong: lost or late end messages, wrong or missing agent ids, no tool times.

The workload itself is the same: the calls, their prompts and their times. Only what the cache is told
of them changes. Draws depend on the seed, the workflow and (a wrong id is one met before) the workflows
released before it, not on the policy, so that policies meet the same faults.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pbkv.predict.live import LiveCalls
from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    from pbkv.traces.schema import Call, Workflow

MISSING_AGENT = ""  # what a call without an agent id says


@dataclass(frozen=True, slots=True)
class Faults:
    """How often what is wrong. Ratios are shares of workflows (ends) and of calls (agents)."""

    lost_end_ratio: float = 0.0
    late_end_s: float = 0.0
    wrong_agent_ratio: float = 0.0
    missing_agent_ratio: float = 0.0
    no_tool_times: bool = False

    def __post_init__(self) -> None:
        for name in ("lost_end_ratio", "wrong_agent_ratio", "missing_agent_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(name, getattr(self, name), "a share from 0 to 1")
        if not 0 <= self.late_end_s < float("inf"):
            raise ConfigError("late_end_s", self.late_end_s, "a finite number ≥ 0")

    @classmethod
    def parse(cls, text: str) -> Faults:
        """From ``lost-end=0.1,late-end=5,wrong-agent=0.1,missing-agent=0.1,no-tool-times``."""
        values: dict[str, float | bool] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, _, value = part.partition("=")
            if name not in _NAMES or (name == "no-tool-times") != (not value) or _FIELDS[name] in values:
                raise ConfigError("faults", part, ", ".join(_NAMES.values()))
            try:
                values[_FIELDS[name]] = float(value) if value else True
            except ValueError:
                raise ConfigError("faults", part, _NAMES[name]) from None
        return cls(**values)  # type: ignore[arg-type] # each field gets what its name asks for


_NAMES: Mapping[str, str] = {
    "lost-end": "lost-end=SHARE",
    "late-end": "late-end=SECONDS",
    "wrong-agent": "wrong-agent=SHARE",
    "missing-agent": "missing-agent=SHARE",
    "no-tool-times": "no-tool-times",
}
_FIELDS: Mapping[str, str] = {
    "lost-end": "lost_end_ratio",
    "late-end": "late_end_s",
    "wrong-agent": "wrong_agent_ratio",
    "missing-agent": "missing_agent_ratio",
    "no-tool-times": "no_tool_times",
}


class Client:
    """Says of workflows what clients with these faults say, in the order of their release.

    ``is_live``: without context vectors, which the engine's model shows call by call.
    """

    def __init__(self, faults: Faults, seed: int, *, is_live: bool = False) -> None:
        self._faults = faults
        self._is_live = is_live
        self._seed = seed
        self._agents: dict[str, None] = {}  # met so far, in order: a wrong id is another one of them

    def describe(self, workflow: Workflow) -> Workflow:
        """``workflow`` as it is told to the cache."""
        told = self._with_faults(workflow)
        return replace(told, calls=LiveCalls(told.calls)) if self._is_live else told

    def end_delay_s(self, workflow: Workflow) -> float | None:
        """How long after the last call the end message comes; None if it is lost."""
        rng = random.Random(f"{self._seed}/{workflow.workflow_id}/end")
        return None if rng.random() < self._faults.lost_end_ratio else self._faults.late_end_s

    def _with_faults(self, workflow: Workflow) -> Workflow:
        faults = self._faults
        if not (faults.wrong_agent_ratio or faults.missing_agent_ratio or faults.no_tool_times):
            return workflow
        self._agents.update(dict.fromkeys(call.agent for call in workflow.calls))
        rng = random.Random(f"{self._seed}/{workflow.workflow_id}/agents")
        return replace(workflow, calls=[self._told(call, rng) for call in workflow.calls])

    def _told(self, call: Call, rng: random.Random) -> Call:
        is_missing = rng.random() < self._faults.missing_agent_ratio
        is_wrong = rng.random() < self._faults.wrong_agent_ratio
        others = [agent for agent in self._agents if agent != call.agent]
        if is_missing:
            call = call._replace(agent=MISSING_AGENT)
        elif is_wrong and others:
            call = call._replace(agent=rng.choice(others))
        return call._replace(tool_gap_s=None) if self._faults.no_tool_times else call
