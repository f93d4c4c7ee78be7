"""Whether a predictor fits a trace, or a model: to be asked once, before a run starts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pbkv.predict.forecast import needs_context
from pbkv.predict.graph import Graph
from pbkv.predict.markov import Markov
from pbkv.predict.noisy import Noisy
from pbkv.traces.errors import ConfigError, TraceError

if TYPE_CHECKING:
    from pbkv.predict.forecast import Predictor
    from pbkv.traces.reader import Trace

_MOST_NAMED = 6


def check_trace(predictor: Predictor, trace: Trace, *, reads_vectors: bool = True) -> None:
    """Raises TraceError if ``predictor`` comes from a file and cannot say anything of ``trace``.

    That is: it knows none of the trace's agents, or the trace's context vectors have another length. A
    trace that shares some agents is accepted, and so is one without context vectors (docs/predictors.md).
    Other predictors fit every trace. ``reads_vectors``: it will be shown the trace's vectors.
    """
    predictor = _without_noise(predictor)
    if not isinstance(predictor, Graph | Markov) or predictor.source is None:
        return
    found = trace.agents()
    if found.isdisjoint(predictor.agents):
        expected = f"at least one of those that {predictor.source} was trained on: {_names(predictor.agents)}"
        raise TraceError(trace.path, "agents", _names(found), expected)
    if reads_vectors and isinstance(predictor, Graph) and predictor.reads_vectors:
        num_dims, expected_dims = trace.num_context_dims(), predictor.network.num_dims
        if num_dims is not None and num_dims != expected_dims:
            expected = f"{expected_dims}, as {predictor.source} was trained on"
            raise TraceError(trace.path, "context", f"{num_dims} values", expected)


def reads_vectors(predictor: Predictor) -> bool:
    """Whether ``predictor`` looks at `Call.context`, as far as is known: hashed prompts need none."""
    predictor = _without_noise(predictor)
    return needs_context(predictor) and not (isinstance(predictor, Graph) and not predictor.reads_vectors)


def check_width(predictor: Predictor, num_dims: int) -> None:
    """Raises ConfigError if ``predictor`` was trained on vectors that are not of a model's ``num_dims``."""
    predictor = _without_noise(predictor)
    if isinstance(predictor, Graph) and predictor.reads_vectors:
        trained_dims, source = predictor.network.num_dims, predictor.source or "graph"
        if trained_dims != num_dims:
            given = f"{source}, trained on contexts of {trained_dims} values"
            raise ConfigError("predictor", given, f"{num_dims}, the model's hidden size (--record-contexts)")


def live_graph(predictor: Predictor) -> Graph | None:
    """The network that makes ``predictor``'s forecasts of vectors, if it is one."""
    predictor = _without_noise(predictor)
    return predictor if isinstance(predictor, Graph) and predictor.reads_vectors else None


def _without_noise(predictor: Predictor) -> Predictor:
    return predictor.inner if isinstance(predictor, Noisy) else predictor


def _names(agents: Iterable[str]) -> str:
    names = sorted(agents)
    return ", ".join(names[:_MOST_NAMED]) + (", …" if len(names) > _MOST_NAMED else "")
