"""A policy of the user's own: ``file.py:Class``, or an entry point of the group ``pbkv.policies``.

One small class; see docs/policies.md. It needs ``key(node)``, the order of eviction on both tiers, smallest
first. It may have ``host_key(node)``; ``prefetch_key(node)`` and with it ``prefetch_wants(node)``,
``prefetch_budget(situation)``, ``displaces(victim)``; ``admits(request, manager, now_s)`` and
``next_change_s()``; ``request_key(request, manager, now_s)``; ``evicted(node)``; and any method of
`pbkv.cache.Follower`, which it may subclass. Its ``__init__`` is given ``seed`` and ``options`` if it names
them. Whatever goes wrong in it is raised as PolicyError, with file, line and method.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pbkv.cache.follower import NOTHING, Follower
from pbkv.cache.policy import Policy, PolicyOptions
from pbkv.cache.tree import Node
from pbkv.traces.errors import ConfigError, InvariantError, PolicyError

if TYPE_CHECKING:
    from pbkv.cache.manager import CacheManager
    from pbkv.cache.prefetch import Situation
    from pbkv.cache.scheduling import Waiting
    from pbkv.cache.tiers import Tiers

GROUP = "pbkv.policies"
_CHANGES = ("submitted", "computed", "call_ended", "ended", "passed")  # answered with nodes
_TOLD = ("begun", "touched", "removed", "note")
_CHECKED_ONE_IN = 16


def plugged_policy(name: str, seed: int, options: PolicyOptions) -> Policy | None:
    """The policy called ``name``, if that is a file and a class, or an installed entry point.

    Raises ConfigError or PolicyError if it cannot be used.
    """
    file, _, class_name = name.rpartition(":")
    if file.endswith(".py"):
        found = _class_in(Path(file), class_name)
    else:
        installed = next(iter(entry_points(group=GROUP, name=name)), None)
        if installed is None:
            return None
        found = _loaded(f"entry point {name}", installed.load)
    return _composed(_Code(found, seed, options))


@contextmanager
def breaches_named(policy: Policy, name: str) -> Iterator[None]:
    """Broken invariants are our fault, unless the policy is somebody else's."""
    try:
        yield
    except InvariantError as error:
        if not policy.is_plugged_in:
            raise
        raise PolicyError(name, f"the cache's invariants do not hold any more: {error}") from error


# ---------------------------------------------------------------------- finding the class


def _class_in(path: Path, class_name: str) -> Any:
    if not path.is_file():
        raise ConfigError("policy", f"{path}:{class_name}", "a Python file that exists")
    spec = importlib.util.spec_from_file_location(f"pbkv_policy_{path.stem}", path)
    assert spec is not None  # it ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    _loaded(str(path), lambda: spec.loader.exec_module(module) if spec.loader else None)
    found = getattr(module, class_name, None)
    if not inspect.isclass(found):
        raise ConfigError("policy", class_name, f"a class of {path}, which has {_classes_of(module)}")
    return found


def _loaded(what: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except SyntaxError as error:
        raise PolicyError(f"{error.filename}:{error.lineno}", f"syntax error: {error.msg}") from error
    except (Exception, SystemExit) as error:
        where = _last_line(error, what) or what
        raise PolicyError(where, f"cannot be imported: {_words(error)}") from error


def _classes_of(module: ModuleType) -> str:
    own = [n for n, v in vars(module).items() if inspect.isclass(v) and v.__module__ == module.__name__]
    return ", ".join(own) or "none"


# ---------------------------------------------------------------------- somebody else's code


class _Code:
    """An object whose methods are called with care: what goes wrong is named."""

    def __init__(self, cls: Any, seed: int, options: PolicyOptions) -> None:
        self._class = cls
        self.file = inspect.getsourcefile(cls) or cls.__module__
        if not self.has("key"):
            found = [name for name, value in vars(cls).items() if callable(value) and name[0] != "_"]
            problem = f"{cls.__name__} has no method key(self, node); found: {', '.join(found) or 'none'}"
            raise PolicyError(f"{self.file}:{_line_of(cls)}", problem)
        self._object: Any = None
        self._object = self._calling("__init__", lambda: self._made(seed, options))()

    def has(self, method: str) -> bool:
        found = getattr(self._class, method, None)
        return callable(found) and found is not getattr(Follower, method, None)

    def method(self, name: str) -> Callable[..., Any]:
        return self._calling(name, getattr(self._object, name))

    def failed(self, method: str, problem: str, error: BaseException | None = None) -> PolicyError:
        function = getattr(self._class, method, None)
        where = (error and _last_line(error, self.file)) or f"{self.file}:{_line_of(function)}"
        return PolicyError(where, f"{self._class.__name__}.{method}: {problem}")

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
            except Exception as error:
                raise self.failed(name, _words(error), error) from error

        return call


class _Key:
    """A key that says so when it cannot be compared."""

    __slots__ = ("_code", "_method", "value")
    __hash__ = None  # type: ignore[assignment] # equal keys are equal, and that is all

    def __init__(self, value: Any, code: _Code, method: str) -> None:
        self.value = value
        self._code = code
        self._method = method

    def __lt__(self, other: _Key) -> bool:
        try:
            return bool(self.value < other.value)
        except Exception as error:
            raise self._incomparable(other) from error

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, _Key)
        try:
            return bool(self.value == other.value)
        except Exception as error:
            raise self._incomparable(other) from error

    def _incomparable(self, other: _Key) -> PolicyError:
        pair = f"{self.value!r} and {other.value!r}"
        return self._code.failed(self._method, f"gives keys that cannot be compared: {pair}")


