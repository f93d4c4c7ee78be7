"""Seconds of an iteration and of a copy: closed formulas over a few coefficients.

    t(iteration) = t0 + lin(T) + a_p·Σ q(c + q/2) + a_g·Σ (c + q) + a_d·Σ c_dec + a_s·B
    t(copy)      = latency + bytes / bandwidth[direction, is the other direction busy]

T tokens of the iteration (a decoding sequence counts one), q tokens of a prefill chunk, c tokens of
context before it, c_dec tokens held by a decoding sequence, B sequences in the batch. docs/cost-model.md
says where each coefficient comes from and what is left out.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise

from pbkv.traces.errors import ConfigError


@dataclass(frozen=True, slots=True)
class CostModel:
    """Coefficients of t(iteration), in seconds per what they are multiplied by.

    ``lin`` holds knots (tokens, seconds) with rising tokens, the first at one token or none, and seconds
    that never fall; in between and behind the last it goes on straight. Raises ConfigError.
    """

    t0_s: float
    lin: tuple[tuple[int, float], ...]
    a_p: float
    a_g: float
    a_d: float
    a_s: float
    _starts: tuple[int, ...] = field(init=False, repr=False, compare=False)  # where pieces 1, 2, … begin
    _pieces: tuple[tuple[float, float], ...] = field(
        init=False, repr=False, compare=False
    )  # (at T = 0, slope)

    def __post_init__(self) -> None:
        for name in ("t0_s", "a_p", "a_g", "a_d", "a_s"):
            _require(name, getattr(self, name), least=0.0)
        _check_knots(self.lin, self.t0_s)
        pieces = []
        for (tokens, seconds), (next_tokens, next_seconds) in pairwise(self.lin):
            slope = (next_seconds - seconds) / (next_tokens - tokens)
            pieces.append((self.t0_s + seconds - slope * tokens, slope))
        object.__setattr__(self, "_starts", tuple(tokens for tokens, _ in self.lin[1:-1]))
        object.__setattr__(self, "_pieces", tuple(pieces))

    def iteration_s(
        self,
        num_tokens: int,
        num_sequences: int,
        prefill_work: float,
        gathered_tokens: int,
        decode_context: int,
    ) -> float:
        """Seconds of one iteration of T = ``num_tokens`` ≥ 1 and B = ``num_sequences``.

        ``prefill_work`` is Σ q(c + q/2) and ``gathered_tokens`` Σ (c + q) over the prefill chunks,
        ``decode_context`` Σ c over the decoding sequences.
        """
        offset_s, slope = self._pieces[bisect_right(self._starts, num_tokens)]
        return (
            offset_s
            + slope * num_tokens
            + self.a_p * prefill_work
            + self.a_g * gathered_tokens
            + self.a_d * decode_context
            + self.a_s * num_sequences
        )

    def decode_run_s(self, num_sequences: int, decode_context: int, num_iterations: int) -> float:
        """Seconds of ``num_iterations`` pure decode iterations in a row, in which no sequence ends.

        ``decode_context`` is Σ c at the first; it grows by ``num_sequences`` with each.
        """
        first_s = self.iteration_s(num_sequences, num_sequences, 0.0, 0, decode_context)
        half_growth_s = 0.5 * self.a_d * num_sequences
        return num_iterations * (first_s + half_growth_s * (num_iterations - 1))

    def decode_iterations_until(self, num_sequences: int, decode_context: int, seconds: float) -> int:
        """The least n ≥ 1 whose ``decode_run_s`` is at least ``seconds`` (finite).

        ``decode_context`` ≥ ``num_sequences``: a decoding sequence holds a token at least.
        """
        first_s = self.iteration_s(num_sequences, num_sequences, 0.0, 0, decode_context)
        if seconds <= first_s:
            return 1
        half_growth_s = 0.5 * self.a_d * num_sequences
        linear_s = first_s - half_growth_s  # half_growth·n² + linear·n = seconds, solved without cancellation
        root = 2.0 * seconds / (linear_s + math.sqrt(linear_s * linear_s + 4.0 * half_growth_s * seconds))
        num_iterations = max(1, int(root) - 1)  # below the answer whatever the rounding: now step up to it
        while num_iterations * (first_s + half_growth_s * (num_iterations - 1)) < seconds:
            num_iterations += 1
        return num_iterations

    def to_dict(self) -> dict[str, object]:
        """The [cost] table of a calibrated profile."""
        return {
            "t0_s": self.t0_s,
            "lin": [list(knot) for knot in self.lin],
            "a_p": self.a_p,
            "a_g": self.a_g,
            "a_d": self.a_d,
            "a_s": self.a_s,
        }


@dataclass(frozen=True, slots=True)
class LinkModel:
    """The host link: seconds before the first byte, and bytes per second by direction.

    ``…_contended`` holds while the other direction is copying too. Raises ConfigError.
    """

    latency_s: float
    h2d_bytes_per_s: float
    d2h_bytes_per_s: float
    h2d_bytes_per_s_contended: float
    d2h_bytes_per_s_contended: float

    def __post_init__(self) -> None:
        for item in fields(self):
            _require(item.name, getattr(self, item.name), least=0.0)
            if item.name != "latency_s" and not getattr(self, item.name):
                raise ConfigError(item.name, 0, "a number > 0")

    def h2d_s(self, num_bytes: int, other_busy: bool) -> float:
        """Seconds to copy ``num_bytes`` up to the GPU."""
        per_s = self.h2d_bytes_per_s_contended if other_busy else self.h2d_bytes_per_s
        return self.latency_s + num_bytes / per_s

    def d2h_s(self, num_bytes: int, other_busy: bool) -> float:
        """Seconds to copy ``num_bytes`` down to the host."""
        per_s = self.d2h_bytes_per_s_contended if other_busy else self.d2h_bytes_per_s
        return self.latency_s + num_bytes / per_s

    def with_bandwidth(
        self, h2d_bytes_per_s: float | None = None, d2h_bytes_per_s: float | None = None
    ) -> LinkModel:
        """The link with a direction set to exactly this rate, whatever the other direction does."""
        link = self
        if h2d_bytes_per_s is not None:
            link = replace(link, h2d_bytes_per_s=h2d_bytes_per_s, h2d_bytes_per_s_contended=h2d_bytes_per_s)
        if d2h_bytes_per_s is not None:
            link = replace(link, d2h_bytes_per_s=d2h_bytes_per_s, d2h_bytes_per_s_contended=d2h_bytes_per_s)
        return link

    def to_dict(self) -> dict[str, object]:
        """The [link] table of a profile."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


def _require(name: str, value: object, least: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
        raise ConfigError(name, value, f"a finite number ≥ {least:g}")


def _check_knots(knots: Sequence[tuple[int, float]], t0_s: float) -> None:
    if len(knots) < 2:
        raise ConfigError("lin", knots, "at least two knots (tokens, seconds)")
    for tokens, seconds in knots:
        if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 0:
            raise ConfigError("lin", tokens, "whole tokens ≥ 0 in each knot")
        _require("lin", seconds, least=0.0)
    for (tokens, seconds), (next_tokens, next_seconds) in pairwise(knots):
        if next_tokens <= tokens or next_seconds < seconds:
            raise ConfigError("lin", [next_tokens, next_seconds], f"above {tokens} tokens and ≥ {seconds} s")
    if knots[0][0] > 1:
        raise ConfigError("lin", knots[0][0], "a first knot at 0 or 1 tokens")
    if t0_s + knots[0][1] <= 0.0:
        raise ConfigError("lin", knots[0][1], "t0_s and the first knot's seconds not both 0")
