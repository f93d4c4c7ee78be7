"""One Claude Code session: records in, calls with prompts, parents and joins out."""

from __future__ import annotations

from dataclasses import dataclass, field
from sys import intern
from typing import Any, NamedTuple

from pbkv.traces.importers.calls import Log, LoggedCall
from pbkv.traces.importers.chat import usage_of, written
from pbkv.traces.importers.key_table import key_of
from pbkv.traces.importers.loose import items, mapping, name, seconds
from pbkv.traces.importers.prompts import Message

_MAIN = "main"
_SYNTHETIC = "<synthetic>"
_SILENT = ("summary", "system", "progress", "queue-operation", "file-history-snapshot")


@dataclass(slots=True, eq=False)
class _Thread:
    """The main conversation or one sub-agent."""

    agent_id: str
    calls: list[LoggedCall] = field(default_factory=list)
    bases: dict[str, int] = field(default_factory=dict)  # by model: the node of the stand-in
    tool_use: str | None = None
    asked: str | None = None


@dataclass(slots=True, eq=False)
class _Answer:
    """A response as it grows; ``call`` is None where the log only repeats it (a resumed session)."""

    thread: _Thread
    model: str
    prompt: int
    call: LoggedCall | None
    num_tokens: int | None = None
    texts: tuple[str, ...] = ()
    uses: tuple[_Use, ...] = ()
    results_s: float | None = None
    node: int | None = None


class _Point(NamedTuple):
    """Where a record stands: behind an answer, or at the beginning, with messages not yet in a prompt."""

    thread: _Thread
    answer: _Answer | None = None
    tail: tuple[Message, ...] = ()
    at_s: float | None = None


@dataclass(slots=True, eq=False)
class _Use:
    """A tool call: who made it, and as which sub-agent, if it started one; and its result."""

    key: str
    answer: _Answer
    agent: str | None
    asked: str | None
    result: Message | None = None


