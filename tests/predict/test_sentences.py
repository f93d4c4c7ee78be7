"""Context vectors from text: of a prompt's end, by a model, into a copy of the trace."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pbkv.predict.model_file import read_model
from pbkv.predict.sentences import SentenceModel, describe, ends_of, model_of
from pbkv.traces.errors import ConfigError, TraceError
from pbkv.traces.reader import Trace
from pbkv.traces.schema import Call, TraceMetadata, Workflow
from pbkv.traces.writer import write_trace
from tests.test_cli_traces import Run
from tests.test_cli_train import run  # noqa: F401 - a fixture

torch = pytest.importorskip("torch", reason="a sentence model needs torch (pip install 'pbkv[torch]')")
transformers = pytest.importorskip("transformers", reason="… and transformers")
told_only = pytest.mark.skipif("new_texts" not in Call._fields, reason="traces do not keep text")

WORDS = ("please", "check", "the", "claim", "left", "right", "done")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder with random weights that reads the words above."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = {word: number for number, word in enumerate(("[PAD]", "[UNK]", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=32
    )
    fast.save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


class Length:
    """An embedding without a model: characters, and how often "left" is there."""

    name = "length"

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([[len(text), text.count("left")] for text in texts], np.float32).reshape(-1, 2)


def told(call: Call, *texts: tuple[int, str]) -> Call:
    fields: dict[str, Any] = {"new_texts": texts}
    return call._replace(**fields)


def choices(num_workflows: int) -> list[Workflow]:
    """A planner's prompt ends with a word that says who comes next; nothing else tells."""
    rng = np.random.default_rng(0)
    found = []
    for index in range(num_workflows):
        calls, ids = [], [0]
        texts: list[tuple[int, str]] = [(0, "please check the claim")]
        for turn in range(3):
            word = str(rng.choice(["left", "right"]))
            ids = [*ids, 1000 * index + 2 * turn + 1]
            call = Call(2 * turn, "planner", (2 * turn - 1,) if turn else (), None, ids, [8] * len(ids), 5)
            calls.append(told(call, *texts, (ids[-1], word)))
            ids, texts = [*ids, 1000 * index + 2 * turn + 2], []
            worker = Call(2 * turn + 1, word, (2 * turn,), None, ids, [8] * len(ids), 5)
            calls.append(told(worker, (ids[-1], "done")))
        found.append(Workflow(f"w{index}", "app", None, calls))
    return found


@pytest.fixture(scope="session")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("told") / "told.parquet"
    write_trace(path, choices(150), TraceMetadata("test", extra={"text": "stored"}))
    return path


@told_only
def test_a_prompts_end_is_its_last_segments_and_nothing_later() -> None:
    (one,) = choices(1)
    ends = ends_of(one)
    words = [call.agent for call in one.calls[1::2]]
    assert ends[0] == f"please check the claim\n{words[0]}"
    assert ends[1] == f"{ends[0]}\ndone"
    assert ends[2] == f"{ends[1]}\n{words[1]}"
    assert max(map(len, ends_of(Workflow("w", "app", None, [long_call()])))) == 4096


def long_call() -> Call:
    return told(Call(0, "a", (), None, (1, 2), (9, 9), 1), (1, "x" * 9000), (2, "y" * 10))


@told_only
def test_the_copy_is_the_trace_with_vectors(trace: Path, tmp_path: Path) -> None:
    copy, done = tmp_path / "copy.parquet", list[int]()
    describe(Trace(trace), Length(), copy, progress=done.append)
    before, after = Trace(trace), Trace(copy)
    assert done[-1] == after.num_calls == before.num_calls
    assert str(after.metadata.extra["contexts"]).startswith("length, mean over")
    for one, other in zip(before.workflows(everything=True), after.workflows(everything=True), strict=True):
        assert [call._replace(context=None) for call in other.calls] == list(one.calls)
    (first, *_) = after.workflows(everything=True)
    assert first.calls[0].context is not None
    assert first.calls[0].context[1] == (first.calls[1].agent == "left")


@told_only
def test_a_call_without_text_has_no_vector(tmp_path: Path) -> None:
    silent = Workflow("w", "app", None, [Call(0, "a", (), None, (1,), (1,), 1)])
    path, copy = tmp_path / "silent.parquet", tmp_path / "copy.parquet"
    write_trace(path, [silent, *choices(1)], TraceMetadata("test", extra={"text": "stored"}))
    describe(Trace(path), Length(), copy)
    first, second = Trace(copy).workflows(everything=True)
    assert first.calls[0].context is None
    assert second.calls[0].context is not None


