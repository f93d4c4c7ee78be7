"""One call to an OpenAI-compatible server: sent, streamed, timed, and tried again if that may help.

Only what all of them share is relied on: /v1/completions or /v1/chat/completions with ``stream``. What a
server says of its own accord (usage, cached tokens) is taken where it is there.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Literal, TypeVar
from urllib.parse import quote, urlsplit

from pbkv.replay.openai_answer import Answer, Reading
from pbkv.traces.errors import ConfigError

Endpoint = Literal["auto", "completions", "chat"]
_CONNECT_TIMEOUT_S = 10.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 30.0
_OK, _TOO_MANY, _SERVER_FAULT = 200, 429, 500
_NOT_SERVED = (404, 405, 501)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Server:
    """Where calls go, and how. ``model`` None: the first one that the server names.

    ``sends_text``: prompts are text and not token ids. ``hints``: ids and the length of the answer as
    ``nvext``, which Dynamo reads and others may refuse; the same ids always go as headers. ``ignore_eos``:
    answers as long as the trace's (vLLM, SGLang). ``timeout_s`` is the longest silence.
    """

    base_url: str
    model: str | None = None
    endpoint: Endpoint = "auto"
    sends_text: bool = False
    hints: bool = False
    ignore_eos: bool = False
    asks_usage: bool = True
    timeout_s: float = 300.0
    max_retries: int = 4

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise ConfigError("base-url", self.base_url, "an address that starts with http:// or https://")
        try:
            urlsplit(self.base_url).port  # noqa: B018 - raises if it is none
        except ValueError as error:
            raise ConfigError("base-url", self.shown, f"an address ({error})") from None
        if not 0 < self.timeout_s < float("inf"):
            raise ConfigError("timeout", self.timeout_s, "a number of seconds > 0")
        if self.max_retries < 0:
            raise ConfigError("retries", self.max_retries, "a number ≥ 0")

    @property
    def root(self) -> str:
        """The address without a /v1 at its end."""
        return self.base_url.rstrip("/").removesuffix("/v1")

    @property
    def shown(self) -> str:
        """The address for eyes and files: without a name and a password."""
        return re.sub(r"//[^/]*@", "//", self.root)


@dataclass(frozen=True, slots=True)
class Ask:
    """One call: ``prompt`` is text or token ids."""

    workflow_id: str
    agent: str
    call_index: int
    prompt: str | list[int]
    num_output_tokens: int


class ServerError(Exception):
    """The server cannot be used: why, in one line."""


class _PassingError(Exception):
    """It may be better the next time; ``pause_s`` is what the server asks for."""

    def __init__(self, problem: str, pause_s: float | None = None) -> None:
        super().__init__(problem)
        self.pause_s = pause_s


class Client:
    """An async context manager; closing it ends every connection. ``num_retries`` counts those so far."""

    def __init__(self, server: Server, num_connections: int | None) -> None:
        self.server = server
        self.model = server.model
        self.num_retries = 0
        self._endpoint: str = "completions" if server.endpoint == "auto" else server.endpoint
        self._random = random.Random(0)
        self._httpx = _httpx()
        limits = self._httpx.Limits(max_connections=num_connections)
        timeout = self._httpx.Timeout(None, connect=min(_CONNECT_TIMEOUT_S, server.timeout_s))
        key = os.environ.get("OPENAI_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = self._httpx.AsyncClient(
            timeout=timeout, limits=limits, headers=headers, trust_env=False, base_url=server.root
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def check(self) -> None:
        """Whether a server answers, and which model it has where none is given. Raises ServerError."""
        names = await self._persist(self._models)
        if self.model is None:
            if not names:
                raise ServerError(f"{self.server.shown}: names no model, one must be given")
            self.model = names[0]

    async def ask(self, ask: Ask) -> Answer:
        """Send one call and read its answer to the end. Raises ServerError."""
        return await self._persist(lambda silence: self._answer(ask, silence))

    # ------------------------------------------------------------------ trying

    async def _persist(self, attempt: Callable[[asyncio.Timeout], Awaitable[_T]]) -> _T:
        """``attempt`` until it succeeds, with growing pauses, at most ``max_retries`` times more."""
        root, most = self.server.shown, self.server.max_retries
        for number in range(most + 1):
            try:
                async with asyncio.timeout(self.server.timeout_s) as silence:
                    return await attempt(silence)
            except TimeoutError:
                raise ServerError(f"{root}: no answer within {self.server.timeout_s:g} s") from None
            except self._httpx.TransportError as error:
                passing = _PassingError(_words(error))
            except _PassingError as error:
                passing = error
            if number < most:
                self.num_retries += 1
                await asyncio.sleep(self._pause_s(number, passing.pause_s))
        raise ServerError(f"{root}: {passing}" + (f" (tried {most + 1} times)" if most else ""))

    def _pause_s(self, number: int, wanted_s: float | None) -> float:
        grown_s = _FIRST_PAUSE_S * 2**number * self._random.uniform(0.5, 1.5)
        return min(grown_s if wanted_s is None else wanted_s, _LONGEST_PAUSE_S)

    # ------------------------------------------------------------------ one attempt

    async def _models(self, _: asyncio.Timeout) -> list[str]:
        response = await self._http.get("/v1/models")
        if response.status_code in _NOT_SERVED:
            return []
        self._check_status(response.status_code, response.headers, response.text)
        try:
            return [str(entry["id"]) for entry in json.loads(response.text)["data"]]
        except (ValueError, KeyError, TypeError):
            raise self._garbage(response.text) from None

    async def _answer(self, ask: Ask, silence: asyncio.Timeout) -> Answer:
        path = "/v1/completions" if self._endpoint == "completions" else "/v1/chat/completions"
        body, headers = self._body(ask), _headers(ask)
        async with self._http.stream("POST", path, json=body, headers=headers) as response:
            if response.status_code != _OK:
                text = (await response.aread()).decode(errors="replace")
                if self._may_be_chat(response.status_code):
                    self._endpoint = "chat"
                else:
                    self._check_status(response.status_code, response.headers, text)
            elif "event-stream" in response.headers.get("content-type", ""):
                return await self._streamed(response.aiter_lines(), silence)
            else:
                return self._whole((await response.aread()).decode(errors="replace"))
        return await self._answer(ask, silence)  # by the other endpoint

    def _may_be_chat(self, status: int) -> bool:
        """Whether nobody has said that the server has /v1/completions, and it has not."""
        is_auto = self.server.endpoint == "auto" and self._endpoint == "completions"
        return is_auto and self.server.sends_text and status in _NOT_SERVED

    def _body(self, ask: Ask) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model, "max_tokens": ask.num_output_tokens, "stream": True}
        body["temperature"] = 0.0
        if self._endpoint == "chat":
            body["messages"] = [{"role": "user", "content": ask.prompt}]
        else:
            body["prompt"] = ask.prompt
        if self.server.asks_usage:
            body["stream_options"] = {"include_usage": True}
        if self.server.ignore_eos:
            body["ignore_eos"] = True
        if self.server.hints:
            ids = {"session_id": ask.workflow_id, "trajectory_id": f"{ask.workflow_id}:{ask.agent}"}
            body["nvext"] = {"agent_hints": {"osl": ask.num_output_tokens}, "agent_context": ids}
        return body

    async def _streamed(self, lines: AsyncIterator[str], silence: asyncio.Timeout) -> Answer:
        """Reads server-sent events; each that has data ends a silence."""
        read = Reading()
        async for line in lines:
            if not line.startswith("data:"):
                if line.startswith((":", "event:", "id:", "retry:")) or not line.strip():
                    continue
                raise self._garbage(line)
            data = line.removeprefix("data:").strip()
            if data == "[DONE]":
                read.is_finished = True
                break
            silence.reschedule(asyncio.get_running_loop().time() + self.server.timeout_s)
            read.take(self._event(data))
        if not read.is_finished:
            raise _PassingError("the answer broke off")
        return read.answer()

    def _whole(self, text: str) -> Answer:
        """The answer of a server that does not stream."""
        read = Reading()
        read.take(self._event(text))
        return replace(read.answer(), first_token_at_s=None)

    def _event(self, data: str) -> dict[str, Any]:
        try:
            event = json.loads(data)
        except ValueError:
            raise self._garbage(data) from None
        if isinstance(event, dict) and event.get("error"):
            raise ServerError(f"{self.server.shown}: says {_message(data)}")
        if not isinstance(event, dict) or not isinstance(event.get("choices"), list):
            raise self._garbage(data)
        return event

    def _check_status(self, status: int, headers: Mapping[str, str], text: str) -> None:
        """Raises _PassingError for 429 and 5xx, ServerError for every other status but 200."""
        problem = f"status {status}: {_message(text)}"
        if status == _TOO_MANY or status >= _SERVER_FAULT:
            raise _PassingError(problem, _seconds(headers.get("retry-after")))
        if status != _OK:
            raise ServerError(f"{self.server.shown}: {problem}")

    def _garbage(self, text: str) -> ServerError:
        shown = " ".join(text.split())[:80] or "nothing"
        return ServerError(f"{self.server.shown}: no OpenAI-compatible answer: {shown}")


def _headers(ask: Ask) -> dict[str, str]:
    """Ids in the form that headers may have. The last is what Dynamo reads."""
    workflow, agent = quote(ask.workflow_id, safe="/:"), quote(ask.agent, safe="/:")
    return {
        "X-Workflow-Id": workflow,
        "X-Agent-Id": agent,
        "X-Request-Id": f"{workflow}/{ask.call_index}",
        "X-Dynamo-Session-Id": f"{workflow}:{agent}",
    }


def _message(text: str) -> str:
    """What an error's body says, in one line."""
    try:
        found = json.loads(text)
    except ValueError:
        found = text
    for name in ("error", "detail", "message"):
        if isinstance(found, dict) and name in found:
            found = found[name]
    return " ".join(str(found).split())[:160] or "nothing more"


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else max(0.0, float(text))
    except ValueError:
        return None


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _httpx() -> Any:
    """httpx2, or the httpx that it continues: the same where it is used here."""
    for name in ("httpx2", "httpx"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise ConfigError("engine", "openai", "httpx2 to be installed (pip install 'pbkv[openai]')")