class Session:
    """Takes the records of one session in file order, the main file first, then ``close``."""

    def __init__(self, log: Log, session_id: str, seen: set[int]) -> None:
        self._log, self._id, self._seen = log, session_id, seen
        self._points: dict[int, _Point] = {}  # by keys of ids, as answers: half as large as the ids
        self._answers: dict[int, _Answer] = {}
        self._threads: dict[str, _Thread] = {}
        self._uses: dict[str, _Use] = {}
        self._started: dict[str, str] = {}  # tool use by agent id
        self._joins: list[tuple[LoggedCall, _Answer]] = []

    def take(self, record: dict[str, Any]) -> None:
        kind, uuid, counts = record.get("type"), _key(record.get("uuid")), self._log.counts
        if uuid in self._points:
            counts["records with a known uuid left out"] += 1
            return
        if kind not in ("user", "assistant"):
            self._pass(record)
            return
        if uuid is None or not isinstance(record.get("message"), dict):
            counts["records without uuid or message left out"] += 1
            return
        point = self._before(record)
        is_user = kind == "user"
        self._points[uuid] = self._user(record, point) if is_user else self._assistant(record, point)

    def close(self, uses: dict[str, str]) -> None:
        """Finish answers, and tie sub-agents to the calls that started them and waited for them."""
        for answer in self._answers.values():
            self._finish(answer)
        for thread in self._threads.values():
            self._tie(thread, uses)
        by_use = {thread.tool_use: thread for thread in self._threads.values() if thread.tool_use}
        for call, answer in self._joins:
            for use in answer.uses:
                if use.result is not None and use.answer is answer and use.key in by_use:
                    self._join(call, by_use[use.key])
        for thread in self._threads.values():
            for call in thread.calls:
                self._log.add(self._id, call)

    def _pass(self, record: dict[str, Any]) -> None:
        """A record that says nothing to the model, but may stand in the chain of those that do."""
        kind, uuid = record.get("type"), _key(record.get("uuid"))
        if record.get("subtype") == "compact_boundary":
            self._log.counts["compactions (the call that summed up is not in the log)"] += 1
        elif kind not in _SILENT:
            self._log.counts[f"records of type {name(kind) or 'unknown'} left out"] += 1
        if uuid is not None:
            self._points[uuid] = self._before(record)

    def _before(self, record: dict[str, Any]) -> _Point:
        parent = _key(record.get("parentUuid"))
        if parent is not None and parent in self._points:
            return self._points[parent]
        if parent is not None:
            self._log.counts["records whose parent is not in the log"] += 1
        return _Point(self._thread(record))

    def _thread(self, record: dict[str, Any]) -> _Thread:
        agent_id = name(record.get("agentId"))
        if agent_id is None:
            agent_id = str(record.get("uuid")) if record.get("isSidechain") is True else _MAIN
        return self._threads.setdefault(agent_id, _Thread(agent_id))

    def _user(self, record: dict[str, Any], point: _Point) -> _Point:
        content = record["message"].get("content")
        at_s = self._time(record)
        blocks = items(content) if isinstance(content, list) else [content]
        results = [block for block in blocks if mapping(block).get("type") == "tool_result"]
        for block in results:
            self._result(record, block, at_s)
        said = written([block for block in blocks if block not in results], self._log.counts)
        if not said:
            return point
        if point.answer is None and not point.tail and point.thread.asked is None:
            point.thread.asked = said
        message = self._log.tree.message("user", said)
        return point._replace(tail=(*point.tail, message), at_s=_later(point.at_s, at_s))

    def _result(self, record: dict[str, Any], block: dict[str, Any], at_s: float | None) -> None:
        use = self._uses.get(str(block.get("tool_use_id")))
        if use is None:
            self._log.counts["tool results without a tool call left out"] += 1
            return
        use.result = self._log.tree.message("tool", written(block.get("content"), self._log.counts))
        use.answer.results_s = _later(use.answer.results_s, at_s)
        agent_id = name(mapping(record.get("toolUseResult")).get("agentId"))
        if agent_id:
            self._started.setdefault(agent_id, use.key)

    def _assistant(self, record: dict[str, Any], point: _Point) -> _Point:
        message = record["message"]
        if message.get("model") == _SYNTHETIC:
            self._log.counts["messages of the client itself left out"] += 1
            return point
        key = _key(message.get("id") or None)
        if key is None:
            self._log.counts["responses without an id"] += 1
            key = key_of(str(record["uuid"]).encode("utf-8", "replace"))
        answer = self._answers.get(key)
        if answer is None:
            answer = self._answers[key] = self._answer(key, message, point)
        self._grow(answer, message, self._time(record))
        return _Point(answer.thread, answer)

    def _answer(self, key: int, message: dict[str, Any], point: _Point) -> _Answer:
        model = intern(name(message.get("model")) or "unknown")
        before, started_s = self._behind(point)
        logged, _ = usage_of(message.get("usage"))
        base = self._base(point.thread, model, logged, before)
        prompt = self._prompt(point, base, before)
        if key in self._seen:
            self._log.counts["responses repeated from another session"] += 1
            return _Answer(point.thread, model, prompt, None)
        self._seen.add(key)
        self._log.num_logged_prompt_tokens += logged or 0
        if logged is None:
            self._log.counts["responses without usage"] += 1
        call = LoggedCall(_MAIN, prompt, 1, started_s=started_s)
        previous = point.answer.call if point.answer else None
        if previous is None and point.thread.calls:
            previous = point.thread.calls[-1]
        call.parents = (previous,) if previous else ()
        point.thread.calls.append(call)
        if point.answer is not None:
            self._joins.append((call, point.answer))
        return _Answer(point.thread, model, prompt, call)

    def _behind(self, point: _Point) -> tuple[list[Message], float | None]:
        """The messages between the answer before and this one, and when the last of them came."""
        answer = point.answer
        if answer is None:
            return list(point.tail), point.at_s
        results = [use.result for use in answer.uses if use.result is not None and use.answer is answer]
        missing = len(answer.uses) - len(results)
        if missing:
            self._log.counts["tool calls without a result"] += missing
        return [*results, *point.tail], _later(answer.results_s, point.at_s)

    def _base(self, thread: _Thread, model: str, logged: int | None, before: list[Message]) -> int:
        """Where the thread's prompts begin: a stand-in for what the log leaves out, by the first usage."""
        if model not in thread.bases:
            tree = self._log.tree
            root = tree.root(model)
            num_hidden = 0 if logged is None else logged - sum(message.num_tokens for message in before)
            if num_hidden > 0:
                self._log.counts["stand-ins for system prompt and tools"] += 1
                root = tree.add(root, tree.stand_in("system", num_hidden))
            thread.bases[model] = root
        return thread.bases[model]

    def _prompt(self, point: _Point, base: int, before: list[Message]) -> int:
        tree, node = self._log.tree, base
        if point.answer is not None:
            node = self._finish(point.answer)
        for message in before:
            node = tree.add(node, message)
        return node

    def _grow(self, answer: _Answer, message: dict[str, Any], at_s: float | None) -> None:
        blocks = items(message.get("content"))
        if answer.node is None:
            answer.texts = (*answer.texts, written(message.get("content"), self._log.counts))
        else:
            self._log.counts["parts of answers that came too late"] += 1
        _, num_tokens = usage_of(message.get("usage"))
        answer.num_tokens = max(filter(None, (answer.num_tokens, num_tokens)), default=None)
        for block in blocks:
            fields = mapping(block)
            key = name(fields.get("id"))
            if fields.get("type") == "tool_use" and key:
                given = mapping(fields.get("input"))
                agent = name(given.get("subagent_type"))
                use = self._uses.setdefault(key, _Use(key, answer, agent, name(given.get("prompt"))))
                answer.uses = (*answer.uses, use)
        if answer.call is not None:
            answer.call.ended_s = _later(answer.call.ended_s, at_s)

    def _finish(self, answer: _Answer) -> int:
        """The node of a whole answer. Its length is the logged one, or the tokenizer's."""
        if answer.node is None:
            tree = self._log.tree
            logged = answer.num_tokens if tree.tokens.is_estimate else None
            message = tree.message("output", "\n".join(filter(None, answer.texts)), logged)
            answer.texts = ()
            answer.node = tree.add(answer.prompt, message)
            if answer.call is not None:
                answer.call.answer, answer.call.num_output_tokens = answer.node, message.num_tokens
        return answer.node

    def _tie(self, thread: _Thread, uses: dict[str, str]) -> None:
        if thread.agent_id == _MAIN:
            return
        thread.tool_use = (
            uses.get(thread.agent_id) or self._started.get(thread.agent_id) or self._asked(thread)
        )
        use = self._uses.get(thread.tool_use or "")
        agent = (use.agent if use else None) or "sub-agent"
        for call in thread.calls:
            call.agent = agent
        if use is None:
            self._log.counts["sub-agents of unknown origin"] += 1
        elif thread.calls and use.answer.call is not None:
            thread.calls[0].parents = (use.answer.call,)

    def _asked(self, thread: _Thread) -> str | None:
        """The tool call that put this thread's first words, and started no other thread."""
        taken = {other.tool_use for other in self._threads.values()} | set(self._started.values())
        found = (key for key, use in self._uses.items() if use.asked and use.asked == thread.asked)
        return next((key for key in found if key not in taken), None)

    def _join(self, call: LoggedCall, thread: _Thread) -> None:
        """``call`` has the result of ``thread``: it waited for its last call, if that had ended."""
        for last in reversed(thread.calls):
            times = (last.ended_s, call.started_s)
            if times[0] is None or times[1] is None or times[0] <= times[1] + 1e-3:
                if last is not call and last not in call.parents:
                    call.parents = (*call.parents, last)
                return
        self._log.counts["sub-agents that nobody waited for"] += 1

    def _time(self, record: dict[str, Any]) -> float | None:
        at_s = seconds(record.get("timestamp"))
        if at_s is None:
            self._log.counts["records without a time"] += 1
        return at_s


def _key(value: Any) -> int | None:
    """A short stand-in for an id; None for what is no text."""
    return key_of(value.encode("utf-8", "surrogatepass")) if isinstance(value, str) else None


def _later(one: float | None, other: float | None) -> float | None:
    return max(filter(None, (one, other)), default=None)
