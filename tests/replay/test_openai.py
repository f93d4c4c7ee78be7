"""A replay against a server: what is sent, what is recorded, and what servers do that goes wrong."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pbkv.analysis.load import Run, load
from pbkv.replay.openai import RemoteMachine, replay_openai, token_prompts
from pbkv.replay.openai_client import Server
from pbkv.serve.settings import RunSettings
from pbkv.traces.errors import ConfigError, StoppedError
from pbkv.traces.reader import Trace
from pbkv.traces.schema import Call, TraceMetadata, Workflow
from pbkv.traces.sources import open_trace
from pbkv.traces.writer import write_trace
from tests.replay import fake_server
from tests.replay.fake_server import Reply, answers, hangs, piece, serving, status, streams

GAP_S = 0.05


def workflow(number: int, arrival_s: float | None = None) -> Workflow:
    """A call, two side by side behind it, and a last one that joins them."""
    own = [1, 10 + number]
    calls = [
        Call(0, "planner", [], 0.0, own, [8, 4], 3),
        Call(1, "left/á", [0], GAP_S, [*own, 20], [8, 4, 6], 2),
        Call(2, "right", [0], None, own, [8, 4], 4),
        Call(3, "judge", [1, 2], 0.0, [2], [5], 1),
    ]
    return Workflow(f"w{number}", "test", arrival_s, calls)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return written(tmp_path / "trace.parquet", [workflow(number) for number in range(3)])


def written(path: Path, workflows: Sequence[Workflow]) -> Path:
    write_trace(path, workflows, TraceMetadata("a test's own"))
    return path


def send(path: Path, url: str, out: Path, *, concurrency: int | None = 2, **options: Any) -> Run:
    settings = RunSettings(
        RemoteMachine(url), gpu_blocks=(64,), host_blocks=0, concurrencies=(concurrency,), cache_events=False
    )
    with open_trace(path) as trace:
        assert isinstance(trace, Trace)
        replay_openai([trace], settings, Server(url, **options), out, prompts=token_prompts(1000))
    return load(out)


def calls_of(run: Run) -> dict[tuple[str, int], Any]:
    rows: list[Any] = list(run.calls.itertuples())
    return {(row.workflow_id, row.call_index): row for row in rows}


# ---------------------------------------------------------------------- what is sent and recorded


def test_calls_are_sent_with_their_prompts_and_ids_and_recorded(path: Path, tmp_path: Path) -> None:
    with serving(answers(num_cached=8)) as server:
        run = send(path, server.url, tmp_path / "run", hints=True, ignore_eos=True)
    assert len(server.requests) == len(run.calls) == 12
    assert len(run.workflows) == 3
    by_id = {headers["X-Request-Id"]: (body, headers) for _, body, headers in server.requests}
    body, headers = by_id["w1/1"]
    assert (headers["X-Workflow-Id"], headers["X-Agent-Id"]) == ("w1", "left/%C3%A1")
    assert headers["X-Dynamo-Session-Id"] == "w1:left/%C3%A1"
    assert body["nvext"]["agent_hints"] == {"osl": 2}
    assert body["nvext"]["agent_context"]["session_id"] == "w1"
    assert (body["model"], body["max_tokens"], body["ignore_eos"]) == ("tiny", 2, True)
    assert len(body["prompt"]) == 18
    assert body["prompt"][:12] == by_id["w1/0"][0]["prompt"]  # equal segments are equal tokens
    assert body["prompt"][:8] == by_id["w0/0"][0]["prompt"][:8]
    assert body["prompt"][8:12] != by_id["w0/0"][0]["prompt"][8:12]
    call = calls_of(run)["w1", 1]
    assert (call.agent, call.num_prompt_tokens, call.num_output_tokens) == ("left/á", 18, 2)
    assert (call.num_gpu_hit_tokens, call.num_host_hit_tokens) == (8, 0)
    assert pd.isna(call.num_cold_tokens)
    assert (run.config["engine"], run.config["complete"]) == ("openai", True)
    assert run.config["answers"] == {
        "num_calls": 12,
        "num_retries": 0,
        "num_shorter": 0,
        "num_cached_known": 12,
    }


def test_calls_wait_for_their_parents_and_tools(path: Path, tmp_path: Path) -> None:
    with serving(answers(pause_s=0.01)) as server:
        calls = calls_of(send(path, server.url, tmp_path / "run"))
    for name in ("w0", "w1", "w2"):
        first, left, right, last = (calls[name, index] for index in range(4))
        assert left.submitted_at_s >= first.ended_at_s + GAP_S
        assert first.ended_at_s <= right.submitted_at_s < left.submitted_at_s
        assert last.submitted_at_s >= max(left.ended_at_s, right.ended_at_s)
    for call in calls.values():
        assert call.first_token_at_s > call.submitted_at_s
        assert call.ended_at_s - call.first_token_at_s >= 0.01 * call.num_output_tokens - 0.005


def test_closed_loop_keeps_its_number_of_workflows(path: Path, tmp_path: Path) -> None:
    with serving(answers()) as server:
        spans = send(path, server.url, tmp_path / "run", concurrency=1).workflows.sort_values("released_at_s")
    assert (spans.released_at_s.to_numpy()[1:] >= spans.ended_at_s.to_numpy()[:-1]).all()
    assert spans.workflow_id.tolist() == ["w0", "w1", "w2"]


def test_open_loop_keeps_its_arrivals(tmp_path: Path) -> None:
    path = written(tmp_path / "open.parquet", [workflow(number, 0.15 * number) for number in range(3)])
    with serving(answers()) as server:
        spans = send(path, server.url, tmp_path / "run", concurrency=None).workflows.set_index("workflow_id")
    for number in range(3):
        late_s = spans.released_at_s[f"w{number}"] - 0.15 * number
        assert 0 <= late_s < 0.1


def test_without_usage_pieces_are_counted_and_hits_left_open(path: Path, tmp_path: Path) -> None:
    events = [piece(" a"), ": a comment\n\n", piece(""), piece(" b", finish_reason="stop")]
    with serving(streams(*events)) as server:
        run = send(path, server.url, tmp_path / "run")
    assert (run.calls.num_output_tokens == 2).all()
    assert run.calls.num_gpu_hit_tokens.isna().all()
    assert run.calls.num_prompt_tokens.tolist().count(5) == 3
    assert run.config["answers"]["num_shorter"] == 6


def test_a_server_that_does_not_stream_has_no_first_token(path: Path, tmp_path: Path) -> None:
    whole = {**piece(" a b", finish_reason="stop"), "usage": {"prompt_tokens": 7, "completion_tokens": 2}}
    with serving(streams(json.dumps(whole), content_type="application/json")) as server:
        run = send(path, server.url, tmp_path / "run")
    assert run.calls.first_token_at_s.isna().all()
    assert (run.calls.num_prompt_tokens == 7).all()


def test_text_goes_to_chat_where_only_that_is_served(path: Path, tmp_path: Path) -> None:
    def only_chat(handler: fake_server.Handler) -> None:
        (answers() if "chat" in handler.path else status(404, '{"detail": "Not Found"}'))(handler)

    with serving(only_chat) as server, open_trace(path) as trace:
        settings = RunSettings(RemoteMachine("x"), concurrencies=(1,), cache_events=False)
        asked = Server(server.url, sends_text=True)
        replay_openai(
            [trace], settings, asked, tmp_path / "run", prompts=lambda _, call: f"I am {call.agent}"
        )
    assert server.requests[1][1]["messages"] == [{"role": "user", "content": "I am planner"}]
    assert [path for path, _, _ in server.requests].count("/v1/completions") == 1
    assert (load(tmp_path / "run").calls.first_token_at_s.notna()).all()


def test_equal_segments_of_two_traces_are_different_tokens() -> None:
    call, prompts = workflow(0).calls[0], token_prompts(1000)
    assert prompts(0, call) != prompts(1, call)
    assert prompts(1, call) == prompts(1, call)


# ---------------------------------------------------------------------- what goes wrong


def test_passing_errors_are_tried_again(path: Path, tmp_path: Path) -> None:
    def drops(handler: fake_server.Handler) -> None:
        handler.connection.close()

    busy = status(429, '{"error": {"message": "slow down"}}', Retry_After="0.05")
    broken = streams(piece(" a"))  # ends without an end
    with serving(busy, status(503, "busy", Retry_After="0"), drops, broken, answers()) as server:
        run = send(path, server.url, tmp_path / "run")
    assert len(run.calls) == 12
    assert run.config["answers"]["num_retries"] == 4
    assert len(server.requests) == 16


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (status(500, "out of luck", Retry_After="0"), r"status 500: out of luck \(tried 2 times\)"),
        (status(400, '{"detail": "prompt must be a string."}'), "status 400: prompt must be a string"),
        (status(401, '{"error": {"message": "who are you?"}}'), r"status 401: who are you\?"),
        (streams("<html>hello</html>\n"), "no OpenAI-compatible answer: <html>hello"),
        (streams("data: {broken\n\n"), "no OpenAI-compatible answer: {broken"),
        (streams({"object": "list"}), "no OpenAI-compatible answer"),
        (streams("hello", content_type="text/plain"), "no OpenAI-compatible answer: hello"),
        (streams({"error": {"message": "model fell over"}}), "says model fell over"),
        (hangs, "no answer within 0.4 s"),
        (streams(*[": still here\n\n"] * 200, pause_s=0.05), "no answer within 0.4 s"),
        (streams(piece(" a"), pause_s=3), "no answer within 0.4 s"),
    ],
)
def test_a_server_that_fails_stops_the_run_and_keeps_what_was_written(
    path: Path, tmp_path: Path, reply: Reply, message: str
) -> None:
    with serving(answers(), reply) as server, pytest.raises(StoppedError, match=message) as stopped:
        send(path, server.url, tmp_path / "run", concurrency=1, timeout_s=0.4, max_retries=1)
    assert "\n" not in str(stopped.value)
    run = load(tmp_path / "run")
    assert (len(run.calls), run.config["complete"]) == (1, False)
    assert run.config["cells"][0]["stopped"]


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (hangs, "no answer within 0.3 s"),
        (status(200, "<html>"), "no OpenAI-compatible answer: <html>"),
        (status(200, '{"data": []}'), "names no model, one must be given"),
        (status(404, "nothing here"), "names no model, one must be given"),
        (status(502, "bad gateway", Retry_After="0"), "status 502: bad gateway"),
    ],
)
def test_what_is_no_server_is_refused_before_anything_is_written(
    path: Path, tmp_path: Path, models: Reply, message: str
) -> None:
    with serving(answers(), models=models) as server, pytest.raises(ConfigError, match=message):
        send(path, server.url, tmp_path / "run", timeout_s=0.3, max_retries=0)
    assert not (tmp_path / "run").exists()


def test_a_model_may_be_given_where_none_is_named(path: Path, tmp_path: Path) -> None:
    with serving(answers(), models=status(404)) as server:
        assert len(send(path, server.url + "/v1/", tmp_path / "run", model="mine").calls) == 12
    assert server.requests[0][1]["model"] == "mine"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Server("localhost:8000"),
        lambda: Server("http://localhost:9999999"),
        lambda: Server("http://x", timeout_s=0),
        lambda: Server("http://x", max_retries=-1),
    ],
)
def test_options_that_mean_nothing_are_refused(make: Callable[[], Server]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        make()


def test_a_password_in_the_address_is_not_shown() -> None:
    assert Server("http://me:secret@host/v1").shown == "http://host"


# ---------------------------------------------------------------------- the command


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "pbkv", "replay", "--engine", "openai", *map(str, arguments)]


def test_the_command_prints_a_table(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with serving(answers(num_cached=4)) as server:
        asked = command(path, "--base-url", server.url, "--concurrency", "2", "-o", out)
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "lru" in done.stdout
    assert len(load(out).calls) == 12


def test_a_server_that_refuses_is_one_line(path: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    asked = command(path, "--base-url", url, "--retries", "1", "-o", tmp_path / "run")
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"base-url: got {url}, expected a server that can be used" in done.stderr
    assert "(tried 2 times)" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--base-url: got nothing, expected the address of a server"),
        (("--base-url", "http://x", "--device", "cpu"), "--device: got cpu, expected --engine own"),
        (("--base-url", "http://x", "--check"), "--check: got True, expected --engine own"),
        (("--base-url", "http://x", "--policy", "lru,pbkv"), "policies: got ['lru', 'pbkv'], expected one"),
        (("--base-url", "http://x", "--gpu-blocks", "8,9"), "gpu_blocks: got [8, 9], expected one"),
        (("--base-url", "http://x", "--block-size", "0"), "block_size: got 0"),
        (("--engine", "own", "--hints"), "--hints: got True, expected --engine openai"),
        (("--engine", "own", "--timeout-s", "300"), "--timeout-s: got 300.0, expected --engine openai"),
        (("--engine", "vllm"), "--engine: got vllm, expected one of own, openai"),
        (("--open-loop", "--concurrency", "3"), "--open-loop: got True, expected either this"),
    ],
)
def test_options_of_the_other_engine_are_one_line(
    arguments: tuple[str, ...], said: str, path: Path, tmp_path: Path
) -> None:
    asked = command(path, *arguments, "-o", tmp_path / "run")
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_cleanly(path: Path, tmp_path: Path, number: signal.Signals) -> None:
    with serving(answers(), hangs) as server:
        asked = command(path, "--base-url", server.url, "-o", tmp_path / "run")
        running = subprocess.Popen(asked, stderr=subprocess.PIPE, text=True, env={**os.environ})
        assert fake_server.within(30, lambda: len(server.requests) > 1)
        running.send_signal(number)
        _, said = running.communicate(timeout=20)
    assert (running.returncode, said) == (130, "interrupted\n")
    assert [entry.name for entry in tmp_path.iterdir()] == ["trace.parquet"]
