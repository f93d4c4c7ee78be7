"""A replay against `transformers serve` with a tiny model of the test's own, on a free port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import pytest

from pbkv.analysis.load import load
from pbkv.replay.openai import RemoteMachine, load_tokenizer, replay_openai, text_prompts, token_prompts
from pbkv.replay.openai_client import Endpoint, Server
from pbkv.serve.settings import RunSettings
from pbkv.traces.errors import StoppedError
from pbkv.traces.schema import Call, TraceMetadata, Workflow
from pbkv.traces.sources import open_trace
from pbkv.traces.writer import write_trace
from tests.replay.fake_server import within

_NEEDED = ("fastapi", "uvicorn", "openai", "pydantic", "accelerate")
_MISSING = [name for name in _NEEDED if find_spec(name) is None]
pytestmark = pytest.mark.skipif(
    bool(_MISSING), reason=f"transformers serve needs {', '.join(_MISSING)}, not installed here"
)
VOCABULARY = 256
START_S, SILENCE_S, STOP_S = 120, 60, 20  # on a loaded machine; else about 10, 1 and 1


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 2 layers and a tokenizer whose tokens are words: w2, w3, …"""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("tiny") / "model"
    names = ["<unk>", "</s>", *(f"w{number}" for number in range(2, VOCABULARY))]
    words = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    library: Any = transformers
    tokenizer = library.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    config = library.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=1,
        pad_token_id=2,
    )
    library.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def url(model: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model)]
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    alone = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}  # no network, one core
    log = model.parent / "serve.log"
    with log.open("w") as said:
        server = subprocess.Popen([*serve, *options], stdout=said, stderr=said, env=alone)
    url = f"http://127.0.0.1:{port}"
    try:
        is_there = within(START_S, lambda: server.poll() is not None or _answers(url))
        assert is_there, f"transformers serve did not start: {log.read_text()[-2000:]}"
        assert server.poll() is None, f"transformers serve ended by itself: {log.read_text()[-2000:]}"
        yield url
    finally:
        _stop(server)


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(STOP_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.parquet"
    workflows = [
        Workflow(
            f"w{number}",
            "test",
            None,
            [
                Call(0, "planner", [], 0.0, [1, 10 + number], [16, 4], 3),
                Call(1, "solver", [0], 0.0, [1, 10 + number, 20], [16, 4, 5], 4),
            ],
        )
        for number in range(3)
    ]
    write_trace(path, workflows, TraceMetadata("a test's own"))
    return path


def _answers(url: str) -> bool:
    with suppress(OSError), build_opener(ProxyHandler({})).open(f"{url}/health", timeout=1) as response:
        return bool(response.status == 200)
    return False


@pytest.mark.parametrize("endpoint", ["auto", "chat"])
def test_a_trace_is_replayed_by_text(
    endpoint: Endpoint, url: str, model: Path, trace: Path, tmp_path: Path
) -> None:
    settings = RunSettings(RemoteMachine(url), concurrencies=(2,), cache_events=False)
    prompts = text_prompts(load_tokenizer(str(model)))
    with open_trace(trace) as opened:
        server = Server(url, endpoint=endpoint, sends_text=True, timeout_s=SILENCE_S)
        replay_openai([opened], settings, server, tmp_path / "run", prompts=prompts)
    run = load(tmp_path / "run")
    assert run.config["complete"]
    assert (len(run.calls), len(run.workflows)) == (6, 3)
    calls = run.calls
    assert (calls.submitted_at_s < calls.first_token_at_s).all()
    assert (calls.first_token_at_s <= calls.ended_at_s).all()
    if endpoint == "auto":  # a chat's usage counts its template, too
        assert (calls.num_prompt_tokens == calls.call_index.map({0: 20, 1: 25})).all()
    assert (calls.num_output_tokens <= calls.call_index.map({0: 3, 1: 4})).all()
    assert calls.num_gpu_hit_tokens.isna().all()  # this server does not say what it had cached


def test_its_refusal_of_token_ids_is_one_line(url: str, trace: Path, tmp_path: Path) -> None:
    settings = RunSettings(RemoteMachine(url), concurrencies=(1,), cache_events=False)
    refused = r"status 400: prompt must be a string\.$"
    server = Server(url, timeout_s=SILENCE_S)
    with open_trace(trace) as opened, pytest.raises(StoppedError, match=refused):
        replay_openai([opened], settings, server, tmp_path / "run", prompts=token_prompts(VOCABULARY))
