"""Logs with text: request/response lines, OpenTelemetry spans, tau2-bench results."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from pbkv.traces import importers
from pbkv.traces.errors import ConfigError, TraceError
from pbkv.traces.schema import Workflow

Json = dict[str, Any]
SYSTEM = {"role": "system", "content": "You plan work for others, in short words."}
ASK = {"role": "user", "content": "Write a test."}
PLAN = {"role": "assistant", "content": "First read the code, then write."}


def _read(path: Path, **options: Any) -> tuple[list[Workflow], dict[str, int]]:
    workflows, metadata = importers.read(path, **options)
    found = list(workflows)
    counts = metadata.extra["counts"]
    assert isinstance(counts, dict)
    return found, dict(counts)


def _lines(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def _kinds(workflow: Workflow, index: int) -> list[str]:
    return [kind for kind, _ in groupby(workflow.calls[index].segment_kinds or ())]


def line(key: str, agent: str, messages: list[Json], start: float, end: float, **more: Any) -> Json:
    """One line of a request/response log: the planner's answer is PLAN."""
    usage = {"prompt_tokens": 40, "completion_tokens": 12}
    response = {"id": key, "choices": [{"message": PLAN}], "usage": usage}
    request = {"model": "m", "messages": messages, "metadata": {"job": "j1"}}
    times = {"started_at": f"2026-11-25T08:00:{start:06.3f}Z", "ended_at": 1_795_593_600.0 + end}
    return {"workflow_id": "w1", "agent": agent, "request": request, "response": response, **times, **more}


def openai_lines() -> list[Json]:
    """A planner, two workers at a time, and the planner again with both results."""
    told = [SYSTEM, ASK, PLAN, {"role": "tool", "content": "ok", "tool_call_id": "c1"}]
    return [
        line("r1", "planner", [SYSTEM, ASK], 0, 2),
        line("r2", "worker", [ASK], 3, 6),
        line("r3", "worker", [ASK, {"role": "user", "content": "now"}], 3, 7),
        line("r4", "planner", told, 8, 9),
    ]


def test_calls_of_a_request_log_follow_what_had_ended(tmp_path: Path) -> None:
    log = _lines(tmp_path / "log.jsonl", openai_lines())
    assert importers.recognise(log) == "openai"
    (workflow,), counts = _read(log)
    calls = workflow.calls
    assert [list(call.parent_indices) for call in calls] == [[], [0], [0], [1, 2]]
    assert [call.tool_gap_s for call in calls] == pytest.approx([0, 1, 1, 1])
    assert calls[0].output_id in calls[3].segment_ids
    assert calls[0].num_output_tokens == 12
    assert _kinds(workflow, 3) == ["system", "user", "output", "tool"]
    assert counts == {}


def test_the_user_names_the_fields(tmp_path: Path) -> None:
    log = _lines(tmp_path / "log.jsonl", openai_lines())
    (workflow,), counts = _read(log, workflow_field="metadata.job", agent_field="role")
    assert (workflow.workflow_id, workflow.calls[0].agent) == ("j1", "agent")
    assert counts == {"lines that name no agent": 4}


def test_a_bad_request_log_is_counted(tmp_path: Path) -> None:
    good = openai_lines()
    bare = {"messages": [ASK], "model": "another"}
    odd = {**good[0], "request": {"messages": [7, {"role": "x"}]}, "response": {}}
    image = line(
        "r9", "w", [{"role": "user", "content": [{"type": "image_url"}, {"type": "text", "text": "a"}]}], 9, 9
    )
    log = _lines(
        tmp_path / "log.jsonl", [*good, good[0], "nonsense\n", odd, bare, image, '{"messages": [{"ro']
    )
    workflows, counts = _read(log)
    assert [len(workflow.calls) for workflow in workflows] == [5, 1]
    expected = {
        "lines with a known response id left out": 1,
        "unreadable lines left out": 1,
        "messages of unknown role left out": 2,
        "lines without messages left out": 1,
        "cut last line left out": 1,
        "parts without text left out": 1,
        "answers of unknown length taken as 1 token": 1,
        "lines without usage": 1,
    }
    assert {name: counts.get(name) for name in expected} == expected


