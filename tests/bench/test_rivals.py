"""The networks that ours is compared with: they learn, and know what a call shows and what went before."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="training needs torch (pip install 'pbkv[torch]')")
from bench.rivals import TRUNKS, OfSequences, perceptron, sequence  # noqa: E402
from pbkv.predict.fitting import TrainingOptions  # noqa: E402
from tests.predict.test_training import parts  # noqa: E402

TINY = TrainingOptions(size=8, num_epochs=15, learning_rate=0.02)


@pytest.mark.parametrize("name", TRUNKS)
def test_a_sequence_is_read_up_to_the_call_and_no_further(name: str) -> None:
    with torch.random.fork_rng():
        model = OfSequences(TRUNKS[name], 3, 2, 3, TINY).eval()
        current, contexts = torch.randint(3, (1, 20)), torch.randn(1, 20, 2)
        later, other = current.clone(), contexts.clone()
        later[:, 12:], other[:, 12:] = 0, 1.0
        earlier, past = current.clone(), contexts.clone()
        earlier[:, 5], past[:, 5] = (earlier[:, 5] + 1) % 3, 1.0
    with torch.no_grad():
        rows = model(current, contexts)
        assert torch.allclose(model(later, other)[:, :12], rows[:, :12], atol=1e-6)
        changed = model(earlier, past)
    assert torch.allclose(changed[:, :5], rows[:, :5], atol=1e-6)
    assert (changed[:, 11] - rows[:, 11]).abs().max() > 1e-6  # what went before does count


@pytest.mark.parametrize("name", TRUNKS)
def test_where_asked_it_reads_of_earlier_calls_the_agents_alone(name: str) -> None:
    with torch.random.fork_rng():
        model = OfSequences(TRUNKS[name], 3, 2, 3, TINY, sees_past_x=False).eval()
        current, contexts = torch.randint(3, (1, 9)), torch.randn(1, 9, 2)
        other = contexts.clone()
        other[:, :5] = 0.0
    with torch.no_grad():
        assert torch.allclose(model(current, other)[:, 5:], model(current, contexts)[:, 5:], atol=1e-6)


def test_they_learn_what_the_context_tells() -> None:
    split = parts()
    for name in TRUNKS:
        assert sequence(name, split, 2, "column", TINY)[0].top1 > 0.8
    assert perceptron(split, 2, "column", TINY)[0].top1 > 0.8
    assert perceptron(split, 2, "none", TINY)[0].top1 < 0.75
