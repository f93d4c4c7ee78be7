"""OpenTelemetry spans of model calls: OTLP JSON, one document or one export a line (the file exporter's).

After the semantic conventions for generative AI: a span with a prompt's token count, or of an inference
operation, is a call; ``gen_ai.conversation.id`` (else the trace id) is its workflow, ``gen_ai.agent.name``
of the span or of the nearest span around it its agent. Prompts are only known where content was recorded
(``gen_ai.system_instructions``, ``gen_ai.tool.definitions``, ``gen_ai.input.messages``, on the span or an
event of it); a prompt that was not recorded shares nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pbkv.traces.importers.calls import Log, LoggedCall, link_by_time
from pbkv.traces.importers.chat import Prompts, Said, said, written
from pbkv.traces.importers.json_stream import ITEM, values_at
from pbkv.traces.importers.loose import (
    DAMAGE,
    count,
    dumped,
    items,
    mapping,
    name,
    opened,
    parsed,
    records,
)
from pbkv.traces.importers.text import Tokens
from pbkv.traces.schema import TraceMetadata, Workflow

NAME = "otel"
_HEAD_BYTES = 4096
_HEAD_LINES, _LINE_BYTES = 20, 1 << 22
_NESTS = (("resourceSpans", "scopeSpans"), ("resource_spans", "scope_spans"))
_CALLS = ("chat", "text_completion", "generate_content")
_NO_CALLS = (
    "invoke_agent",
    "create_agent",
    "execute_tool",
    "embeddings",
    "invoke_workflow",
    "retrieval",
    "plan",
)
_INPUTS = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens")
_OUTPUTS = ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens")


@dataclass(slots=True)
class _Around:
    """What calls inside a span take from it."""

    parent: str | None
    agent: str | None
    conversation: str | None


@dataclass(slots=True)
class _Found:
    """A call, its workflow and its span, until all spans around it are known."""

    call: LoggedCall
    span_id: str
    trace_id: str


def recognises_file(path: Path) -> bool:
    with opened(path) as file:
        try:
            head = file.read(_HEAD_BYTES)
        except DAMAGE:
            return False
    return b'"resourceSpans"' in head or b'"resource_spans"' in head


def read(path: Path, tokens: Tokens, *, keeps_text: bool = False) -> tuple[Iterator[Workflow], TraceMetadata]:
    """The calls of a file, in workflows. Memory: a few hundred bytes a span and a message, and one line."""
    log = Log(path, NAME, tokens, keeps_text=keeps_text)
    reader = _Reader(log)
    for span in _all_spans(path, log):
        reader.take(span)
    reader.close()
    for calls in log.sessions.values():
        link_by_time(calls)
    return log.imported()


class _Reader:
    def __init__(self, log: Log) -> None:
        self._log, self._prompts = log, Prompts(log)
        self._around: dict[str, _Around] = {}
        self._found: list[_Found] = []

    def take(self, span: dict[str, Any]) -> None:
        span_id, counts = name(span.get("spanId", span.get("span_id"))), self._log.counts
        trace_id = name(span.get("traceId", span.get("trace_id")))
        if span_id is None or trace_id is None:
            counts["spans without ids left out"] += 1
            return
        if span_id in self._around:
            counts["spans with a known id left out"] += 1
            return
        values = _attributes(span)
        parent = name(span.get("parentSpanId", span.get("parent_span_id")))
        conversation = name(values.get("gen_ai.conversation.id"))
        self._around[span_id] = _Around(parent, name(values.get("gen_ai.agent.name")), conversation)
        if _is_call(values):
            self._found.append(_Found(self._call(span, values, trace_id), span_id, trace_id))

    def close(self) -> None:
        for found in self._found:
            agent, conversation = self._look_around(found.span_id)
            if agent is None:
                self._log.counts["calls that name no agent"] += 1
            found.call.agent = agent or "agent"
            self._log.add(conversation or found.trace_id, found.call)

    def _look_around(self, span_id: str) -> tuple[str | None, str | None]:
        agent = conversation = None
        passed: set[str] = set()
        where: str | None = span_id
        while where in self._around and where not in passed:
            passed.add(where)
            around = self._around[where]
            agent, conversation = agent or around.agent, conversation or around.conversation
            where = around.parent
        return agent, conversation

    def _call(self, span: dict[str, Any], values: dict[str, Any], trace_id: str) -> LoggedCall:
        num_prompt, num_answer = _first(values, _INPUTS), _first(values, _OUTPUTS)
        model = (
            name(values.get("gen_ai.response.model")) or name(values.get("gen_ai.request.model")) or "unknown"
        )
        self._log.num_logged_prompt_tokens += num_prompt or 0
        if num_prompt is None:
            self._log.counts["calls without usage"] += 1
        workflow_id = name(values.get("gen_ai.conversation.id")) or trace_id
        prompt = self._prompt(workflow_id, model, values, num_prompt)
        answer = "\n".join(self._texts(values.get("gen_ai.output.messages")))
        node, num_tokens = self._prompts.answer(workflow_id, prompt, answer, num_answer)
        started_s, ended_s = (_nanoseconds(span, key) for key in ("start", "end"))
        return LoggedCall("", prompt, num_tokens, node, started_s=started_s, ended_s=ended_s)

    def _prompt(self, workflow_id: str, model: str, values: dict[str, Any], num_prompt: int | None) -> int:
        counts, tree = self._log.counts, self._log.tree
        parts = []
        if values.get("gen_ai.tool.definitions"):
            parts.append(Said("tools", dumped(values["gen_ai.tool.definitions"])))
        system = written(_decoded(values.get("gen_ai.system_instructions")), counts)
        if system:
            parts.append(Said("system", system))
        messages = items(_decoded(values.get("gen_ai.input.messages")))
        parts += [found for message in messages if (found := said(message, counts))]
        if parts:
            return self._prompts.prompt(workflow_id, model, parts)
        counts["prompts not recorded: they share nothing"] += 1
        return tree.add(tree.root(model), tree.stand_in("context", max(num_prompt or 1, 1)))

    def _texts(self, messages: Any) -> Iterable[str]:
        for message in items(_decoded(messages)):
            found = said({"role": "assistant", **mapping(message)}, self._log.counts)
            if found:
                yield found.text


def _all_spans(path: Path, log: Log) -> Iterator[dict[str, Any]]:
    """The spans of a file of exports, one a line, or of one document, whose spans are read one by one."""
    if _is_lines(path):
        for export in records(path, log.counts):
            yield from _spans(export)
        return
    places = (".".join((outer, ITEM, inner, ITEM, "spans", ITEM)) for outer, inner in _NESTS)
    both = [place for found in places for place in (found, f"{ITEM}.{found}")]
    for _, span in values_at(path, *both):
        yield mapping(span)


def _is_lines(path: Path) -> bool:
    """Whether one of the first lines is an export by itself, and not an element of an array of them."""
    with opened(path) as file:
        try:
            heads = [file.readline(_LINE_BYTES) for _ in range(_HEAD_LINES)]
        except DAMAGE:
            return True
    known = [line for line in heads if line.strip()]
    if known and known[0].lstrip()[:1] == b"[":
        return False
    exports = (mapping(parsed(line)) for line in known)
    return any(outer in export for export in exports for outer, _ in _NESTS)


def _spans(export: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for outer, inner in _NESTS:
        for resource in items(export.get(outer)):
            for scope in items(mapping(resource).get(inner)):
                yield from map(mapping, items(mapping(scope).get("spans")))


def _attributes(span: dict[str, Any]) -> dict[str, Any]:
    """Attributes of a span and of its events (content may be on either)."""
    found: dict[str, Any] = {}
    for holder in (*items(span.get("events")), span):
        for entry in items(mapping(holder).get("attributes")):
            fields = mapping(entry)
            if isinstance(fields.get("key"), str):
                found[fields["key"]] = _value(fields.get("value"))
    return found


def _value(value: Any) -> Any:
    """An OTLP AnyValue as plain JSON."""
    fields = mapping(value)
    if "arrayValue" in fields:
        return [_value(item) for item in items(mapping(fields["arrayValue"]).get("values"))]
    if "kvlistValue" in fields:
        entries = map(mapping, items(mapping(fields["kvlistValue"]).get("values")))
        return {str(entry.get("key")): _value(entry.get("value")) for entry in entries}
    return next(iter(fields.values()), None)


def _decoded(value: Any) -> Any:
    """Content is recorded as a structure, or as JSON in a text."""
    if isinstance(value, str):
        found = parsed(value)
        return value if found is None else found
    return value


def _is_call(values: dict[str, Any]) -> bool:
    operation = values.get("gen_ai.operation.name")
    if operation in _CALLS:
        return True
    return operation not in _NO_CALLS and _first(values, _INPUTS) is not None


def _first(values: dict[str, Any], names: Iterable[str]) -> int | None:
    return next((found for key in names if (found := count(values.get(key))) is not None), None)


def _nanoseconds(span: dict[str, Any], which: str) -> float | None:
    value = span.get(f"{which}TimeUnixNano", span.get(f"{which}_time_unix_nano"))
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    return value * 1e-9 if type(value) is int and 0 < value < 2**64 else None
