"""Code of the user's own, ``file.py:Class``: finding the class, and saying what is wrong with file and line.

What fails is raised as what the caller's ``failed`` makes of two texts, where (``file:line``) and what.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from pbkv.traces.errors import ConfigError, InputError

Failed = Callable[[str, str], InputError]
FAILURES = (Exception, SystemExit)  # an interrupt is the user's, and not the code's


def class_in(path: Path, class_name: str, role: str, failed: Failed) -> Any:
    """The class ``class_name`` of the file ``path``, which is run for it. ``role``: what it is to be.

    Raises ConfigError if there is no such file or class.
    """
    if path.suffix != ".py" or not path.is_file():
        raise ConfigError(role, f"{path}:{class_name}", "a Python file that exists")
    module = _module(path, role, failed)
    found = getattr(module, class_name, None)
    if not inspect.isclass(found):
        raise ConfigError(role, class_name, f"a class of {path}, which has {_classes_of(module)}")
    return found


def loaded(what: str, load: Callable[[], Any], failed: Failed) -> Any:
    """What ``load`` answers; ``what`` is named where the error has no line in it."""
    try:
        return load()
    except SyntaxError as error:
        raise failed(f"{error.filename}:{error.lineno}", f"syntax error: {error.msg}") from error
    except FAILURES as error:
        raise failed(last_line(error, what) or what, f"cannot be imported: {words(error)}") from error


def words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def last_line(error: BaseException, file: str) -> str | None:
    """file:line of the deepest frame of ``error`` that is in ``file``."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_same(f.filename, file)]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None


def first_line(what: Any) -> int:
    """Of a function or a class; 1 if it has none."""
    try:
        return inspect.getsourcelines(what)[1]
    except (OSError, TypeError):
        return 1


def is_async(function: Any) -> bool:
    """Whether calling ``function`` gives a promise, which nobody here would await."""
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _module(path: Path, role: str, failed: Failed) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"pbkv_{role}_{path.stem}", path)
    assert spec is not None  # it ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    run = spec.loader.exec_module
    loaded(str(path), lambda: run(module), failed)
    return module


def _classes_of(module: ModuleType) -> str:
    own = [n for n, v in vars(module).items() if inspect.isclass(v) and v.__module__ == module.__name__]
    return ", ".join(own) or "none"


def _is_same(filename: str, file: str) -> bool:
    return filename == file or Path(filename).absolute() == Path(file).absolute()
