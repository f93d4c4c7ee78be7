"""A predictor of the user's own: `file.py:Class`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pbkv.predict.forecast import Forecast, needs_context
from pbkv.traces.errors import ConfigError
from pbkv.traces.foreign_code import FAILURES, class_in, first_line, is_async, last_line, words

if TYPE_CHECKING:
    from pbkv.predict.forecast import Predictor
    from pbkv.traces.schema import Workflow

_PARTS = ("agents", "forecast", "end", "is_conditional")
_TOLERANCE = 1e-6  # of a row's sum
_ROWS = "finite numbers ≥ 0, each row with a sum of 1"


def own_predictor(name: str, num_steps: int) -> Predictor:
    """An instance of the class that ``name`` (path.py:Class) names, made with ``num_steps``.

    Raises ConfigError if the file cannot be run, lacks the class, or the class lacks a part of a
    predictor. It must say ``is_conditional`` itself: rows of the wrong sort would be used without notice.
    What it raises later becomes a ConfigError too, and so does a forecast that is none.
    """
    path, _, class_name = name.rpartition(":")
    kind = class_in(Path(path), class_name, "predictor", _failed)
    predictor = _called(path, lambda: kind(num_steps))
    missing = _called(path, lambda: [part for part in _PARTS if not hasattr(predictor, part)])
    if missing:
        raise ConfigError("predictor", name, f"a class with {', '.join(missing)} (docs/predictors.md)")
    for part in ("forecast", "end"):
        if is_async(method := getattr(predictor, part)):
            where = f"predictor {path}:{first_line(method)}"
            raise ConfigError(where, f"async {class_name}.{part}", "a plain method: def and not async def")
    return _Own(path, predictor, num_steps)


class _Own:
    """The user's predictor; its errors, and forecasts that are none, are named with their file."""

    def __init__(self, path: str, predictor: Any, num_steps: int) -> None:
        self._path, self._predictor, self._num_steps = path, predictor, num_steps
        self.is_conditional = _called(path, lambda: bool(predictor.is_conditional))
        self.needs_context = _called(path, lambda: needs_context(predictor))

    @property
    def agents(self) -> Sequence[str]:
        agents: Sequence[str] = _called(self._path, lambda: self._predictor.agents)
        return agents

    def forecast(self, workflow: Workflow, position: int) -> Forecast:
        def rows() -> Forecast:
            return np.asarray(self._predictor.forecast(workflow, position), np.float64)

        forecast: Forecast = _called(self._path, rows)
        self._check(forecast)
        return forecast

    def end(self, workflow: Workflow) -> None:
        _called(self._path, lambda: self._predictor.end(workflow))

    def _check(self, rows: Forecast) -> None:
        expected = self._num_steps, _called(self._path, lambda: len(self._predictor.agents)) + 1
        if rows.shape != expected:
            raise ConfigError(f"predictor {self._path}", f"a forecast of shape {rows.shape}", f"{expected}")
        with np.errstate(invalid="ignore"):  # inf − inf
            is_row = (rows >= 0).all(axis=1) & (abs(rows.sum(axis=1) - 1) <= _TOLERANCE)
        if not is_row.all():
            step = int(np.argmin(is_row))
            given = f"a forecast with row {step}: {rows[step].tolist()}"
            raise ConfigError(f"predictor {self._path}", given, _ROWS)


def _called(path: str, ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except FAILURES as error:
        raise _failed(last_line(error, path) or path, words(error)) from error


def _failed(where: str, problem: str) -> ConfigError:
    return ConfigError(f"predictor {where}", problem, "no error in it")