def _value(value: Any) -> Json:
    return {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}


def span(key: str, parent: str | None, start: float, end: float, **attributes: Any) -> Json:
    """An OTLP span; attribute names with __ for the dots."""
    named = {f"gen_ai.{name.replace('__', '.')}": value for name, value in attributes.items()}
    times = {
        "startTimeUnixNano": str(int((100 + start) * 1e9)),
        "endTimeUnixNano": str(int((100 + end) * 1e9)),
    }
    listed = [{"key": name, "value": _value(value)} for name, value in named.items()]
    return {
        "traceId": "5b8e",
        "spanId": key,
        "parentSpanId": parent or "",
        "name": key,
        **times,
        "attributes": listed,
    }


def export(*spans: Json) -> Json:
    return {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {}, "spans": list(spans)}]}]}


def otel_spans() -> list[Json]:
    def chat(text: str) -> str:
        return json.dumps([{"role": "user", "parts": [{"type": "text", "content": text}]}])

    told = [
        {"role": "user", "parts": [{"type": "text", "content": "Write."}]},
        {
            "role": "assistant",
            "parts": [{"type": "tool_call", "id": "1", "name": "ls", "arguments": {"p": "."}}],
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "1", "response": {"files": 3}}]},
    ]
    said = json.dumps([{**told[1], "finish_reason": "tool_call"}])
    usage = {"operation__name": "chat", "request__model": "m", "usage__output_tokens": 9}
    return [
        span(
            "c1",
            "a1",
            0,
            2,
            input__messages=chat("Write."),
            output__messages=said,
            usage__input_tokens=20,
            **usage,
        ),
        span("t1", "a1", 2, 5, operation__name="execute_tool", tool__name="ls"),
        span("c2", "a1", 5, 6, input__messages=json.dumps(told), usage__input_tokens=40, **usage),
        span("c3", "a2", 7, 8, usage__input_tokens=30, **usage),
        span("a2", "a1", 6, 9, operation__name="invoke_agent", agent__name="critic"),
        span(
            "a1", None, 0, 10, operation__name="invoke_agent", agent__name="writer", conversation__id="conv-1"
        ),
    ]


@pytest.mark.parametrize("form", ["lines", "document"])
def test_spans_take_agent_and_conversation_from_those_around_them(tmp_path: Path, form: str) -> None:
    spans, log = otel_spans(), tmp_path / "spans.json"
    lines = [export(*spans[:3]), export(*spans[3:])]
    log.write_text(
        "\n".join(map(json.dumps, lines)) if form == "lines" else json.dumps(export(*spans), indent=1)
    )
    assert importers.recognise(log) == "otel"
    (workflow,), counts = _read(log)
    assert workflow.workflow_id == "conv-1"
    assert [call.agent for call in workflow.calls] == ["writer", "writer", "critic"]
    assert [list(call.parent_indices) for call in workflow.calls] == [[], [0], [1]]
    assert [call.tool_gap_s for call in workflow.calls] == pytest.approx([0, 3, 1])
    assert workflow.calls[0].output_id in workflow.calls[1].segment_ids
    assert workflow.calls[2].num_prompt_tokens == 30
    assert counts["prompts not recorded: they share nothing"] == 1


def test_bad_spans_are_counted(tmp_path: Path) -> None:
    spans = otel_spans()
    late = {**spans[2], "startTimeUnixNano": "90000000000", "endTimeUnixNano": "91000000000"}
    log = _lines(
        tmp_path / "spans.jsonl",
        [
            export(*spans[:2], late, *spans[3:]),
            export(spans[0], {"name": "x"}),
            "[]\n",
            '{"resourceSpans": [{"',
        ],
    )
    (workflow,), counts = _read(log)
    assert len(workflow.calls) == 3
    assert counts["spans with a known id left out"] == counts["spans without ids left out"] == 1
    assert counts["unreadable lines left out"] == counts["cut last line left out"] == 1


