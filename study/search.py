"""Finds the smallest of rising sizes that meets a target, by asking for few of them.

More memory usually helps, but nothing says that it must: an order of eviction, or of arrivals that it
shifts, may do worse with more. The answer is therefore the smallest size from which on *every* size that was
looked at meets the target; sizes below it that met it too are reported, not hidden.
"""

from __future__ import annotations

from dataclasses import dataclass, field

COARSE = 5  # sizes at equal distances that are looked at first: the curve, and the check for exceptions


@dataclass
class Search:
    """What is known of ``num_sizes`` rising sizes: ``met[i]`` says whether size i meets the target."""

    num_sizes: int
    met: dict[int, bool] = field(default_factory=dict)

    def wanted(self) -> list[int]:
        """Sizes to look at next; none when the answer is known."""
        last = self.num_sizes - 1
        coarse = sorted({round(last * step / (COARSE - 1)) for step in range(COARSE)})
        if missing := [index for index in coarse if index not in self.met]:
            return missing
        answer, below = self.answer(), self._highest_miss()
        if answer is None:
            return []
        if answer - below > 1:
            return [(answer + below) // 2]
        return [answer + 1] if answer < last and answer + 1 not in self.met else []

    def answer(self) -> int | None:
        """The smallest size above every known miss; None if the largest is a miss."""
        above = [index for index, met in self.met.items() if met and index > self._highest_miss()]
        return min(above, default=None)

    def exceptions(self) -> list[int]:
        """Sizes that meet the target although a larger one does not."""
        return sorted(index for index, met in self.met.items() if met and index < self._highest_miss())

    def _highest_miss(self) -> int:
        return max((index for index, met in self.met.items() if not met), default=-1)


def geometric(smallest: int, largest: int, step: float) -> list[int]:
    """Rising sizes from one to the other, each about ``step`` (a share) larger than the last."""
    sizes = [smallest]
    while sizes[-1] < largest:
        sizes.append(min(largest, max(sizes[-1] + 1, round(sizes[-1] * (1 + step)))))
    return sizes
