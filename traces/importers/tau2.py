"""tau2-bench results: one JSON document with ``info``, ``tasks`` and ``simulations``, or a folder of that.

A simulation is a workflow. Agent and simulated user are both models: each message of one that has a usage
(or a generation time) is a call, whose prompt is what its side has seen: the agent's policy or the user's
scenario, then the conversation with only its own tool calls. Tool schemas are not in the file: a segment of
the length that the first usage leaves over stands in for them, the same one for a role in the whole file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pbkv.traces.importers.calls import Log, LoggedCall
from pbkv.traces.importers.chat import Prompts, Said, said, usage_of
from pbkv.traces.importers.json_stream import ITEM, values_at
from pbkv.traces.importers.loose import document, dumped, field, items, mapping, name, opened, seconds, text
from pbkv.traces.importers.text import Tokens
from pbkv.traces.schema import TraceMetadata, Workflow

NAME = "tau2"
_AGENTS = {"assistant": "agent", "user": "user"}
_HEAD_BYTES = 1 << 16
_SIMULATION = f"simulations.{ITEM}"


def recognises_file(path: Path) -> bool:
    with opened(path) as file:
        head = file.read(_HEAD_BYTES).decode("utf-8", "replace")
    return (
        head.lstrip()[:1] == "{" and '"info"' in head and ('"num_trials"' in head or '"simulations"' in head)
    )


def recognises_folder(path: Path) -> bool:
    return (path / "results.json").is_file()


def read(path: Path, tokens: Tokens, *, keeps_text: bool = False) -> tuple[Iterator[Workflow], TraceMetadata]:
    """The simulations of a results file (or folder). Memory: a simulation, and some 200 bytes a message."""
    file = path / "results.json" if path.is_dir() else path
    log = Log(path, NAME, tokens, keeps_text=keeps_text)
    reader = _Reader(log, *_head(file))
    for simulation in _simulations(file):
        reader.take(mapping(simulation))
    return log.imported()


def _head(file: Path) -> tuple[dict[str, Any], list[Any]]:
    """``info`` and ``tasks``, which are written before the simulations."""
    found: dict[str, Any] = {}
    for place, value in values_at(file, "info", "tasks", _SIMULATION):
        if place != _SIMULATION:
            found[place] = value
        if len(found) == 2:
            break
    return mapping(found.get("info")), items(found.get("tasks"))


def _simulations(file: Path) -> Iterator[Any]:
    """Those of the document, one by one; where it has none, those of the folder beside it."""
    found = False
    for _, simulation in values_at(file, _SIMULATION):
        found = True
        yield simulation
    for beside in sorted((file.parent / "simulations").glob("*.json")) if not found else ():
        yield document(beside)


class _Reader:
    def __init__(self, log: Log, info: dict[str, Any], tasks: list[Any]) -> None:
        self._log, self._prompts, self._info = log, Prompts(log), info
        self._scenarios = {str(task.get("id")): task.get("user_scenario") for task in map(mapping, tasks)}
        self._hidden: dict[str, int] = {}

    def take(self, simulation: dict[str, Any]) -> None:
        counts = self._log.counts
        messages = [mapping(message) for message in items(simulation.get("messages"))]
        key = name(simulation.get("id")) or f"simulation-{len(self._log.sessions):06d}"
        if key in self._log.sessions:
            counts["simulations with a known id left out"] += 1
            return
        if not messages:
            counts["simulations without messages left out"] += 1
            return
        before: LoggedCall | None = None
        for index, message in enumerate(messages):
            call = self._call(key, simulation, messages, index) if _is_call(message) else None
            if call is None:
                continue
            call.parents = (before,) if before else ()
            self._log.add(key, call)
            before = call

    def _call(
        self, key: str, simulation: dict[str, Any], messages: list[dict[str, Any]], index: int
    ) -> LoggedCall | None:
        message, role = messages[index], str(messages[index].get("role"))
        seen = [found for other in messages[:index] if (found := self._seen(other, role))]
        num_prompt, num_answer = usage_of(message.get("usage"))
        prompt = self._prompt(key, simulation, role, seen, num_prompt)
        self._log.num_logged_prompt_tokens += num_prompt or 0
        if num_prompt is None:
            self._log.counts["calls without usage"] += 1
        own = said({**message, "role": "assistant"}, self._log.counts)
        node, num_tokens = self._prompts.answer(key, prompt, own.text if own else "", num_answer)
        started_s, ended_s = _times(message, messages[index - 1] if index else simulation)
        if ended_s is None:
            self._log.counts["messages without a time"] += 1
        return LoggedCall(_AGENTS[role], prompt, num_tokens, node, started_s=started_s, ended_s=ended_s)

    def _seen(self, message: dict[str, Any], role: str) -> Said | None:
        """A message as the side of ``role`` sees it: its own words are answers, the other's a user's."""
        speaker = message.get("role")
        if speaker == "tool":
            if message.get("requestor", "assistant") != role:
                return None
            return said(message, self._log.counts)
        if speaker == role:
            return said({**message, "role": "assistant"}, self._log.counts)
        words = text(message.get("content"))
        return Said("user", words) if words else None

    def _prompt(
        self, key: str, simulation: dict[str, Any], role: str, seen: list[Said], num_prompt: int | None
    ) -> int:
        tree = self._log.tree
        first = self._first(simulation, role)
        model = name(field(self._info, f"{'agent' if role == 'assistant' else 'user'}_info.llm")) or "unknown"
        if role not in self._hidden:
            known = [*([Said("system", first)] if first else []), *seen]
            num_known = sum(tree.message(kind, words).num_tokens for kind, words in known)
            self._hidden[role] = max((num_prompt or 0) - num_known, 0)
            if self._hidden[role]:
                self._log.counts["stand-ins for tool schemas"] += 1
        prompt = tree.root(model)
        if self._hidden[role]:
            prompt = tree.add(prompt, tree.stand_in("tools", self._hidden[role], f"tools of {role}"))
        elif not first and not seen:
            prompt = tree.add(prompt, tree.stand_in("context", max(num_prompt or 1, 1)))
        return self._prompts.behind(key, prompt, [*([Said("system", first)] if first else []), *seen])

    def _first(self, simulation: dict[str, Any], role: str) -> str:
        """What stands above the conversation: policy, or guidelines and the task's scenario."""
        if role == "assistant":
            policy = simulation.get("policy") or field(self._info, "environment_info.policy")
            return text(policy) or ""
        scenario = self._scenarios.get(str(simulation.get("task_id")))
        parts = (field(self._info, "user_info.global_simulation_guidelines"), scenario)
        return "\n".join(dumped(part) for part in parts if part)


def _is_call(message: dict[str, Any]) -> bool:
    is_model = message.get("role") in _AGENTS
    return is_model and (bool(message.get("usage")) or message.get("generation_time_seconds") is not None)


def _times(message: dict[str, Any], before: dict[str, Any]) -> tuple[float | None, float | None]:
    """A message is stamped when it is whole; it began a logged time, or one message, before that."""
    ended_s, lasted_s = seconds(message.get("timestamp")), seconds(message.get("generation_time_seconds"))
    if ended_s is not None and lasted_s is not None:
        return ended_s - lasted_s, ended_s
    return seconds(before.get("timestamp", before.get("start_time"))), ended_s