def tau2_results() -> Json:
    def message(role: str, second: int, content: str | None, **more: Any) -> Json:
        return {"role": role, "content": content, "timestamp": f"2026-01-01T00:00:{second:02d}.5", **more}

    usage = {"prompt_tokens": 3000, "completion_tokens": 20}
    call = [{"id": "c1", "name": "find", "arguments": {"id": 7}, "requestor": "assistant"}]
    messages = [
        message("assistant", 0, "Hi! How can I help you today?"),
        message("user", 2, "My flight is late.", usage={"prompt_tokens": 500, "completion_tokens": 8}),
        message("assistant", 4, None, tool_calls=call, usage=usage),
        message("tool", 5, "late by 3 h", id="c1", requestor="assistant"),
        message("assistant", 8, "It is 3 h late.", usage={"prompt_tokens": 3100, "completion_tokens": 9}),
        message("user", 9, "###STOP###", usage={"prompt_tokens": 560, "completion_tokens": 5}),
    ]
    info = {
        "num_trials": 1,
        "agent_info": {"implementation": "llm_agent", "llm": "gpt"},
        "user_info": {"implementation": "user", "llm": "gpt", "global_simulation_guidelines": "Be a user."},
        "environment_info": {"domain_name": "airline", "policy": "Help. " * 20},
    }
    one = {"id": "s1", "task_id": "0", "start_time": "2026-01-01T00:00:00", "messages": messages, "trial": 0}
    tasks = [{"id": "0", "user_scenario": {"instructions": "complain"}}]
    return {"timestamp": "2026", "info": info, "tasks": tasks, "simulations": [one, {**one, "id": "s2"}]}


def test_agent_and_user_of_a_simulation_are_both_callers(tmp_path: Path) -> None:
    log = tmp_path / "results.json"
    log.write_text(json.dumps(tau2_results(), indent=2))
    assert importers.recognise(log) == importers.recognise(tmp_path) == "tau2"
    (one, two), counts = _read(log)
    assert [call.agent for call in one.calls] == ["user", "agent", "agent", "user"]
    assert [list(call.parent_indices) for call in one.calls] == [[], [0], [1], [2]]
    assert one.calls[1].num_prompt_tokens == 3000
    assert _kinds(one, 2) == ["tools", "system", "output", "user", "output", "tool"]
    assert _kinds(one, 3) == ["tools", "system", "user", "output", "user"]
    assert one.calls[1].output_id in one.calls[2].segment_ids
    assert two.calls[2].segment_ids == one.calls[2].segment_ids
    assert counts["stand-ins for tool schemas"] == 2


@pytest.mark.parametrize(
    "cut", ["", "}}", '{"info": {"num_trials": 1}, "simulations": [3, {"messages": "x"}]}']
)
def test_a_bad_results_file_is_one_clear_error(tmp_path: Path, cut: str) -> None:
    log = tmp_path / "results.json"
    log.write_text(cut or json.dumps(tau2_results())[:-40])
    with pytest.raises(TraceError, match=r"results\.json"):
        importers.read(log, format_name="tau2")


def test_options_are_refused_where_they_mean_nothing(tmp_path: Path) -> None:
    log = tmp_path / "results.json"
    log.write_text(json.dumps(tau2_results()))
    for option in ({"workflow_field": "a"}, {"block_size": 16}, {"tokenizer": "/no/such.json"}):
        with pytest.raises(ConfigError):
            importers.read(log, **option)
    with pytest.raises(TraceError, match="folder"):
        importers.read(tmp_path, format_name="openai")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TraceError, match="folder without known logs"):
        importers.read(tmp_path / "empty")


def test_no_value_of_a_line_is_a_traceback(tmp_path: Path) -> None:
    deep: Any = "x"
    for _ in range(300):
        deep = [{"type": "tool_result", "content": deep}]
    odd: list[Any] = [None, 7, 1e308, 10**400, -1, "x", "\ud800", [], {}, [[]], True, deep]
    names = ("workflow_id", "agent", "request", "response", "started_at", "ended_at")
    lines = [{**openai_lines()[0], "response": {"id": None}, name: value} for name in names for value in odd]
    contents = [
        {**openai_lines()[0], "response": {}, "request": {"messages": [{**ASK, "content": v}]}} for v in odd
    ]
    log = _lines(tmp_path / "log.jsonl", [*openai_lines(), *lines, *contents])
    workflows, _ = _read(log, format_name="openai")
    assert sum(len(workflow.calls) for workflow in workflows) > len(odd)
