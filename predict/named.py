"""Predictors by name: ``markov:N`` (learns while serving), ``oracle``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pbkv.predict.markov import Markov
from pbkv.predict.noisy import Noisy
from pbkv.predict.oracle import Oracle
from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    from pbkv.predict.forecast import Predictor


def named_predictor(name: str, num_steps: int, noise: float = 0.0) -> Predictor:
    """The predictor called ``name``, mixed with ``noise``. Raises ConfigError."""
    kind, _, order = name.partition(":")
    predictor: Predictor
    if name == "oracle":
        predictor = Oracle(num_steps)
    elif kind == "markov" and order.isdigit():
        predictor = Markov(int(order), num_steps)
    else:
        raise ConfigError("predictor", name, "oracle or markov:N (N the number of agents looked back at)")
    return Noisy(predictor, noise) if noise else predictor
