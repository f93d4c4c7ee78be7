"""Every error that pbkv raises on purpose.

PbkvError
├── InputError        the user's file, field or option is wrong; the CLI prints it and exits 2
│   ├── TraceError    … in a trace: carries path, field, value and what was expected
│   ├── ConfigError   … in an option, a profile or a policy's name
│   ├── PolicyError   … in the code of a plugged-in policy: carries where and what
│   └── StoppedError  a run ended before its time, for want of memory or of its server
└── InvariantError    our own bookkeeping is broken: a bug, never the user's fault
"""

from __future__ import annotations


class PbkvError(Exception):
    """Root of the tree: catch this to catch whatever pbkv raises on purpose."""


class InputError(PbkvError):
    """Something that the user gave cannot be used. Printed as one line; exit status 2."""


class TraceError(InputError):
    """A trace cannot be read: says where, which field, which value, and what was expected."""

    def __init__(self, path: object, field: str, value: object, expected: str) -> None:
        super().__init__(path, field, value, expected)
        self.path = str(path)
        self.field = field
        self.value = value
        self.expected = expected

    def __str__(self) -> str:
        return f"{self.path}: {self.field}: got {_short(self.value)}, expected {self.expected}"


class ConfigError(InputError):
    """An option, profile or name cannot be used: says which, what was given, what was expected."""

    def __init__(self, field: str, value: object, expected: str) -> None:
        super().__init__(field, value, expected)
        self.field = field
        self.value = value
        self.expected = expected

    def __str__(self) -> str:
        return f"{self.field}: got {_short(self.value)}, expected {self.expected}"


class StoppedError(InputError):
    """A run ended before its time; what it had written is kept in ``path``, marked as not whole."""

    def __init__(self, path: object, problem: str) -> None:
        super().__init__(path, problem)
        self.path = str(path)
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.path}: stopped, what was written is kept: {_short(self.problem, 400)}"


class PolicyError(InputError):
    """A plugged-in policy cannot be used, or went wrong as it ran: says where and what."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(where, problem)
        self.where = where
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.where}: {_short(self.problem, 400)}"


class InvariantError(PbkvError):
    """A conservation law of the cache is broken. Always a bug in pbkv or in a plugged-in policy."""


def _short(value: object, limit: int = 120) -> str:
    text = value if isinstance(value, str) else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