def test_vectors_do_not_depend_on_who_else_is_asked(model_folder: Path) -> None:
    model = SentenceModel(str(model_folder))
    texts = ["left", "please check the claim " * 30, "right done", "please check the claim left"]
    together = model.vectors(texts)
    assert together.shape == (4, 16)
    for text, row in zip(texts, together, strict=True):
        np.testing.assert_allclose(model.vectors([text])[0], row, atol=1e-5)
    assert np.abs(together[0] - together[2]).max() > 1e-3
    assert model.vectors([]).shape == (0, 16)


def test_of_a_long_text_the_end_counts(model_folder: Path) -> None:
    model, much = SentenceModel(str(model_folder)), "please " * 100
    left, other = model.vectors([much + "left", "check " + much + "left"])
    np.testing.assert_allclose(left, other, atol=1e-6)
    assert np.abs(model.vectors([much + "right"])[0] - left).max() > 1e-4


@told_only
def test_train_learns_from_the_text(
    run: Run,  # noqa: F811 - the fixture
    trace: Path,
    tmp_path: Path,
    model_folder: Path,
) -> None:
    file, copy = tmp_path / "graph.safetensors", tmp_path / "copy.parquet"
    context = f"sentence:{model_folder}"
    status, out, err = run(trace, "-o", file, "--context", context, "--record-contexts", copy, "--json")
    assert (status, err) == (0, "")
    (found,) = json.loads(out)["runs"]
    assert found["graph"][0]["top1"] > 0.95 > 0.8 > found["markov:3"][0]["top1"]
    _, facts = read_model(file)
    assert (facts.context_kind, facts.num_context_dims) == ("column", 16)
    assert str(facts.traces[0]["contexts"]).startswith(str(model_folder))
    assert facts.traces[0]["digest"] == Trace(copy).metadata.digest
    status, out, _ = run(copy, "--folds", 2, "--epochs", 1, "--json")  # the copy needs no model any more
    assert status == 0


@told_only
def test_folds_need_no_file_for_the_vectors(
    run: Run,  # noqa: F811 - the fixture
    trace: Path,
    model_folder: Path,
) -> None:
    status, out, _ = run(
        trace, "--folds", 2, "--epochs", 1, "--context", f"sentence:{model_folder}", "--json"
    )
    assert (status, len(json.loads(out)["runs"])) == (0, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--folds", 2, "--context", "sentence:"), "context: got sentence:, expected sentence:MODEL"),
        (("-o", "x", "--context", "sentence:m"), "record-contexts: got nothing, expected FILE"),
        (("-o", "x", "--record-contexts", "y"), "record-contexts: got y, expected --context sentence:MODEL"),
        (("-o", "x", "--context", "sentence:m", "--record-contexts", "x"), "another path than the predictor"),
        (("--folds", 2, "--kind", "markov:1", "--context", "sentence:m"), "markov looks at no context"),
        (
            ("--folds", 2, "--context", "sentence:m"),
            "text: got none, expected a trace of `pbkv traces import",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(
    run: Run,  # noqa: F811 - the fixture
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[object, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "silent.parquet"
    write_trace(
        path, [Workflow("w", "app", None, [Call(0, "a", (), None, (1,), (1,), 1)])], TraceMetadata("test")
    )
    status, out, err = run(path, *options)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert list(tmp_path.iterdir()) == [path]


def test_a_model_that_is_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"context: got sentence:\./nowhere, expected a folder that exists"):
        SentenceModel("./nowhere")
    with pytest.raises(ConfigError, match="expected a model that can be loaded"):
        SentenceModel(str(tmp_path))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"the library transformers \(pip install 'pbkv\[torch\]'\)"):
        SentenceModel(str(tmp_path))


def test_a_model_that_needs_more_than_a_text_is_refused(model_folder: Path, tmp_path: Path) -> None:
    transformers.AutoTokenizer.from_pretrained(model_folder).save_pretrained(tmp_path)
    config = transformers.T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    transformers.T5Model(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="an encoder or a decoder of text"):
        SentenceModel(str(tmp_path))


def test_other_kinds_of_context_name_no_model(tmp_path: Path) -> None:
    assert [model_of(kind) for kind in ("auto", "hash", "sentence:a/b")] == [None, None, "a/b"]
    path = tmp_path / "trace.parquet"
    write_trace(
        path, [Workflow("w", "app", None, [Call(0, "a", (), None, (1,), (1,), 1)])], TraceMetadata("test")
    )
    with pytest.raises(TraceError, match="text: got none"):
        describe(Trace(path), Length(), tmp_path / "copy")
