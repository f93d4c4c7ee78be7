"""Reads a table of a TOML file key by key, so that each mistake is one line: file, key, value, expected."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pbkv.traces.errors import ConfigError

Check = Callable[[object], bool]


@dataclass(frozen=True, slots=True)
class Kind:
    """What a value must be: a check and the words for it."""

    words: str
    check: Check


def whole(least: int) -> Kind:
    return Kind(f"a whole number ≥ {least}", lambda v: type(v) is int and least <= v < 2**63)


def number(least: float, *, above: bool = False) -> Kind:
    def check(value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return (least < value if above else least <= value) and value < float("inf")

    return Kind(f"a finite number {'>' if above else '≥'} {least:g}", check)


def one_of(*names: str) -> Kind:
    return Kind("one of " + ", ".join(names), lambda v: isinstance(v, str) and v in names)


TEXT = Kind("a text", lambda v: isinstance(v, str) and bool(v))
FLAG = Kind("true or false", lambda v: isinstance(v, bool))


class TomlTable:
    """One table. Every key is taken or is an unknown one: ``finish`` complains."""

    def __init__(self, raw: object, where: str, separator: str = ".") -> None:
        if not isinstance(raw, Mapping):
            raise ConfigError(where, raw, "a table")
        self._raw, self._where, self._separator = raw, where, separator
        self._known: list[str] = []

    def field(self, key: str) -> str:
        """The key as errors name it."""
        return f"{self._where}{self._separator}{key}"

    def has(self, key: str) -> bool:
        self._known.append(key)
        return key in self._raw

    def raw(self, key: str) -> Any:
        return self._raw[key]

    def take(self, key: str, kind: Kind, default: Any = None) -> Any:
        """The value, or ``default`` if there is none."""
        if not self.has(key):
            return default
        return self._checked(self.field(key), self._raw[key], kind)

    def take_list(self, key: str, kind: Kind, default: tuple[Any, ...] = ()) -> tuple[Any, ...]:
        """A list of at least one value, each once; or ``default``."""
        values = self.items(key, kind.words, default)
        for index, value in enumerate(values):
            self._checked(f"{self.field(key)}[{index}]", value, kind)
            if value in values[:index]:
                raise ConfigError(f"{self.field(key)}[{index}]", value, "each value once")
        return values

    def items(self, key: str, words: str, default: tuple[Any, ...] = ()) -> tuple[Any, ...]:
        """A list of at least one value, unchecked; or ``default``."""
        if not self.has(key):
            return default
        values = self._raw[key]
        if not isinstance(values, list) or not values:
            raise ConfigError(self.field(key), values, f"a list, each {words}")
        return tuple(values)

    def one_at_most(self, *keys: str) -> None:
        given = [key for key in keys if key in self._raw]
        if len(given) > 1:
            raise ConfigError(self.field(given[1]), self._raw[given[1]], f"either this or {given[0]}")

    def finish(self) -> None:
        """Raises ConfigError for a key that nobody took."""
        for key in self._raw:
            if key not in self._known:
                raise ConfigError(self.field(key), "an unknown key", "one of " + ", ".join(self._known))

    def _checked(self, where: str, value: object, kind: Kind) -> object:
        if not kind.check(value):
            raise ConfigError(where, value, kind.words)
        return value


@contextmanager
def named_as(where: str) -> Iterator[None]:
    """Say which key it was whose own check has failed, in place of the name that the check knows."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(where, error.value, error.expected) from None
