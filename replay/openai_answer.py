"""The answer of an OpenAI-compatible server, event by event: when its first token came, and its counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

_TEXTS = ("text", "content", "reasoning_content", "reasoning", "tool_calls")


@dataclass(frozen=True, slots=True)
class Answer:
    """Instants are perf_counter's. None: the server does not say, or does not stream."""

    first_token_at_s: float | None
    ended_at_s: float
    num_prompt_tokens: int | None
    num_output_tokens: int
    num_cached_tokens: int | None


class Reading:
    """What has come of an answer so far."""

    def __init__(self) -> None:
        self.is_finished = False
        self._first_token_at_s: float | None = None
        self._num_pieces = 0
        self._usage: Mapping[str, Any] = {}

    def take(self, event: Mapping[str, Any]) -> None:
        usage = event.get("usage")
        if isinstance(usage, dict):
            self._usage = usage
        for choice in event["choices"]:
            if isinstance(choice, dict):
                self.is_finished |= choice.get("finish_reason") is not None
                if _has_text(choice):
                    self._num_pieces += 1
                    if self._first_token_at_s is None:
                        self._first_token_at_s = perf_counter()

    def answer(self) -> Answer:
        details = self._usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        now_s = perf_counter()
        num_made = _count(self._usage.get("completion_tokens"))
        return Answer(
            now_s if self._first_token_at_s is None else self._first_token_at_s,
            now_s,
            _count(self._usage.get("prompt_tokens")),
            self._num_pieces if num_made is None else num_made,
            _count(cached),
        )


def _has_text(choice: Mapping[str, Any]) -> bool:
    """Of a completion or a chat; a chat's first piece may hold the role alone."""
    delta = choice.get("delta") or choice.get("message") or choice
    return isinstance(delta, dict) and any(delta.get(name) for name in _TEXTS)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
