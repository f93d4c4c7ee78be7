"""What a policy may be told of the workflows, as they go: by the client, and by the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pbkv.cache.config import CacheConfig
    from pbkv.cache.decisions import Lease
    from pbkv.cache.tree import Node
    from pbkv.traces.schema import Workflow

Changed = Sequence["Node"]
NOTHING: Changed = ()


class Follower:
    """Told what happens; override what is of interest, the rest costs nothing.

    Each answer is the nodes whose keys may have changed in any queue (a use alone need not be answered:
    keys that grow with it are looked up again). ``workflow`` is as the client describes it: the calls up
    to ``position`` are known, and a policy that looks further is an oracle and says so. Instants are
    seconds since the run's start.
    """

    def begun(self, config: CacheConfig) -> None:
        """A run begins, on a cache of these sizes."""

    def submitted(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        """Call ``position`` has come in; the workflow may have been waiting for a tool until now."""
        return NOTHING

    def touched(self, node: Node, lease: Lease) -> None:
        """``lease`` (a call of an agent) uses the path down to ``node``: found it, or made it."""

    def cut(self, upper: Node, lower: Node) -> Changed:
        """A node has been cut in two; ``lower`` is the old one, whose first blocks are in ``upper`` now."""
        return NOTHING

    def computed(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        """The prompt of call ``position`` has been computed, its first token is out."""
        return NOTHING

    def foreseen(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        """The forecast of call ``position``, under way when its prompt had been computed, has come."""
        return NOTHING

    def call_ended(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        """The answer of call ``position`` is out: its workflow acts, or waits for others of its calls."""
        return NOTHING

    def ended(self, workflow: Workflow, now_s: float) -> Changed:
        """The client says that the workflow sends no more calls."""
        return NOTHING

    def passed(self, now_s: float) -> Changed:
        """It is ``now_s``, and room is about to be made: what has changed by time alone."""
        return NOTHING

    def next_due_s(self) -> float:
        """The next instant at which `passed` may have something to say (inf: never)."""
        return float("inf")

    def removed(self, node: Node) -> None:
        """``node`` has left the tree: neither tier has it any more."""

    def note(self) -> str:
        """After a run: what stands behind the policy's name in tables, if anything need be said."""
        return ""


def overriding(followers: Sequence[Follower], method: Callable[..., Any]) -> list[Callable[..., Any]]:
    """``method`` (one of `Follower`'s own) of those that have one of theirs: nobody else is called."""
    name = method.__name__
    return [getattr(follower, name) for follower in followers if getattr(type(follower), name) is not method]
