"""From a split to a predictor that has learnt, with what a file must say of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pbkv
from pbkv.predict.context import num_dims_of
from pbkv.predict.examples import agents_of, columns_of, examples_of, path_of, relations_of
from pbkv.predict.graph import Graph
from pbkv.predict.markov import Markov
from pbkv.predict.model_file import Facts
from pbkv.predict.network import RELATIONS
from pbkv.predict.saved import Arrays, markov_arrays
from pbkv.traces.errors import ConfigError, InputError

if TYPE_CHECKING:
    from pbkv.predict.fitting import TrainingOptions
    from pbkv.predict.split import Split
    from pbkv.traces.schema import Workflow

Report = Callable[[int, float], None]


class TorchMissingError(InputError):
    """Training a network needs torch."""

    def __str__(self) -> str:
        return "torch is not installed, and training a network needs it: pip install 'pbkv[torch]'"


@dataclass(frozen=True, slots=True)
class Trained:
    """A predictor, the arrays that it is made of, and what is known of it."""

    predictor: Graph | Markov
    arrays: Arrays
    facts: Facts


def check_kind(kind: str) -> None:
    """Raises ConfigError for no kind, TorchMissingError where a network cannot be trained."""
    if kind in RELATIONS:
        if find_spec("torch") is None:
            raise TorchMissingError
    elif not (kind.startswith("markov:") and kind.removeprefix("markov:").isdigit()):
        raise ConfigError("kind", kind, "graph, rgcn or markov:N")


def context_kind_of(wanted: str, workflows: Sequence[Workflow]) -> str:
    """``wanted``, or for auto: column where the workflows have vectors, else hash."""
    if wanted == "column" and not num_dims_of("column", workflows):
        raise ConfigError("context", wanted, "a trace with context vectors (or hash, or none)")
    if wanted != "auto":
        return wanted
    return "column" if num_dims_of("column", workflows) else "hash"


def train_markov(order: int, num_steps: int, split: Split) -> Trained:
    """Learns from the training part; the stopping part is left out, so that others compare with it."""
    markov = Markov(order, num_steps, learns_online=False)
    markov.learn(split.training)
    facts = Facts(
        f"markov:{order}", tuple(markov.agents), num_steps, split=_parts(split), versions=_versions()
    )
    return Trained(markov, markov_arrays(markov), facts)


def train_graph(
    split: Split,
    num_steps: int,
    context_kind: str,
    options: TrainingOptions,
    report: Report = lambda epoch, loss: None,
    kind: str = "graph",
) -> Trained:
    """The paper's network, or the one with relational layers (``kind`` rgcn).

    It learns from the training part, and ends where the stopping part's loss is least.
    """
    from pbkv.predict.graph_train import train_network

    agents = agents_of(split.training)
    num_dims = num_dims_of(context_kind, split.training)
    training, stopping = (
        examples_of(part, agents, num_steps, context_kind, num_dims)
        for part in (split.training, split.stopping)
    )
    columns = columns_of(agents)
    relations = relations_of(kind, [path_of(w, columns) for w in split.training], len(agents))
    network, epoch = train_network(training, stopping, relations, options, report)
    how = {name: getattr(options, name) for name in options.__dataclass_fields__}
    facts = Facts(
        kind,
        agents,
        num_steps,
        context_kind,
        num_dims,
        split=_parts(split),
        training={**how, "epoch": epoch},
        versions=_versions("torch", "numpy"),
    )
    return Trained(Graph(agents, network, context_kind), network.arrays, facts)


def _parts(split: Split) -> dict[str, object]:
    return {f"num_{name}": len(getattr(split, name)) for name in ("training", "stopping", "test")}


def _versions(*packages: str) -> dict[str, str]:
    return {"pbkv": pbkv.__version__, **{package: version(package) for package in packages}}
