"""The model's hidden states as context vectors: recorded, learnt from, and used live."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from pbkv.cache.blocks import PathTable
from pbkv.predict.forecast import Forecast
from pbkv.predict.graph import Graph
from pbkv.predict.live import LiveCalls
from pbkv.predict.saved import load_predictor
from pbkv.replay.model import load_model
from pbkv.replay.tokens import tokens_of
from pbkv.replay.worker import completed_prompts
from pbkv.serve.request import Request
from pbkv.traces.generate import generate_workload, workload_metadata
from pbkv.traces.reader import Trace
from pbkv.traces.schema import Call, Workflow
from pbkv.traces.writer import write_trace

MODEL = ("--model", "random:tiny", "--device", "cpu", "--threads", "1")
SMALL = ("--gpu-blocks", "500", "--block-size", "16", "--concurrency", "3", "--max-batched-tokens", "512")
NUM_WORKFLOWS, SEED, WIDTH = 6, 5, 64


def pbkv(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pbkv", *arguments], capture_output=True, text=True)


@dataclass(frozen=True)
class Files:
    trace: Path
    recorded: Path
    predictor: Path  # trained on the recorded trace
    narrow: Path  # trained on the generator's own vectors


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("contexts")
    names = ("few.parquet", "recorded.parquet", "next.safetensors", "narrow.safetensors")
    made = Files(*(folder / name for name in names))
    workload = generate_workload("hover", NUM_WORKFLOWS, SEED)
    write_trace(made.trace, workload, workload_metadata("hover", NUM_WORKFLOWS, SEED))
    record = ("--record-contexts", str(made.recorded), "-o", str(folder / "run"))
    done = pbkv("replay", str(made.trace), *MODEL, *SMALL, "--policy", "lru", *record)
    assert (done.returncode, done.stderr) == (0, "")
    for trace, file in ((made.recorded, made.predictor), (made.trace, made.narrow)):
        done = pbkv("train", str(trace), "--epochs", "3", "--split", "50,25,25", "-o", str(file))
        assert done.returncode == 0, done.stderr
    return made


def test_vectors_are_the_models_last_hidden_state_of_the_prompt(files: Files) -> None:
    model = load_model("random:tiny", torch.device("cpu"))
    calls = [call for workflow in Trace(files.recorded).workflows(everything=True) for call in workflow.calls]
    chosen = [*calls[:3], max(calls, key=lambda call: call.num_prompt_tokens)]  # of several chunks
    assert chosen[-1].num_prompt_tokens > 2 * 512
    for call in chosen:
        tokens = tokens_of(call.segment_ids, call.segment_tokens, model.config.vocab_size)
        expected = model.get_decoder()(torch.from_numpy(tokens)[None]).last_hidden_state[0, -1]
        assert call.context is not None
        np.testing.assert_allclose(np.asarray(call.context), expected.numpy(), atol=1e-4)


def test_the_recorded_trace_is_the_trace_but_for_its_vectors(files: Files) -> None:
    before, after = (Trace(path).workflows(everything=True) for path in (files.trace, files.recorded))
    for was, now in zip(before, after, strict=True):
        assert all(call.context is not None and len(call.context) == WIDTH for call in now.calls)
        bare = [[call._replace(context=None) for call in workflow.calls] for workflow in (was, now)]
        assert bare[0] == bare[1]
        assert (was.workflow_id, was.app, was.arrival_s) == (now.workflow_id, now.app, now.arrival_s)


def test_a_predictor_of_recorded_vectors_is_used_with_live_ones(files: Files, tmp_path: Path) -> None:
    predictor = ("--policy", "pbkv", "--predictor", str(files.predictor))
    out = tmp_path / "run"
    done = pbkv("replay", str(files.trace), *MODEL, *SMALL, *predictor, "-o", str(out))
    assert (done.returncode, done.stderr) == (0, "")  # the trace's own vectors, of 16 numbers, are not shown
    assert json.loads((out / "run.json").read_text())["complete"]


def test_a_forecast_sees_its_call_s_own_vector(files: Files, tmp_path: Path) -> None:
    """A predictor of the user's own notes what it is shown: each call's vector at its turn, none ahead."""
    own, noted = tmp_path / "own.py", tmp_path / "noted.jsonl"
    own.write_text(_NOTING.format(file=str(noted)))
    predictor = ("--policy", "pbkv", "--predictor", f"{own}:Noting")
    done = pbkv("replay", str(files.recorded), *MODEL, *SMALL, *predictor, "-o", str(tmp_path / "run"))
    assert (done.returncode, done.stderr) == (0, "")
    recorded = {
        workflow.workflow_id: workflow for workflow in Trace(files.recorded).workflows(everything=True)
    }
    lines = [json.loads(line) for line in noted.read_text().splitlines()]
    assert len(lines) == sum(len(workflow.calls) for workflow in recorded.values())
    for workflow_id, position, vectors in lines:
        expected = recorded[workflow_id].calls[position].context
        np.testing.assert_allclose(vectors[position], expected, atol=1e-4)
        assert not any(vectors[later] for later in _behind(recorded[workflow_id], position))


def test_live_forecasts_are_those_of_the_recorded_vectors(files: Files) -> None:
    predictor = load_predictor(files.predictor, 3)
    assert isinstance(predictor, Graph)
    for workflow in Trace(files.recorded).workflows(with_context=True):
        running = Workflow(workflow.workflow_id, workflow.app, None, LiveCalls(workflow.calls))
        found: list[Forecast] = []
        for position, call in enumerate(workflow.calls):
            assert isinstance(running.calls, LiveCalls)
            assert call.context is not None
            running.calls.show(position, call.context)
            found.append(predictor.forecast(running, position))
        np.testing.assert_allclose(np.stack(found), predictor.table(workflow), atol=1e-6)
        blind = [predictor.at(_blind(workflow), position) for position in range(len(workflow.calls))]
        assert abs(np.stack(found) - np.stack(blind)).max() > 1e-3  # the vectors matter


def test_a_call_preempted_in_its_answer_keeps_the_vector_of_its_prompt() -> None:
    """Computed again, its last token is one of the answer's; a chunk that ends early shows nothing either."""
    workflow = Workflow("w", "app", None, LiveCalls([Call(0, "agent", (), None, (1,), (40,), 9)]))
    path = PathTable(16).path((1,), (40,))
    request = Request(workflow, workflow.calls[0], path, 0.0)
    asked = [bool(completed_prompts([(request, num_tokens)])) for num_tokens in (30, 40)]
    request.num_generated, request.num_target = 3, 43
    assert [*asked, bool(completed_prompts([(request, 43)]))] == [False, True, False]


