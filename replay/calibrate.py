"""Measures a machine and a model, and fits the cost model of the simulator to them.

    t(iteration) = t0 + lin(T) + a_p·Σ q(c + q/2) + a_g·Σ (c + q) + a_d·Σ c_dec + a_s·B
    t(copy)      = latency + bytes / bandwidth[direction, is the other direction busy]

Coefficients ≥ 0 by least squares on relative errors; ``lin`` is straight between powers of two. The
simulator reads the result as a calibrated profile: the TOML file is all that the two share.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import Literal, Protocol

import numpy as np

from pbkv.replay.nnls import Floats, nnls
from pbkv.replay.shapes import Scale, Shape, shapes_to_fit, shapes_to_hold_out, sums_of

Direction = Literal["h2d", "d2h"]
MAPE_BAR, P95_BAR = 0.05, 0.10
NUM_HELD_OUT = 20
_LINKS: tuple[tuple[Direction, bool], ...] = (
    ("h2d", False),
    ("d2h", False),
    ("h2d", True),
    ("d2h", True),
)
_NUM_REWEIGHTINGS = 8
_LARGEST_RATIO = 10.0  # of measured to predicted, in weights: no single time rules the fit
_LEAST_S = 1e-9  # of t0: the cost model wants an iteration to take some time


class Bench(Protocol):
    """What is measured. Each call runs once and gives its seconds."""

    @property
    def page_bytes(self) -> int: ...
    @property
    def max_copy_pages(self) -> int: ...
    def iteration_s(self, shape: Shape) -> float: ...
    def copy_s(self, num_pages: int, direction: Direction, other_busy: bool) -> float: ...


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative errors of predictions: mean of the absolute ones, their 95th percentile, mean, number."""

    mape: float
    p95: float
    bias: float
    number: int

    @classmethod
    def of(cls, predicted: Sequence[float], measured: Sequence[float]) -> Errors:
        relative = np.asarray(predicted) / np.asarray(measured) - 1
        absolute = np.abs(relative)
        p95 = float(np.quantile(absolute, 0.95))
        return cls(float(absolute.mean()), p95, float(relative.mean()), len(relative))


@dataclass(frozen=True, slots=True)
class IterationFit:
    """Coefficients of t(iteration); ``lin`` holds knots (tokens, seconds) that never fall."""

    t0_s: float
    lin: tuple[tuple[int, float], ...]
    a_p: float
    a_g: float
    a_d: float
    a_s: float

    def seconds(self, shape: Shape) -> float:
        tokens, sequences, work, gathered, context = sums_of(shape)
        linear_s = self.t0_s + self._lin_s(tokens) + self.a_s * sequences
        return linear_s + self.a_p * work + self.a_g * gathered + self.a_d * context

    def _lin_s(self, tokens: int) -> float:
        slopes = _slopes(self.lin)
        return float(_pieces(tokens, [knot for knot, _ in self.lin]) @ slopes) + self.lin[0][1]


@dataclass(frozen=True, slots=True)
class LinkFit:
    """One latency for all, and a rate for each direction, alone and beside the other."""

    latency_s: float
    bytes_per_s: Mapping[tuple[Direction, bool], float]

    def seconds(self, num_bytes: int, direction: Direction, other_busy: bool) -> float:
        return self.latency_s + num_bytes / self.bytes_per_s[direction, other_busy]


@dataclass(frozen=True, slots=True)
class Calibration:
    """The fits with their errors on what they were fitted to, and on iterations held out."""

    iterations: IterationFit
    link: LinkFit
    fitted: Errors
    held_out: Errors
    copies: Errors
    held_out_s: tuple[tuple[float, float], ...]  # (predicted, measured)

    @property
    def is_accepted(self) -> bool:
        return self.held_out.mape <= MAPE_BAR and self.held_out.p95 <= P95_BAR


