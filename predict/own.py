"""A predictor of the user's own: `file.py:Class`."""

from __future__ import annotations

import importlib.util
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pbkv.predict.forecast import Forecast, needs_context
from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    from pbkv.predict.forecast import Predictor
    from pbkv.traces.schema import Workflow

_PARTS = ("agents", "forecast", "end", "is_conditional")


def own_predictor(name: str, num_steps: int) -> Predictor:
    """An instance of the class that ``name`` (path.py:Class) names, made with ``num_steps``.

    Raises ConfigError if the file cannot be run, lacks the class, or the class lacks a part of a
    predictor. It must say ``is_conditional`` itself: rows of the wrong sort would be used without notice.
    What it raises later becomes a ConfigError too.
    """
    path, _, class_name = name.rpartition(":")
    if not Path(path).is_file():
        raise ConfigError("predictor", path, "an existing file")
    try:
        kind = getattr(_module(Path(path)), class_name, None)
        predictor = kind(num_steps) if isinstance(kind, type) else None
    except Exception as error:
        raise _failure(path, error) from None
    if predictor is None:
        raise ConfigError("predictor", name, f"a class {class_name!r} in {path}")
    missing = [part for part in _PARTS if not hasattr(predictor, part)]
    if missing:
        raise ConfigError("predictor", name, f"a class with {', '.join(missing)} (docs/predictors.md)")
    return _Own(path, predictor, num_steps)


class _Own:
    """The user's predictor; its errors and forecasts of a wrong shape are named with their file."""

    def __init__(self, path: str, predictor: Any, num_steps: int) -> None:
        self._path, self._predictor, self._num_steps = path, predictor, num_steps
        self.is_conditional = bool(predictor.is_conditional)
        self.needs_context = needs_context(predictor)

    @property
    def agents(self) -> Sequence[str]:
        agents: Sequence[str] = self._predictor.agents
        return agents

    def forecast(self, workflow: Workflow, position: int) -> Forecast:
        try:
            rows = np.asarray(self._predictor.forecast(workflow, position), np.float64)
            expected = self._num_steps, len(self.agents) + 1
        except Exception as error:
            raise _failure(self._path, error) from None
        if rows.shape != expected:
            raise ConfigError(f"predictor {self._path}", f"a forecast of shape {rows.shape}", f"{expected}")
        return rows

    def end(self, workflow: Workflow) -> None:
        try:
            self._predictor.end(workflow)
        except Exception as error:
            raise _failure(self._path, error) from None


def _module(path: Path) -> object:
    spec = importlib.util.spec_from_file_location(f"pbkv_own_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError("this is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _failure(path: str, error: Exception) -> ConfigError:
    """With the last line of ``path`` that the error passed through."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(Path(path).absolute())]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    where = f"predictor {path}" + (f", line {line}" if line else "")
    return ConfigError(where, f"{type(error).__name__}: {error}", "no error in it")
