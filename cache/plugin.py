"""A policy of the user's own: ``file.py:Class``, or an entry point of the group ``pbkv.policies``.

One small class; see docs/policies.md. It needs ``key(node)``, the order of eviction on both tiers, smallest
first. It may have ``host_key(node)``; ``prefetch_key(node)`` and with it ``prefetch_wants(node)``,
``prefetch_budget(situation)``, ``displaces(victim)``; ``admits(request, manager, now_s)`` and
``next_change_s()``; ``request_key(request, manager, now_s)``; ``evicted(node)``; and any method of
`pbkv.cache.Follower`, which it may subclass. Its ``__init__`` is given ``seed`` and ``options`` if it names
them. Whatever goes wrong in it is raised as PolicyError, with file, line and method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from math import inf, isnan, nan
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pbkv.cache.follower import NOTHING, Follower
from pbkv.cache.foreign import Code, Keys
from pbkv.cache.policy import Policy, PolicyOptions
from pbkv.cache.tree import Node
from pbkv.traces.errors import InvariantError, PolicyError
from pbkv.traces.foreign_code import class_in, loaded

if TYPE_CHECKING:
    from pbkv.cache.manager import CacheManager
    from pbkv.cache.prefetch import Situation
    from pbkv.cache.scheduling import Waiting
    from pbkv.cache.tiers import Tiers

GROUP = "pbkv.policies"
_CHANGES = (
    "submitted",
    "computed",
    "foreseen",
    "call_ended",
    "ended",
    "passed",
    "cut",
)  # answered with nodes
_TOLD = ("begun", "touched", "removed")


def plugged_policy(name: str, seed: int, options: PolicyOptions) -> Policy | None:
    """The policy called ``name``, if that is a file and a class, or an installed entry point.

    Raises ConfigError or PolicyError if it cannot be used.
    """
    file, _, class_name = name.rpartition(":")
    if file.endswith(".py"):
        found = class_in(Path(file), class_name, "policy", PolicyError)
    else:
        installed = next(iter(entry_points(group=GROUP, name=name)), None)
        if installed is None:
            return None
        found = loaded(f"entry point {name}", installed.load, PolicyError)
    return _composed(Code(found, seed, options))


@contextmanager
def breaches_named(policy: Policy, name: str) -> Iterator[None]:
    """Broken invariants are our fault, unless the policy is somebody else's."""
    try:
        yield
    except InvariantError as error:
        if not policy.is_plugged_in:
            raise
        raise PolicyError(name, f"the cache's invariants do not hold any more: {error}") from error


# ---------------------------------------------------------------------- its parts


def _composed(code: Code) -> Policy:
    gpu_order = _Order(code, "key")
    return Policy(
        gpu_order=gpu_order,
        host_order=_Order(code, "host_key") if code.has("host_key") else _Order(code, "key"),
        followers=(_follower(code),),
        prefetch=_Prefetch(code) if code.has("prefetch_key") else None,
        admission=_Admission(code) if code.has("admits") else None,
        request_order=_RequestOrder(code) if code.has("request_key") else None,
        is_plugged_in=True,
    )


class _Order:
    """Eviction order of one tier. ``queued`` is there so that keys may fall."""

    def __init__(self, code: Code, method: str) -> None:
        self.key = Keys(code, method)
        self.queued: Callable[[Node], Any] = code.method("queued") if code.has("queued") else _nothing
        self.evicted = code.method("evicted") if code.has("evicted") and method == "key" else None


class _Prefetch:
    """Without more than ``prefetch_key``: everything, into free space, as PBKV's conservative one."""

    def __init__(self, code: Code) -> None:
        self.key = Keys(code, "prefetch_key")
        self.queued = _nothing
        self._code = code
        self._wants = code.method("prefetch_wants") if code.has("prefetch_wants") else _yes
        self._budget = code.method("prefetch_budget") if code.has("prefetch_budget") else _conservative
        self._displaces = code.method("displaces") if code.has("displaces") else _no

    def wants(self, node: Node) -> bool:
        return bool(self._wants(node))

    def budget(self, situation: Situation) -> int:
        answer = self._budget(situation)
        if not -inf < (blocks := _number(answer)) < inf:
            raise self._code.failed("prefetch_budget", f"answers {answer!r}, expected a number of blocks")
        return int(blocks)

    def displaceable(self, tiers: Tiers) -> Callable[[Node], bool]:
        return self._displaces


class _Admission:
    def __init__(self, code: Code) -> None:
        self._admits = code.method("admits")
        self._next_change_s = _instant(code, "next_change_s") if code.has("next_change_s") else _never

    def admits(self, request: Waiting, manager: CacheManager, now_s: float) -> bool:
        return bool(self._admits(request, manager, now_s))

    def next_change_s(self) -> float:
        return self._next_change_s()


class _RequestOrder:
    def __init__(self, code: Code) -> None:
        self.key = Keys(code, "request_key")


def _follower(code: Code) -> Follower:
    """A follower with just the methods that the class has: the rest costs nothing."""
    methods: dict[str, Any] = {name: _answering(code, name) for name in _CHANGES if code.has(name)}
    methods |= {name: _told(code, name) for name in _TOLD if code.has(name)}
    if code.has("next_due_s"):
        methods["next_due_s"] = staticmethod(_instant(code, "next_due_s"))
    if code.has("note"):
        methods["note"] = staticmethod(_text(code, "note"))
    made: Follower = type("Plugged", (Follower,), methods)()
    return made


def _answering(code: Code, name: str) -> Callable[..., Sequence[Node]]:
    ask = code.method(name)

    def answer(_: Follower, *arguments: Any) -> Sequence[Node]:
        changed = ask(*arguments)
        if changed is None:
            return NOTHING
        if not (isinstance(changed, list | tuple) and all(isinstance(node, Node) for node in changed)):
            raise code.failed(name, f"answers {changed!r}, expected a list of nodes, or None")
        return changed

    return answer


def _told(code: Code, name: str) -> Callable[..., Any]:
    tell = code.method(name)
    return lambda _, *arguments: tell(*arguments)


def _instant(code: Code, name: str) -> Callable[[], float]:
    ask = code.method(name)

    def answer() -> float:
        told = ask()
        if isnan(at_s := _number(told)):
            raise code.failed(name, f"answers {told!r}, expected seconds since the run's start (inf: never)")
        return at_s

    return answer


def _number(answer: Any) -> float:
    """NaN for what is none."""
    return float(answer) if isinstance(answer, Real) else nan


def _text(code: Code, name: str) -> Callable[[], str]:
    ask = code.method(name)

    def answer() -> str:
        text = ask()
        if not isinstance(text, str):
            raise code.failed(name, f"answers {text!r}, expected a text, or an empty one")
        return text

    return answer


# ---------------------------------------------------------------------- defaults


def _nothing(node: Node) -> None:
    """Nobody wants to know."""


def _yes(node: Node) -> bool:
    return True


def _no(node: Node) -> bool:
    return False


def _never() -> float:
    return inf


def _conservative(situation: Situation) -> int:
    return situation.step_blocks if situation.is_pure_decode and not situation.num_in_flight else 0
