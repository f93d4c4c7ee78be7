"""Messages as chat interfaces write them, and prompts made of them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from pbkv.traces.importers.calls import Log
from pbkv.traces.importers.loose import count, dumped, items, mapping

_KINDS = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "output",
    "model": "output",
    "ai": "output",
    "tool": "tool",
    "function": "tool",
}
_TEXTS = ("text", "content", "thinking", "refusal", "response", "result")


class Said(NamedTuple):
    """A message before it is tokenised."""

    kind: str
    text: str


class Prompts:
    """Adds prompts to a log's tree. It remembers answers: one that comes back keeps its logged length."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._answers: dict[tuple[str, bytes], int] = {}

    def prompt(self, workflow_id: str, model: str, said: Iterable[Said]) -> int:
        return self.behind(workflow_id, self._log.tree.root(model), said)

    def behind(self, workflow_id: str, node: int, said: Iterable[Said]) -> int:
        """The node of messages that follow ``node``."""
        tree = self._log.tree
        for kind, text in said:
            num_tokens = self._answers.get((workflow_id, _digest(text))) if kind == "output" else None
            node = tree.add_text(node, kind, text, num_tokens)
        return node

    def answer(
        self, workflow_id: str, prompt: int, text: str, num_tokens: int | None
    ) -> tuple[int | None, int]:
        """Node and length of the answer to ``prompt``: the tokenizer's length, or the log's if estimated."""
        if not text:
            return None, self._logged(num_tokens)
        tree = self._log.tree
        if num_tokens is not None and tree.tokens.is_estimate:
            num_tokens = max(num_tokens, 1)
            self._answers[workflow_id, _digest(text)] = num_tokens
            message = tree.message("output", text, num_tokens)
        else:
            message = tree.message("output", text)
        return tree.add(prompt, message), message.num_tokens

    def _logged(self, num_tokens: int | None) -> int:
        if num_tokens is None:
            self._log.counts["answers of unknown length taken as 1 token"] += 1
            return 1
        return num_tokens


def said(message: Any, counts: Counter[str]) -> Said | None:
    """A message with role and content (or parts), tool calls included; None, counted, if it is none."""
    fields = mapping(message)
    kind = _KINDS.get(str(fields.get("role")))
    if kind is None:
        counts["messages of unknown role left out"] += 1
        return None
    content = fields.get("parts") if "parts" in fields else fields.get("content")
    texts = [written(content, counts)]
    reasoning = fields.get("reasoning_content")
    if isinstance(reasoning, str):
        texts.insert(0, reasoning)
    texts.extend(_tool_call(call) for call in items(fields.get("tool_calls")))
    if fields.get("function_call"):
        texts.append(_tool_call(fields))
    return Said(kind, "\n".join(filter(None, texts)))


def written(content: Any, counts: Counter[str]) -> str:
    """The text of a content: a text, or a list of blocks. What is no text (an image) is counted."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        content = [content]
    try:
        return "\n".join(filter(None, (_block(block, counts) for block in items(content))))
    except RecursionError:
        counts["parts nested too deep left out"] += 1
        return ""


def usage_of(usage: Any) -> tuple[int | None, int | None]:
    """Logged tokens of prompt and answer, as OpenAI or Anthropic name them."""
    fields = mapping(usage)
    prompt = count(fields.get("prompt_tokens", fields.get("input_tokens")))
    cached = [count(fields.get(f"cache_{kind}_input_tokens")) or 0 for kind in ("read", "creation")]
    answer = count(fields.get("completion_tokens", fields.get("output_tokens")))
    return None if prompt is None else prompt + sum(cached), answer


def _block(block: Any, counts: Counter[str]) -> str:
    if isinstance(block, str):
        return block
    fields = mapping(block)
    kind = fields.get("type")
    if kind in ("tool_use", "tool_call"):
        return _tool_call(fields)
    for name in _TEXTS:
        value = fields.get(name)
        if isinstance(value, str):
            return value
        if kind in ("tool_result", "tool_call_response") and value is not None:
            return written(value, counts) or dumped(value)
    if kind not in ("thinking", "redacted_thinking"):
        counts["parts without text left out"] += 1
    return ""


def _tool_call(call: Any) -> str:
    fields = mapping(call)
    function = mapping(fields.get("function") or fields.get("function_call") or fields)
    arguments = next((function[key] for key in ("arguments", "input") if key in function), "")
    return f"{function.get('name')} {dumped(arguments)}"


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