class _Keys:
    """The keys of one method, checked."""

    def __init__(self, code: _Code, method: str) -> None:
        self._code = code
        self._method = method
        self._ask = code.method(method)
        self._num_asked = 0

    def __call__(self, *arguments: Any) -> _Key:
        value = self._ask(*arguments)
        if value is None or any(_is_nan(part) for part in (value if isinstance(value, tuple) else (value,))):
            raise self._code.failed(self._method, f"gives {value!r}, expected a key that can be ordered")
        self._num_asked += 1
        if self._num_asked < _CHECKED_ONE_IN or not self._num_asked % _CHECKED_ONE_IN:
            self._check_steady(value, self._ask(*arguments))
        return _Key(value, self._code, self._method)

    def _check_steady(self, value: Any, again: Any) -> None:
        """A key that is another one each time it is asked for can never be first."""
        first, second = (_Key(key, self._code, self._method) for key in (value, again))
        if first != second:
            raise self._code.failed(
                self._method, f"gives {value!r} and then {again!r} for the same node at the same time"
            )


# ---------------------------------------------------------------------- its parts


def _composed(code: _Code) -> Policy:
    gpu_order = _Order(code, "key")
    return Policy(
        gpu_order=gpu_order,
        host_order=_Order(code, "host_key") if code.has("host_key") else _Order(code, "key"),
        followers=(_follower(code),),
        prefetch=_Prefetch(code) if code.has("prefetch_key") else None,
        admission=_Admission(code) if code.has("admits") else None,
        request_order=_RequestOrder(code) if code.has("request_key") else None,
        is_plugged_in=True,
    )


class _Order:
    """Eviction order of one tier. ``queued`` is there so that keys may fall."""

    def __init__(self, code: _Code, method: str) -> None:
        self.key = _Keys(code, method)
        self.queued: Callable[[Node], Any] = code.method("queued") if code.has("queued") else _nothing
        self.evicted = code.method("evicted") if code.has("evicted") and method == "key" else None


class _Prefetch:
    """Without more than ``prefetch_key``: everything, into free space, as PBKV's conservative one."""

    def __init__(self, code: _Code) -> None:
        self.key = _Keys(code, "prefetch_key")
        self.queued = _nothing
        self._wants = code.method("prefetch_wants") if code.has("prefetch_wants") else _yes
        self._budget = code.method("prefetch_budget") if code.has("prefetch_budget") else _conservative
        self._displaces = code.method("displaces") if code.has("displaces") else _no

    def wants(self, node: Node) -> bool:
        return bool(self._wants(node))

    def budget(self, situation: Situation) -> int:
        return int(self._budget(situation))

    def displaceable(self, tiers: Tiers) -> Callable[[Node], bool]:
        return self._displaces


class _Admission:
    def __init__(self, code: _Code) -> None:
        self._admits = code.method("admits")
        self._next_change_s = code.method("next_change_s") if code.has("next_change_s") else _never

    def admits(self, request: Waiting, manager: CacheManager, now_s: float) -> bool:
        return bool(self._admits(request, manager, now_s))

    def next_change_s(self) -> float:
        return float(self._next_change_s())


class _RequestOrder:
    def __init__(self, code: _Code) -> None:
        self.key = _Keys(code, "request_key")


def _follower(code: _Code) -> Follower:
    """A follower with just the methods that the class has: the rest costs nothing."""
    methods = {name: _answering(code, name) for name in _CHANGES if code.has(name)}
    methods |= {name: _told(code, name) for name in _TOLD if code.has(name)}
    made: Follower = type("Plugged", (Follower,), methods)()
    return made


def _answering(code: _Code, name: str) -> Callable[..., Sequence[Node]]:
    ask = code.method(name)

    def answer(_: Follower, *arguments: Any) -> Sequence[Node]:
        changed = ask(*arguments)
        if changed is None:
            return NOTHING
        if not (isinstance(changed, list | tuple) and all(isinstance(node, Node) for node in changed)):
            raise code.failed(name, f"answers {changed!r}, expected a list of nodes, or None")
        return changed

    return answer


def _told(code: _Code, name: str) -> Callable[..., Any]:
    tell = code.method(name)
    return lambda _, *arguments: tell(*arguments)


# ---------------------------------------------------------------------- defaults and words


def _nothing(node: Node) -> None:
    """Nobody wants to know."""


def _yes(node: Node) -> bool:
    return True


def _no(node: Node) -> bool:
    return False


def _never() -> float:
    return float("inf")


def _conservative(situation: Situation) -> int:
    return situation.step_blocks if situation.is_pure_decode and not situation.num_in_flight else 0


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _last_line(error: BaseException, file: str) -> str | None:
    """file:line of the deepest frame of ``error`` that is in ``file``."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_same(f.filename, file)]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None


def _is_same(filename: str, file: str) -> bool:
    return filename == file or Path(filename).absolute() == Path(file).absolute()


def _line_of(what: Any) -> int:
    try:
        return inspect.getsourcelines(what)[1]
    except (OSError, TypeError):
        return 1
