"""Somebody else's object, called with care: what goes wrong in it is named, with file, line and method."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from pbkv.cache.follower import Follower
from pbkv.cache.policy import PolicyOptions
from pbkv.traces.errors import PolicyError
from pbkv.traces.foreign_code import FAILURES, first_line, is_async, last_line, words

_CHECKED_ONE_IN = 16


class Code:
    """An object whose methods are called with care: what goes wrong is named."""

    def __init__(self, cls: Any, seed: int, options: PolicyOptions) -> None:
        self._class = cls
        self.file = inspect.getsourcefile(cls) or cls.__module__
        if not self.has("key"):
            found = [name for name, value in vars(cls).items() if callable(value) and name[0] != "_"]
            problem = f"{cls.__name__} has no method key(self, node); found: {', '.join(found) or 'none'}"
            raise PolicyError(f"{self.file}:{first_line(cls)}", problem)
        self._refuse_async("__init__")
        self._object: Any = None
        self._object = self._calling("__init__", lambda: self._made(seed, options))()

    def has(self, method: str) -> bool:
        found = getattr(self._class, method, None)
        return callable(found) and found is not getattr(Follower, method, None)

    def method(self, name: str) -> Callable[..., Any]:
        self._refuse_async(name)
        return self._calling(name, getattr(self._object, name))

    def failed(self, method: str, problem: str, error: BaseException | None = None) -> PolicyError:
        function = getattr(self._class, method, None)
        where = (error and last_line(error, self.file)) or f"{self.file}:{first_line(function)}"
        return PolicyError(where, f"{self._class.__name__}.{method}: {problem}")

    def _refuse_async(self, name: str) -> None:
        if is_async(getattr(self._class, name)):
            raise self.failed(name, "is async, expected a plain method: def and not async def")

    def _made(self, seed: int, options: PolicyOptions) -> Any:
        offered = {"seed": seed, "options": options}
        asked = inspect.signature(self._class).parameters
        return self._class(**{name: value for name, value in offered.items() if name in asked})

    def _calling(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            try:
                return function(*arguments)
            except PolicyError:
                raise
            except FAILURES as error:
                raise self.failed(name, words(error), error) from error

        return call


class Key:
    """A key that says so when it cannot be compared."""

    __slots__ = ("_code", "_method", "value")
    __hash__ = None  # type: ignore[assignment] # equal keys are equal, and that is all

    def __init__(self, value: Any, code: Code, method: str) -> None:
        self.value = value
        self._code = code
        self._method = method

    def __lt__(self, other: Key) -> bool:
        try:
            return bool(self.value < other.value)
        except FAILURES as error:
            raise self._incomparable(other) from error

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Key)
        try:
            return bool(self.value == other.value)
        except FAILURES as error:
            raise self._incomparable(other) from error

    def _incomparable(self, other: Key) -> PolicyError:
        pair = f"{self.value!r} and {other.value!r}"
        return self._code.failed(self._method, f"gives keys that cannot be compared: {pair}")


class Keys:
    """The keys of one method, checked."""

    def __init__(self, code: Code, method: str) -> None:
        self._code = code
        self._method = method
        self._ask = code.method(method)
        self._num_asked = 0

    def __call__(self, *arguments: Any) -> Key:
        value = self._ask(*arguments)
        if value is None or any(_is_nan(part) for part in (value if isinstance(value, tuple) else (value,))):
            raise self._code.failed(self._method, f"gives {value!r}, expected a key that can be ordered")
        self._num_asked += 1
        if self._num_asked < _CHECKED_ONE_IN or not self._num_asked % _CHECKED_ONE_IN:
            self._check_steady(value, self._ask(*arguments))
        return Key(value, self._code, self._method)

    def _check_steady(self, value: Any, again: Any) -> None:
        """A key that is another one each time it is asked for can never be first."""
        first, second = (Key(key, self._code, self._method) for key in (value, again))
        if first != second:
            raise self._code.failed(
                self._method, f"gives {value!r} and then {again!r} for the same node at the same time"
            )


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value
