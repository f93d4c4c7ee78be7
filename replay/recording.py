"""A replay's trace with the model's hidden states as context vectors, to train predictors on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pbkv.traces.errors import ConfigError
from pbkv.traces.temporary import check_free_file
from pbkv.traces.writer import write_trace

if TYPE_CHECKING:
    from pbkv.replay.settings import ReplaySettings
    from pbkv.traces.reader import Trace
    from pbkv.traces.schema import TraceMetadata, Workflow


class Recording:
    """Keeps the vectors of a run of one cell over one trace in memory, 4 bytes a number.

    Raises ConfigError for several traces or cells, and if no file can be put at ``path``.
    """

    def __init__(
        self, path: Path, traces: Sequence[Trace], settings: ReplaySettings, *, force: bool = False
    ) -> None:
        check_free_file(path, force)
        if len(traces) != 1:
            raise ConfigError("record-contexts", f"{len(traces)} traces", "one, whose copy the file will be")
        if len(cells := settings.cells()) != 1:
            raise ConfigError("record-contexts", f"{len(cells)} cells", "one policy, capacity, load and seed")
        self._path, self._trace, self._force = path, traces[0], force
        self._model = settings.profile.name
        self._contexts: dict[str, list[Sequence[float] | None]] = {}

    def keep(self, workflow: Workflow) -> None:
        """``workflow`` has ended, and its calls have their vectors."""
        self._contexts[workflow.workflow_id] = [call.context for call in workflow.calls]

    def write(self) -> TraceMetadata:
        """The workflows that were kept, in the trace's order; the file appears when it is whole."""
        before = self._trace.metadata
        about = replace(before, extra={**before.extra, "contexts": f"last prompt token, {self._model}"})
        return write_trace(self._path, self._recorded(), about, force=self._force)

    def _recorded(self) -> Iterator[Workflow]:
        for workflow in self._trace.workflows(everything=True):
            if (contexts := self._contexts.get(workflow.workflow_id)) is not None:
                pairs = zip(workflow.calls, contexts, strict=True)
                yield replace(workflow, calls=[call._replace(context=context) for call, context in pairs])