def test_another_width_is_one_line(files: Files, tmp_path: Path) -> None:
    predictor = ("--policy", "pbkv", "--predictor", str(files.narrow), "-o", str(tmp_path / "run"))
    done = pbkv("replay", str(files.trace), *MODEL, *SMALL, *predictor)
    said = "trained on contexts of 16 values, expected 64, the model's hidden size"
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", ["several cells", "several traces", "taken", "the run's"])
def test_what_cannot_be_recorded_is_one_line(wrong: str, files: Files, tmp_path: Path) -> None:
    traces = [str(files.trace)] * (2 if wrong == "several traces" else 1)
    policy = "lru,fifo" if wrong == "several cells" else "lru"
    places = {"taken": files.trace, "the run's": tmp_path / "run"}
    record = places.get(wrong, tmp_path / "file.parquet")
    options = ("--policy", policy, "--record-contexts", str(record), "-o", str(tmp_path / "run"))
    done = pbkv("replay", *traces, *MODEL, *SMALL, *options)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert list(tmp_path.iterdir()) == []


def _blind(workflow: Workflow) -> Workflow:
    calls: list[Call] = [call._replace(context=None) for call in workflow.calls]
    return Workflow(workflow.workflow_id, workflow.app, None, calls)


def _behind(workflow: Workflow, position: int) -> set[int]:
    """The calls that cannot begin before call ``position`` has ended."""
    behind: set[int] = set()
    for call in workflow.calls[position + 1 :]:
        if not {position, *behind}.isdisjoint(call.parent_indices):
            behind.add(call.call_index)
    return behind


_NOTING = """
import json

import numpy as np


class Noting:
    is_conditional = True
    needs_context = True
    agents = ["one"]

    def __init__(self, num_steps):
        self.num_steps = num_steps

    def forecast(self, workflow, position):
        vectors = [None if call.context is None else list(call.context) for call in workflow.calls]
        with open({file!r}, "a") as file:
            print(json.dumps([workflow.workflow_id, position, vectors]), file=file)
        return np.full((self.num_steps, 2), 0.5)

    def end(self, workflow):
        pass
"""
