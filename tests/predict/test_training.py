"""Training: torch and numpy agree, what follows END is masked, the context is used, a seed is a result."""

from __future__ import annotations

import numpy as np
import pytest

from pbkv.predict.accuracy import measured
from pbkv.predict.examples import examples_of, relations_of, targets_of
from pbkv.predict.network import history_of
from pbkv.predict.split import Split
from pbkv.predict.training import Trained, train_graph, train_markov
from pbkv.traces.schema import Workflow
from tests.predict.twin import workflow

torch = pytest.importorskip("torch", reason="training needs torch (pip install 'pbkv[torch]')")
from pbkv.predict.fitting import TrainingOptions  # noqa: E402
from pbkv.predict.graph_train import GraphNetwork, train_network  # noqa: E402

TINY = TrainingOptions(size=8, num_epochs=15, batch_size=32, learning_rate=0.02)


def toy(num_workflows: int, seed: int = 0) -> list[Workflow]:
    """After a comes b or c or nothing, by chance; the sign of x's two numbers tells which."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(num_workflows):
        path, shown = ["a"], []
        while len(path) < 9 and path[-1] != "end":
            x = rng.standard_normal(2)
            shown.append(x.tolist())
            path.append("a" if path[-1] != "a" else "b" if x[0] > 0.3 else "c" if x[1] > -0.6 else "end")
        agents = [agent for agent in path if agent != "end"]
        found.append(workflow(agents, shown[: len(agents)], name=f"w{index}"))
    return found


def parts() -> Split:
    workflows = toy(220)
    return Split(workflows[:120], workflows[120:140], workflows[140:])


def trained(seed: int = 0, kind: str = "column") -> Trained:
    from dataclasses import replace

    return train_graph(parts(), 2, kind, replace(TINY, seed=seed))


@pytest.mark.parametrize("kind", ["graph", "rgcn"])
def test_torch_and_numpy_give_the_same_forecasts(kind: str) -> None:
    agents, workflows = ["a", "b", "c"], toy(12)
    examples = examples_of(workflows, agents, 3, "column", 2)
    relations = relations_of(kind, [examples.current], 3)
    network, _ = train_network(examples, examples, relations, TINY)
    model = GraphNetwork(torch.from_numpy(relations), 2, 3, TINY).eval()
    state = {name: torch.from_numpy(array) for name, array in network.arrays.items()}
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    standard = network.standardised(examples.contexts)
    with torch.no_grad():
        logits = model(
            torch.from_numpy(examples.current),
            torch.from_numpy(examples.history[:, :3].astype(np.float32)),
            torch.from_numpy(standard),
        )
    expected = torch.softmax(logits, dim=2).numpy()
    found = network.forecasts(examples.current, examples.history, examples.contexts)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_targets_end_with_end_and_what_follows_it_is_masked() -> None:
    targets = targets_of([workflow("abz")], ["a", "b"], num_steps=3)
    assert targets.is_alive.tolist() == [[True, True, True], [True, True, False], [True, False, False]]
    assert targets.outcomes[targets.is_alive].tolist() == [1, 3, 2, 3, 2, 2]  # b z END, z END, END


def test_what_is_masked_teaches_nothing() -> None:
    """Half end after a, the others go on to b and then c: c is sure where one is alive."""
    workflows = [workflow("a" if i % 2 else "abc", name=f"w{i}") for i in range(200)]
    split = Split(workflows[:160], workflows[160:180], workflows[180:])
    rows = train_graph(split, 2, "none", TINY).predictor.forecast(workflow("a"), 0)
    np.testing.assert_allclose(rows[0], [0, 0.5, 0, 0.5], atol=0.1)  # b or END
    np.testing.assert_allclose(rows[1], [0, 0, 1, 0], atol=0.05)  # marginal rows would have c at one half


def test_the_network_beats_markov_where_the_context_tells() -> None:
    split = parts()
    learned = measured(trained().predictor, split.test, 2)
    counted = measured(train_markov(1, 2, split).predictor, split.test, 2)
    blind = measured(trained(kind="none").predictor, split.test, 2)
    assert learned[0].top1 > counted[0].top1 + 0.1
    assert learned[0].brier < counted[0].brier
    assert blind[0].top1 < learned[0].top1 - 0.1


def test_equal_seeds_give_equal_networks_and_others_do_not() -> None:
    first, second, other = trained(1), trained(1), trained(2)
    for name, array in first.arrays.items():
        np.testing.assert_array_equal(array, second.arrays[name])
    assert (first.arrays["embedding"] != other.arrays["embedding"]).any()


def test_agents_met_only_after_training_do_not_disturb_it() -> None:
    split = parts()
    strange = Split(split.training, [*split.stopping, workflow("axbxc", name="x")], split.test)
    predictor = train_graph(strange, 2, "column", TINY).predictor
    assert set(predictor.agents) == set("abc")
    assert np.isfinite(predictor.forecast(workflow("axb"), 2)).all()


def test_transitions_are_shares_of_what_followed() -> None:
    paths = [np.array([0, 1, 0, 2]), np.array([0, 1])]
    followed = np.array([[0, 2 / 3, 1 / 3], [1, 0, 0], [0, 0, 0]])
    np.testing.assert_allclose(relations_of("graph", paths, 3), followed, rtol=1e-6)
    preceded = np.array([[0, 1, 0], [1, 0, 0], [1, 0, 0]])
    np.testing.assert_allclose(relations_of("rgcn", paths, 3), np.stack([followed, preceded]), rtol=1e-6)


def test_a_history_counts_earlier_calls_only() -> None:
    assert history_of(np.array([0, 1, 0]), 2).tolist() == [[0, 0], [1, 0], [1, 1]]
