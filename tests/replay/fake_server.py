"""A server that says what a test wants it to, on a free port, and remembers what it was asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from time import perf_counter, sleep
from typing import Any

Reply = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """One request; ``body`` is what was posted."""

    server: FakeServer
    body: dict[str, Any]

    def do_GET(self) -> None:
        self.server.models(self)

    def do_POST(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append((self.path, self.body, dict(self.headers)))
            number = len(self.server.requests) - 1
        replies = self.server.replies
        replies[min(number, len(replies) - 1)](self)

    def log_message(self, *_: object) -> None:
        """Nothing: the test looks at ``requests``."""


class FakeServer(ThreadingHTTPServer):
    """``replies`` answer posts one after the other, the last of them all that follow."""

    daemon_threads = True

    def __init__(self, *replies: Reply, models: Reply | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies, self.models = replies, models or names_models("tiny")
        self.requests: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.lock, self.released = Lock(), Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """A client that has gone is no error."""


@contextmanager
def serving(*replies: Reply, models: Reply | None = None) -> Iterator[FakeServer]:
    server = FakeServer(*replies, models=models)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def status(code: int, text: str = "", **headers: str) -> Reply:
    def reply(handler: Handler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(text.encode())

    return reply


def names_models(*names: str) -> Reply:
    return status(200, json.dumps({"object": "list", "data": [{"id": name} for name in names]}))


def hangs(handler: Handler) -> None:
    handler.server.released.wait(30)


def streams(*events: object, pause_s: float = 0.0, content_type: str = "text/event-stream") -> Reply:
    """Events as lines of data; texts as they are."""

    def reply(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", content_type)
        handler.end_headers()
        for event in events:
            line = event if isinstance(event, str) else f"data: {json.dumps(event)}\n\n"
            handler.wfile.write(line.encode())
            handler.wfile.flush()
            sleep(pause_s)

    return reply


def answers(num_cached: int | None = None, pause_s: float = 0.0) -> Reply:
    """A completion (or chat) of as many tokens as were asked for, with usage."""

    def reply(handler: Handler) -> None:
        number, is_chat = handler.body["max_tokens"], "chat" in handler.path
        num_prompt = len(handler.body["messages"][0]["content"] if is_chat else handler.body["prompt"])
        pieces = [piece(f" {index}", is_chat=is_chat) for index in range(number)]
        usage: dict[str, Any] = {"prompt_tokens": num_prompt, "completion_tokens": number}
        if num_cached is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": num_cached}
        last = piece("", is_chat=is_chat, finish_reason="length")
        streams(*pieces, last, {"choices": [], "usage": usage}, "data: [DONE]\n\n", pause_s=pause_s)(handler)

    return reply


def piece(text: str, *, is_chat: bool = False, finish_reason: str | None = None) -> dict[str, Any]:
    said = {"delta": {"content": text}} if is_chat else {"text": text}
    return {"choices": [{"index": 0, "finish_reason": finish_reason, **said}]}


def within(seconds: float, is_so: Callable[[], bool]) -> bool:
    end_s = perf_counter() + seconds
    while perf_counter() < end_s:
        if is_so():
            return True
        sleep(0.01)
    return False