def calibrate(
    bench: Bench,
    scale: Scale,
    *,
    num_repeats: int = 7,
    num_held_out: int = NUM_HELD_OUT,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Measure on ``bench`` what fits into ``scale``, medians of ``num_repeats``, and fit.

    ``progress`` is told how many of how many measurements are done.
    """
    shapes, others = shapes_to_fit(scale), shapes_to_hold_out(scale, num_held_out, seed)
    copies = [(size, *link) for link, size in product(_LINKS, _copy_sizes(bench.max_copy_pages))]
    tell = _counted(progress, (len(shapes) + len(others) + len(copies)) * (num_repeats + 1))
    seconds = _medians(bench.iteration_s, [(shape,) for shape in [*shapes, *others]], num_repeats, seed, tell)
    copy_s = _medians(bench.copy_s, copies, num_repeats, seed, tell)
    fit = fit_iterations(shapes, seconds[: len(shapes)], scale.max_batched_tokens)
    link = fit_link([(size * bench.page_bytes, *kind) for size, *kind in copies], copy_s)  # type: ignore[misc] # a tuple's tail
    predicted, measured = [fit.seconds(shape) for shape in others], seconds[len(shapes) :]
    link_s = [link.seconds(size * bench.page_bytes, *kind) for size, *kind in copies]  # type: ignore[arg-type] # the same
    return Calibration(
        fit,
        link,
        Errors.of([fit.seconds(shape) for shape in shapes], seconds[: len(shapes)]),
        Errors.of(predicted, measured),
        Errors.of(link_s, copy_s),
        tuple(zip(predicted, measured, strict=True)),
    )


def fit_iterations(shapes: Sequence[Shape], seconds: Sequence[float], max_tokens: int) -> IterationFit:
    """The coefficients ≥ 0 with the least squared relative errors over ``shapes``."""
    knots = _knots(shapes, max_tokens)
    rows = [_features(shape, knots) for shape in shapes]
    t0_s, a_p, a_g, a_d, a_s, *slopes = _relative_fit(np.array(rows), seconds).tolist()
    levels = np.concatenate([[0.0], np.cumsum(np.array(slopes) * np.diff(knots))])
    lin = tuple(zip(knots, levels.tolist(), strict=True))
    return IterationFit(max(t0_s, _LEAST_S), lin, a_p, a_g, a_d, a_s)


def fit_link(copies: Sequence[tuple[int, Direction, bool]], seconds: Sequence[float]) -> LinkFit:
    """``copies`` are (bytes, direction, whether the other was busy)."""
    rows = [[1.0, *(size * ((way, busy) == link) for link in _LINKS)] for size, way, busy in copies]
    latency_s, *per_byte_s = _relative_fit(np.array(rows, np.float64), seconds).tolist()
    rates = {}
    for link, each_s in zip(_LINKS, per_byte_s, strict=True):
        largest_s = max((s, c[0]) for c, s in zip(copies, seconds, strict=True) if c[1:] == link)
        rates[link] = 1 / each_s if each_s > 0 else largest_s[1] / largest_s[0]  # as fast as was seen
    return LinkFit(latency_s, rates)


# ---------------------------------------------------------------------- measuring


def _medians(
    measure: Callable[..., float],
    cases: Sequence[tuple[object, ...]],
    num_repeats: int,
    seed: int,
    tell: Callable[[], None],
) -> list[float]:
    """Each case once to warm up and ``num_repeats`` times, in rounds of random order: drift hits all."""
    found: list[list[float]] = [[] for _ in cases]
    order, rng = list(range(len(cases))), random.Random(seed)
    for turn in range(num_repeats + 1):
        for index in order:
            seconds = measure(*cases[index])
            if turn:
                found[index].append(seconds)
            tell()
        rng.shuffle(order)
    return [median(repeats) for repeats in found]


def _copy_sizes(most: int) -> list[int]:
    return [size for size in (2**power for power in range(20)) if size <= most]


def _counted(progress: Callable[[int, int], None] | None, total: int) -> Callable[[], None]:
    num_done = 0

    def tell() -> None:
        nonlocal num_done
        num_done += 1
        if progress is not None:
            progress(num_done, total)

    return tell


# ---------------------------------------------------------------------- fitting


def _relative_fit(rows: Floats, seconds: Sequence[float]) -> Floats:
    """x ≥ 0 with the least Σ (row · x − seconds)² / (row · x · seconds), by reweighting.

    Errors relative to what was measured alone would be smallest for an x that is too small: of a time
    that noise has doubled, half is missed, but one that noise has halved is exceeded by all of it.
    """
    measured = np.asarray(seconds)
    scales = measured
    for _ in range(_NUM_REWEIGHTINGS):
        found = nnls(rows / scales[:, None], measured / scales)
        scales = np.sqrt(measured * np.maximum(rows @ found, measured / _LARGEST_RATIO))
    return found


def _features(shape: Shape, knots: Sequence[int]) -> list[float]:
    tokens, sequences, work, gathered, context = sums_of(shape)
    return [1.0, work, gathered, context, sequences, *_pieces(tokens, knots)]


def _knots(shapes: Iterable[Shape], max_tokens: int) -> list[int]:
    """Powers of two with a shape between each and the next; the last is ``max_tokens``."""
    sizes = sorted({sum(q for q, _ in shape) for shape in shapes})
    knots = [1]
    for knot in (2**power for power in range(3, 30)):
        if knot < max_tokens and any(knots[-1] < size <= knot for size in sizes):
            knots.append(knot)
    return [*knots, max_tokens]


def _pieces(tokens: int, knots: Sequence[int]) -> Floats:
    """How far ``tokens`` go into each piece; behind the last knot the last piece goes on."""
    starts, widths = np.array(knots[:-1], np.float64), np.diff(knots).astype(np.float64)
    widths[-1] = np.inf
    into: Floats = np.clip(tokens - starts, 0.0, widths)
    return into


def _slopes(lin: Sequence[tuple[int, float]]) -> Floats:
    tokens, seconds = np.array(lin, np.float64).T
    slopes: Floats = np.diff(seconds) / np.diff(tokens)
    return slopes
