"""Calibration finds the law of a machine that has one, and says so of a machine that has another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from pbkv.replay.calibrate import Calibration, Direction, calibrate
from pbkv.replay.nnls import nnls
from pbkv.replay.profile_file import write_profile
from pbkv.replay.shapes import Scale, Shape, shapes_to_fit, shapes_to_hold_out, sums_of
from pbkv.sim.cost_model import CostModel, LinkModel
from pbkv.sim.profile import load_profile
from pbkv.traces.errors import ConfigError

SCALE = Scale(2048, 8192, 64, 131_072)
LAW = CostModel(4e-4, ((1, 0.0), (256, 1e-4), (2048, 3.7e-3)), 2e-10, 3e-9, 5e-9, 2e-6)
LINK = LinkModel(2e-5, 5e10, 4e10, 4.2e10, 3.1e10)
PAGE_BYTES = 1 << 20


class SyntheticBench:
    """A machine that follows a law, give or take ``noise``."""

    page_bytes, max_copy_pages = PAGE_BYTES, 64

    def __init__(self, law: Callable[[Shape], float], noise: float) -> None:
        self._law, self._noise, self._rng = law, noise, np.random.default_rng(5)

    def iteration_s(self, shape: Shape) -> float:
        return self._law(shape) * self._factor()

    def copy_s(self, num_pages: int, direction: Direction, other_busy: bool) -> float:
        seconds = LINK.h2d_s if direction == "h2d" else LINK.d2h_s
        return seconds(num_pages * PAGE_BYTES, other_busy) * self._factor()

    def _factor(self) -> float:
        return float(np.exp(self._noise * self._rng.standard_normal()))


def the_law(shape: Shape) -> float:
    tokens, sequences, work, gathered, context = sums_of(shape)
    return LAW.iteration_s(tokens, sequences, work, gathered, context)


def quantised(shape: Shape) -> float:
    """Outside the model: attention costs by the longest sequence, for all of them."""
    longest = max(q + c for q, c in shape)
    return 1e-4 + 1e-7 * longest * len(shape) * (1 + sum(q for q, _ in shape) // 128)


def written(found: Calibration, path: Path, **more: bool) -> Path:
    write_profile(
        path,
        found,
        kv_bytes_per_token=131_072,
        kv_memory_bytes=1 << 34,
        max_batched_tokens=2048,
        source={"machine": 'a "synthetic" one'},
        **more,
    )
    return path


def test_a_law_without_noise_is_found_again() -> None:
    found = calibrate(SyntheticBench(the_law, 0.0), SCALE, num_repeats=1)
    fit = found.iterations
    assert [fit.a_p, fit.a_g, fit.a_d, fit.a_s] == pytest.approx([LAW.a_p, LAW.a_g, LAW.a_d, LAW.a_s])
    for tokens in (1, 17, 256, 1000, 2048, 4000):  # t0 and lin are known by their sum alone
        assert fit.seconds([(tokens, 0)]) == pytest.approx(the_law([(tokens, 0)]))
    assert found.held_out.mape < 1e-6
    assert (found.held_out.number, found.is_accepted) == (20, True)
    assert found.link.latency_s == pytest.approx(LINK.latency_s)
    rates = [LINK.h2d_bytes_per_s, LINK.d2h_bytes_per_s]
    rates += [LINK.h2d_bytes_per_s_contended, LINK.d2h_bytes_per_s_contended]
    assert list(found.link.bytes_per_s.values()) == pytest.approx(rates)


def test_noise_costs_less_than_its_own_size() -> None:
    found = calibrate(SyntheticBench(the_law, 0.05), SCALE)
    assert found.held_out.mape < 0.05  # medians of seven, of both the fit's data and what it is held to
    assert abs(found.held_out.bias) < 0.03
    assert found.is_accepted
    assert found.iterations.a_d == pytest.approx(LAW.a_d, rel=0.15)
    assert found.iterations.a_p == pytest.approx(LAW.a_p, rel=0.25)
    assert found.link.bytes_per_s["h2d", False] == pytest.approx(LINK.h2d_bytes_per_s, rel=0.05)


def test_a_machine_outside_the_model_is_said_to_be_so() -> None:
    found = calibrate(SyntheticBench(quantised, 0.0), SCALE, num_repeats=1)
    assert found.held_out.mape > 0.10
    assert not found.is_accepted


def test_the_simulator_reads_the_same_seconds_from_the_file(tmp_path: Path) -> None:
    found = calibrate(SyntheticBench(the_law, 0.02), SCALE, num_repeats=3)
    profile = load_profile(str(written(found, tmp_path / "machine.toml")))
    for shape in [*shapes_to_fit(SCALE), *shapes_to_hold_out(SCALE, 20, 9)]:
        tokens, sequences, work, gathered, context = sums_of(shape)
        simulated = profile.cost.iteration_s(tokens, sequences, work, gathered, context)
        assert simulated == pytest.approx(found.iterations.seconds(shape), rel=1e-9)
    for busy in (False, True):
        assert profile.link.h2d_s(1 << 24, busy) == pytest.approx(found.link.seconds(1 << 24, "h2d", busy))
        assert profile.link.d2h_s(1 << 24, busy) == pytest.approx(found.link.seconds(1 << 24, "d2h", busy))
    assert (profile.kv_bytes_per_token, profile.default_kv_bytes) == (131_072, 1 << 34)
    assert profile.max_batched_tokens == 2048
    assert profile.inputs["source"]["machine"] == 'a "synthetic" one'


def test_a_file_is_replaced_only_by_force(tmp_path: Path) -> None:
    found = calibrate(SyntheticBench(the_law, 0.0), SCALE, num_repeats=1)
    path = written(found, tmp_path / "machine.toml")
    with pytest.raises(ConfigError, match=r"machine\.toml, expected a path that does not exist"):
        written(found, path)
    written(found, path, force=True)
    assert [file.name for file in tmp_path.iterdir()] == ["machine.toml"]


def test_shapes_stay_within_their_scale_and_cover_the_kinds() -> None:
    for scale in (Scale(), SCALE, Scale(256, 512, 8, 2048)):
        shapes = [*shapes_to_fit(scale), *shapes_to_hold_out(scale, 20, 0)]
        assert all(scale.holds(shape) and shape for shape in shapes)
        kinds = {(any(q == 1 for q, _ in shape), any(q > 1 for q, _ in shape)) for shape in shapes}
        assert kinds == {(True, False), (False, True), (True, True)}
    assert 105 <= len(shapes_to_fit(Scale())) <= 125
    assert shapes_to_hold_out(SCALE, 20, 0) != shapes_to_hold_out(SCALE, 20, 1)


def test_progress_ends_at_its_total() -> None:
    told: list[tuple[int, int]] = []
    bench = SyntheticBench(the_law, 0.0)
    calibrate(bench, SCALE, num_repeats=2, progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] == len(told)


@pytest.mark.parametrize(
    ("values", "expected"),
    [((32, 512, 8, 2048), "max_batched_tokens"), ((256, 512, 8, 700), "max_pool_tokens")],
)
def test_scales_too_small_are_refused(values: Sequence[int], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        Scale(*values)


def test_nnls_equals_the_best_of_all_active_sets() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        matrix, target = rng.standard_normal((12, 5)), rng.standard_normal(12)
        best = min(_fits(matrix, target), key=lambda x: float(np.linalg.norm(matrix @ x - target)))
        assert nnls(matrix, target) == pytest.approx(best, abs=1e-9)


def _fits(matrix: np.ndarray, target: np.ndarray) -> list[np.ndarray]:
    """Naive twin: the least squares over every subset of columns that come out ≥ 0."""
    found = []
    for subset in range(2 ** matrix.shape[1]):
        free = [column for column in range(matrix.shape[1]) if subset >> column & 1]
        solution = np.zeros(matrix.shape[1])
        if free:
            solution[free] = np.linalg.lstsq(matrix[:, free], target, rcond=None)[0]
        if (solution >= 0).all():
            found.append(solution)
    return found
