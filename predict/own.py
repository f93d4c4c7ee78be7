"""A predictor of the user's own: `file.py:Class`."""

from __future__ import annotations

import importlib.util
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    from pbkv.predict.forecast import Predictor

_METHODS = ("agents", "forecast", "end", "is_conditional")


def own_predictor(name: str, num_steps: int) -> Predictor:
    """An instance of the class that ``name`` (path.py:Class) names, made with ``num_steps``.

    Raises ConfigError if the file cannot be run, lacks the class, or the class lacks a part of a
    predictor. It must say ``is_conditional`` itself: rows of the wrong sort would be used without notice.
    """
    path, _, class_name = name.rpartition(":")
    try:
        kind = getattr(_module(Path(path)), class_name, None)
        if not isinstance(kind, type):
            raise ConfigError("predictor", name, f"a class {class_name!r} in {path}")
        predictor = kind(num_steps)
    except (ConfigError, KeyboardInterrupt):
        raise
    except BaseException as error:  # whatever the user's code raises, exits included
        raise ConfigError(
            "predictor", f"{type(error).__name__}: {error} ({_line(error)})", f"{path} to run"
        ) from None
    missing = [part for part in _METHODS if not hasattr(predictor, part)]
    if missing:
        raise ConfigError("predictor", name, f"a class with {', '.join(missing)} (docs/predictors.md)")
    return cast("Predictor", predictor)


def _module(path: Path) -> object:
    if not path.is_file():
        raise ConfigError("predictor", str(path), "an existing file")
    spec = importlib.util.spec_from_file_location(f"pbkv_own_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError("predictor", str(path), "a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _line(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename}, line {frame.lineno}"
