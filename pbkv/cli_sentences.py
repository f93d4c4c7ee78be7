"""`pbkv train --context sentence:MODEL`: traces with context vectors of what their prompts say."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    from pbkv.traces.reader import Trace


def check_record(
    context: str, record: Path | None, output: Path | None, num_traces: int, kind: str, force: bool
) -> None:
    """Whatever can be known to be wrong of ``--context sentence:…`` and ``--record-contexts``."""
    from pbkv.predict.sentences import model_of
    from pbkv.traces.temporary import check_free_file

    if model_of(context) is None:
        if record is not None:
            raise ConfigError(
                "record-contexts", str(record), "--context sentence:MODEL (others need no file)"
            )
        return
    if kind.startswith("markov:"):
        raise ConfigError("context", context, "--kind graph or rgcn (markov looks at no context)")
    if record is None and output is not None:
        expected = "FILE, the trace with its vectors: a simulation reads them there (or --folds)"
        raise ConfigError("record-contexts", "nothing", expected)
    if record is not None:
        if num_traces != 1:
            raise ConfigError("record-contexts", f"{num_traces} traces", "one, whose copy the file will be")
        if output is not None and record.absolute() == output.absolute():
            raise ConfigError("record-contexts", str(record), "another path than the predictor's")
        check_free_file(record, force)


def described(
    traces: Sequence[Trace], model_name: str, record: Path | None, force: bool, stack: ExitStack
) -> list[Trace]:
    """Copies of ``traces`` with vectors; at ``record``, or in a folder that ``stack`` removes."""
    from pbkv.console import progress_of_calls
    from pbkv.predict.sentences import SentenceModel, check_text, describe
    from pbkv.traces.reader import Trace

    for trace in traces:
        check_text(trace)  # before a model is loaded
    model = SentenceModel(model_name)
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="pbkv-")))
    found = []
    for number, trace in enumerate(traces):
        path = record or folder / f"{number}.parquet"
        with progress_of_calls("sentences", trace.num_calls) as progress:
            describe(trace, model, path, force=force, progress=progress)
        found.append(Trace(path, source=None if record else trace.path))
    return found
