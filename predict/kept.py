"""What a predictor keeps of each live workflow, so that the next call costs a look-up."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from pbkv.traces.schema import Workflow

_Value = TypeVar("_Value")
_MOST = 8192  # live workflows; an end message may be lost, so the oldest go beyond it


class Kept(Generic[_Value]):
    """One value a workflow, made by ``make`` when first asked for.

    A workflow is told by its id and by its object: another one of the same id is made anew.
    """

    def __init__(self, make: Callable[[Workflow], _Value], most: int = _MOST) -> None:
        self._make = make
        self._most = most
        self._values: dict[str, tuple[Workflow, _Value]] = {}

    def __len__(self) -> int:
        return len(self._values)

    def of(self, workflow: Workflow) -> _Value:
        found = self._values.get(workflow.workflow_id)
        if found is not None and found[0] is workflow:
            return found[1]
        return self.renew(workflow)

    def renew(self, workflow: Workflow) -> _Value:
        """Make it again, as ``workflow`` has more calls than when it was made."""
        value = self._make(workflow)
        self._values[workflow.workflow_id] = (workflow, value)
        if len(self._values) > self._most:
            del self._values[next(iter(self._values))]
        return value

    def drop(self, workflow: Workflow) -> None:
        self._values.pop(workflow.workflow_id, None)
