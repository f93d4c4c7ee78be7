"""Predictors by name.

none            knows nothing (the floor)
oracle          the trace's own future (the ceiling)
markov:N        learns while serving, from nothing
markov:N:FILE   learnt beforehand
graph:FILE      the paper's network
rgcn:FILE       the same with relational graph layers
FILE            whatever `pbkv train` has put into it
FILE.py:CLASS   the user's own
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pbkv.predict.forecast import as_conditional
from pbkv.predict.markov import Markov
from pbkv.predict.noisy import Noisy
from pbkv.predict.oracle import Oracle
from pbkv.predict.silent import Silent
from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    from pbkv.predict.forecast import Predictor

_EXPECTED = (
    "none, oracle, markov:N (N the number of agents looked back at), markov:N:FILE, graph:FILE, rgcn:FILE "
    "or FILE"
)


def named_predictor(name: str, num_steps: int, noise: float = 0.0) -> Predictor:
    """The predictor called ``name`` (see the module), mixed with ``noise``; its rows are conditional.

    Raises ConfigError for a name, file or K that cannot be used.
    """
    predictor = as_conditional(_named(name, num_steps))
    return Noisy(predictor, noise) if noise else predictor


def _named(name: str, num_steps: int) -> Predictor:
    from pbkv.predict.saved import load_predictor

    kind, _, rest = name.partition(":")
    if name == "none":
        return Silent(num_steps)
    if name == "oracle":
        return Oracle(num_steps)
    if kind == "markov":
        order, _, file = rest.partition(":")
        if order.isdigit():
            kind = f"markov:{int(order)}"
            return load_predictor(Path(file), num_steps, kind) if file else Markov(int(order), num_steps)
    elif kind in ("graph", "rgcn") and rest:
        return load_predictor(Path(rest), num_steps, kind)
    elif ".py:" in name:
        from pbkv.predict.own import own_predictor

        return own_predictor(name, num_steps)
    elif Path(name).suffix or Path(name).exists():
        return load_predictor(Path(name), num_steps)
    raise ConfigError("predictor", name, _EXPECTED)
