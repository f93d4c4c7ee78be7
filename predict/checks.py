"""Whether a predictor fits a trace: to be asked once, before a simulation starts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pbkv.predict.graph import Graph
from pbkv.predict.markov import Markov
from pbkv.predict.noisy import Noisy
from pbkv.traces.errors import TraceError

if TYPE_CHECKING:
    from pbkv.predict.forecast import Predictor
    from pbkv.traces.reader import Trace

_MOST_NAMED = 6


def check_trace(predictor: Predictor, trace: Trace) -> None:
    """Raises TraceError if ``predictor`` comes from a file and cannot say anything of ``trace``.

    That is: it knows none of the trace's agents, or the trace's context vectors have another length. A
    trace that shares some agents is accepted, and so is one without context vectors (docs/predictors.md).
    Other predictors fit every trace.
    """
    if isinstance(predictor, Noisy):
        predictor = predictor.inner
    if not isinstance(predictor, Graph | Markov) or predictor.source is None:
        return
    found = trace.agents()
    if found.isdisjoint(predictor.agents):
        expected = f"at least one of those that {predictor.source} was trained on: {_names(predictor.agents)}"
        raise TraceError(trace.path, "agents", _names(found), expected)
    if isinstance(predictor, Graph) and predictor.context_kind == "column":
        num_dims, expected_dims = trace.num_context_dims(), predictor.network.num_dims
        if num_dims is not None and num_dims != expected_dims:
            expected = f"{expected_dims}, as {predictor.source} was trained on"
            raise TraceError(trace.path, "context", f"{num_dims} values", expected)


def _names(agents: Iterable[str]) -> str:
    names = sorted(agents)
    return ", ".join(names[:_MOST_NAMED]) + (", …" if len(names) > _MOST_NAMED else "")
