"""Which agents read on from what another has read: whole transcripts are handed from agent to agent.

A_w(c) counts the agents that *touched* an entry. Where the next agent's prompt starts with the last
one's, the freshest entry would be scored by the chance that its producer is called again, although
somebody else will extend it. The paper names the remedy (§5): j is a reader of c if some i has touched c
and j inherits what i read.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    from pbkv.cache.blocks import BlockPath

_USUALLY = 0.5  # of j's prompts, how many must start with i's last one


class Inheritance(Protocol):
    """Agents are bits, sets of agents are sums of bits."""

    def readers(self, agents: int) -> int:
        """The agents that may read what ``agents`` have touched."""
        ...

    def learn(self, paths: Mapping[int, BlockPath], agent: int, before: Callable[[], None]) -> None:
        """``agent`` has made a call; ``paths`` are each agent's last prompt in its workflow, its own too.

        ``before`` is called before `readers` answers otherwise.
        """
        ...


class NoInheritance:
    """Who has touched it reads it again, and nobody else (the paper's main results)."""

    def readers(self, agents: int) -> int:
        return agents

    def learn(self, paths: Mapping[int, BlockPath], agent: int, before: Callable[[], None]) -> None:
        """Nothing to learn."""


class AllInherit:
    """Every agent reads on from every other."""

    def readers(self, agents: int) -> int:
        return -1 if agents else 0

    def learn(self, paths: Mapping[int, BlockPath], agent: int, before: Callable[[], None]) -> None:
        """Nothing to learn."""


class LearnedInheritance:
    """j inherits from i if at least half of j's prompts so far started with i's last prompt.

    Counted are prompts of workflows in which i has called before. i's answer is left out: whoever hands a
    transcript on may wrap it anew. What has been learnt holds from a node's next scoring on.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[int, int], tuple[int, int]] = {}  # (i, j): prompts that did, all prompts
        self._heirs: dict[int, int] = {}  # by agent bit
        self._known: dict[int, int] = {}

    def readers(self, agents: int) -> int:
        known = self._known.get(agents)
        if known is None:
            known = agents
            for agent, heirs in self._heirs.items():
                if agents & agent:
                    known |= heirs
            self._known[agents] = known
        return known

    def learn(self, paths: Mapping[int, BlockPath], agent: int, before: Callable[[], None]) -> None:
        prompt = paths.get(agent)
        if prompt is None:
            return
        for other, path in paths.items():
            if other != agent:
                self._count(other, agent, _starts_with(prompt, path), before)

    def _count(self, giver: int, heir: int, does: bool, before: Callable[[], None]) -> None:
        num_done, num_all = self._counts.get((giver, heir), (0, 0))
        self._counts[giver, heir] = (num_done + does, num_all + 1)
        heirs = self._heirs.get(giver, 0)
        now = heirs | heir if num_done + does >= _USUALLY * (num_all + 1) else heirs & ~heir
        if now != heirs:
            before()
            self._heirs[giver] = now
            self._known.clear()


def make_inheritance(name: str) -> Inheritance:
    """By name: none, learned or all. Raises ConfigError."""
    if name == "none":
        return NoInheritance()
    if name == "learned":
        return LearnedInheritance()
    if name == "all":
        return AllInherit()
    raise ConfigError("inherit", name, "none, learned or all")


def _starts_with(prompt: BlockPath, path: BlockPath) -> bool:
    """Whether the full blocks of ``path`` lead ``prompt``."""
    index = bisect_left(prompt.ends, path.num_blocks)
    return bool(path.keys) and index < len(prompt.keys) and prompt.keys[index] == path.keys[-1]
