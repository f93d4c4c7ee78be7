"""Request/response logs: one JSON object a line, as the chat completions interface has them.

The request's fields (``messages``, ``tools``, ``model``) and the response's (``choices``, ``usage``) lie at
the top of the line or in ``request`` and ``response``. Workflow and agent are told by the fields that the
user names, else by the first of the usual ones; a line that names no workflow is a workflow of its own.
A call follows the calls of its workflow that had ended when it started.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pbkv.traces.importers.calls import Log, LoggedCall, link_by_time
from pbkv.traces.importers.chat import Prompts, Said, said, usage_of, written
from pbkv.traces.importers.loose import dumped, field, items, mapping, name, parsed, records, seconds
from pbkv.traces.importers.text import Tokens
from pbkv.traces.schema import TraceMetadata, Workflow

NAME = "openai"
WORKFLOW_FIELDS = (
    "workflow_id",
    "session_id",
    "conversation_id",
    "trace_id",
    "metadata.workflow_id",
    "metadata.session_id",
)
AGENT_FIELDS = ("agent", "agent_name", "metadata.agent", "metadata.agent_name")
_STARTS = ("started_at", "start_time", "request_time", "timestamp")
_ENDS = ("ended_at", "end_time", "response_time")
_LASTS = ("duration_s", "latency_s")


def recognises(line: str) -> bool:
    return isinstance(_request(mapping(parsed(line))).get("messages"), list)


def read(
    path: Path,
    tokens: Tokens,
    *,
    keeps_text: bool = False,
    workflow_field: str | None = None,
    agent_field: str | None = None,
) -> tuple[Iterator[Workflow], TraceMetadata]:
    """The calls of a file, in workflows. Memory: a few hundred bytes a message that no line had before."""
    log = Log(path, NAME, tokens, keeps_text=keeps_text)
    reader = _Reader(log, _fields(workflow_field, WORKFLOW_FIELDS), _fields(agent_field, AGENT_FIELDS))
    for values in records(path, log.counts):
        reader.take(values)
    for calls in log.sessions.values():
        link_by_time(calls)
    return log.imported()


class _Reader:
    def __init__(self, log: Log, workflow_fields: Sequence[str], agent_fields: Sequence[str]) -> None:
        self._log, self._prompts = log, Prompts(log)
        self._workflow_fields, self._agent_fields = workflow_fields, agent_fields
        self._seen: set[str] = set()
        self._num_lines = 0

    def take(self, values: dict[str, Any]) -> None:
        request, response, counts = _request(values), _response(values), self._log.counts
        self._num_lines += 1
        messages = request.get("messages")
        if not isinstance(messages, list) or not messages:
            counts["lines without messages left out"] += 1
            return
        key = name(response.get("id"))
        if key in self._seen:
            counts["lines with a known response id left out"] += 1
            return
        if key is not None:
            self._seen.add(key)
        self._call(values, request, response, messages)

    def _call(
        self, values: dict[str, Any], request: dict[str, Any], response: dict[str, Any], messages: list[Any]
    ) -> None:
        counts = self._log.counts
        workflow_id = self._named(values, self._workflow_fields, "workflow") or f"line-{self._num_lines:06d}"
        agent = self._named(values, self._agent_fields, "agent") or "agent"
        model = name(request.get("model")) or "unknown"
        parts = [found for message in messages if (found := said(message, counts))]
        if request.get("tools"):
            parts.insert(0, Said("tools", dumped(request["tools"])))
        if not parts:
            counts["lines without messages left out"] += 1
            return
        prompt = self._prompts.prompt(workflow_id, model, parts)
        num_prompt, num_answer = usage_of(response.get("usage", values.get("usage")))
        self._log.num_logged_prompt_tokens += num_prompt or 0
        node, num_tokens = self._prompts.answer(workflow_id, prompt, self._answer(response), num_answer)
        started_s, ended_s = _times(values, response)
        if num_prompt is None:
            counts["lines without usage"] += 1
        if started_s is None:
            counts["lines without times"] += 1
        call = LoggedCall(agent, prompt, num_tokens, node, started_s=started_s, ended_s=ended_s)
        self._log.add(workflow_id, call)

    def _named(self, values: dict[str, Any], fields: Sequence[str], what: str) -> str | None:
        for dotted in fields:
            for place in (values, mapping(values.get("request"))):
                value = field(place, dotted)
                found = name(str(value)) if type(value) is int else name(value)
                if found:
                    return found
        self._log.counts[f"lines that name no {what}"] += 1
        return None

    def _answer(self, response: dict[str, Any]) -> str:
        for choice in items(response.get("choices"))[:1]:
            message = mapping(choice).get("message")
            found = said({"role": "assistant", **mapping(message)}, self._log.counts)
            return found.text if found else ""
        return written(response.get("content"), self._log.counts)


def _fields(named: str | None, usual: Sequence[str]) -> Sequence[str]:
    return usual if named is None else (named,)


def _request(values: dict[str, Any]) -> dict[str, Any]:
    request = values.get("request")
    request = mapping(request).get("body", request)
    return mapping(request) if isinstance(request, dict) else values


def _response(values: dict[str, Any]) -> dict[str, Any]:
    response = values.get("response")
    response = mapping(response).get("body", response)
    return (
        mapping(response)
        if isinstance(response, dict)
        else {key: values[key] for key in ("choices", "usage", "id") if key in values}
    )


def _times(values: dict[str, Any], response: dict[str, Any]) -> tuple[float | None, float | None]:
    """Start and end; where only the answer's own ``created`` is logged, that is the start."""
    started_s = _first(values, _STARTS)
    if started_s is None:
        started_s = seconds(response.get("created"))
    ended_s, lasted_s = _first(values, _ENDS), _first(values, _LASTS)
    if ended_s is None and started_s is not None and lasted_s is not None:
        ended_s = started_s + lasted_s
    return started_s, ended_s


def _first(values: dict[str, Any], names: Sequence[str]) -> float | None:
    return next((found for key in names if (found := seconds(values.get(key))) is not None), None)
