"""The engine's two questions about who waits: who may start at all, and who starts first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pbkv.cache.blocks import BlockPath
    from pbkv.cache.manager import CacheManager
    from pbkv.traces.schema import Workflow


class Waiting(Protocol):
    """What may be known of a request that waits. ``described`` is the workflow as the client tells it."""

    @property
    def described(self) -> Workflow: ...
    @property
    def position(self) -> int: ...
    @property
    def path(self) -> BlockPath: ...
    @property
    def submitted_at_s(self) -> float: ...


class AdmissionRule(Protocol):
    """The plug point of admission by workflow."""

    def admits(self, request: Waiting, manager: CacheManager, now_s: float) -> bool:
        """Whether ``request`` may start now, if there is room. Asked between iterations."""
        ...

    def next_change_s(self) -> float:
        """The next instant at which an answer may change by time alone (inf: never)."""
        ...


class RequestOrder(Protocol):
    """The plug point of the order in which waiting requests are admitted: the smallest key first."""

    def key(self, request: Waiting, manager: CacheManager, now_s: float) -> Any: ...
