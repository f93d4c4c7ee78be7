"""Context vectors from text: what a sentence model makes of a prompt's end.

The text of a prompt is that of its segments, as far as the trace has it (`pbkv traces import --store-text`);
its end is what is new, and what the answer follows. A vector is the mean of the model's last hidden states
over that end. They go into a copy of the trace, as its context vectors: they are worked out once, and
nothing that reads them needs the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pbkv.traces.errors import ConfigError, TraceError
from pbkv.traces.writer import write_trace

if TYPE_CHECKING:
    from pbkv.predict.network import Floats
    from pbkv.traces.reader import Trace
    from pbkv.traces.schema import Call, TraceMetadata, Workflow

PREFIX = "sentence:"
MOST_TOKENS = 256  # of a prompt's end; less where the model takes less
_MOST_CHARACTERS = 16 * MOST_TOKENS  # handed to the tokenizer: more than so many tokens have, as a rule
_AT_ONCE = 32  # texts a pass through the model
_CALLS_AT_ONCE = 1024  # sorted by length before they are cut into passes

Progress = Callable[[int], None]  # calls done


class Embedding(Protocol):
    """What makes vectors of texts."""

    name: str

    def vectors(self, texts: Sequence[str]) -> Floats:
        """Shape [len(texts), dimensions]."""
        ...


class SentenceModel:
    """A transformers encoder (or decoder) as an `Embedding`, on the CPU."""

    def __init__(self, name: str) -> None:
        """``name``: a folder, or a name on the hub. Raises ConfigError if it or its library is not there."""
        self.name = name
        self._tokenizer, self._model = _loaded(name)
        most = min(MOST_TOKENS, self._tokenizer.model_max_length, _positions(self._model.config))
        self._tokens = {"truncation": True, "max_length": most, "padding": True, "return_tensors": "pt"}
        self._num_dims = self._tried()

    def vectors(self, texts: Sequence[str]) -> Floats:
        """Texts of about one length go through the model together."""
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        found = np.zeros((len(texts), self._num_dims), np.float32)
        for at in range(0, len(order), _AT_ONCE):
            rows = order[at : at + _AT_ONCE]
            found[rows] = self._means([texts[row] for row in rows])
        return found

    def _tried(self) -> int:
        """Raises ConfigError for what takes no text alone (an encoder-decoder, a model of images)."""
        try:
            return int(self._means(["a"]).shape[1])
        except Exception as error:  # whatever its own code raises
            expected = f"an encoder or a decoder of text ({type(error).__name__})"
            raise ConfigError("context", PREFIX + self.name, expected) from None

    def _means(self, texts: list[str]) -> Floats:
        import torch

        tokens = self._tokenizer(texts, **self._tokens)
        with torch.inference_mode():
            states = self._model(**tokens).last_hidden_state
            counted = tokens["attention_mask"].unsqueeze(2)
            means = (states * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
        vectors: Floats = means.float().numpy()
        return vectors


def model_of(context: str) -> str | None:
    """MODEL of ``sentence:MODEL``, None for another kind of context. Raises ConfigError without a name."""
    if not context.startswith(PREFIX):
        return None
    if name := context.removeprefix(PREFIX):
        return name
    raise ConfigError("context", context, "sentence:MODEL, a name on the hub or a folder")


def describe(
    trace: Trace, model: Embedding, path: Path, *, force: bool = False, progress: Progress = lambda done: None
) -> TraceMetadata:
    """Write to ``path`` a copy of ``trace`` with vectors of its prompts' texts; calls without text have none.

    Raises TraceError if the trace keeps no text, ConfigError if ``path`` is taken. Memory: the calls of one
    batch, and the texts of their workflows.
    """
    check_text(trace)
    about = f"{model.name}, mean over a prompt's last {MOST_TOKENS} tokens of text"
    metadata = replace(trace.metadata, extra={**trace.metadata.extra, "contexts": about})
    return write_trace(
        path,
        _described(trace.workflows(everything=True, with_text=True), model, progress),
        metadata,
        force=force,
    )


def check_text(trace: Trace) -> None:
    """Raises TraceError if ``trace`` does not say what its prompts say."""
    if not trace.metadata.has_text:
        raise TraceError(trace.path, "text", "none", "a trace of `pbkv traces import --store-text`")


def ends_of(workflow: Workflow) -> list[str]:
    """The end of each call's prompt, at most 4,096 characters; "" where nothing of it is known."""
    known: dict[int, str] = {}
    ends = []
    for call in workflow.calls:
        known.update(call.new_texts or ())
        ends.append(_end(call, known))
    return ends


def _end(call: Call, known: dict[int, str]) -> str:
    parts: list[str] = []
    num_characters = 0
    for segment_id in reversed(call.segment_ids):
        if num_characters >= _MOST_CHARACTERS:
            break
        if text := known.get(segment_id):
            parts.append(text)
            num_characters += len(text) + 1
    return "\n".join(reversed(parts))[-_MOST_CHARACTERS:]


def _described(workflows: Iterable[Workflow], model: Embedding, progress: Progress) -> Iterator[Workflow]:
    waiting: list[Workflow] = []
    num_waiting = num_done = 0
    for workflow in workflows:
        waiting.append(workflow)
        num_waiting += len(workflow.calls)
        if num_waiting >= _CALLS_AT_ONCE:
            yield from _with_vectors(waiting, model)
            num_done += num_waiting
            progress(num_done)
            waiting, num_waiting = [], 0
    yield from _with_vectors(waiting, model)
    progress(num_done + num_waiting)


def _with_vectors(workflows: Sequence[Workflow], model: Embedding) -> Iterator[Workflow]:
    ends = [end for workflow in workflows for end in ends_of(workflow)]
    known = iter(model.vectors([end for end in ends if end]))
    vectors = iter([next(known) if end else None for end in ends])
    for workflow in workflows:
        calls = [call._replace(context=next(vectors)) for call in workflow.calls]
        yield replace(workflow, calls=calls)


def _loaded(name: str) -> tuple[Any, Any]:
    """Tokenizer and model."""
    try:
        import torch  # noqa: F401 - transformers without it can load no model
        import transformers
    except ModuleNotFoundError as error:
        expected = f"the library {error.name} (pip install 'pbkv[torch]'), or another context"
        raise ConfigError("context", PREFIX + name, expected) from None
    if (name.startswith((".", "/", "~")) or name.count("/") > 1) and not Path(name).is_dir():
        raise ConfigError("context", PREFIX + name, "a folder that exists, or a name on the hub")
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, truncation_side="left")
        model, info = transformers.AutoModel.from_pretrained(name, output_loading_info=True)
    except Exception as error:  # the hub's client, the libraries' loaders and Rust each raise their own
        problem = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ConfigError("context", PREFIX + name, f"a model that can be loaded: {problem}") from None
    _check_whole(name, tokenizer, info)
    return tokenizer, model.eval()


def _check_whole(name: str, tokenizer: Any, info: Any) -> None:
    missing = sorted(key for key in info["missing_keys"] if "pooler" not in key)  # which is not asked
    if missing:
        expected = f"weights for all of it: {len(missing)} are missing, as {missing[0]}"
        raise ConfigError("context", PREFIX + name, expected)
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ConfigError("context", PREFIX + name, "a tokenizer with a token to pad or to end with")
        tokenizer.pad_token = tokenizer.eos_token


def _positions(config: Any) -> int:
    """The longest input; encoders after RoBERTa number positions from behind their padding token."""
    most: int = getattr(config, "max_position_embeddings", MOST_TOKENS)
    return most - 2 if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet") else most
