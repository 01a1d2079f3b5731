"""Whether a difference between paired scores is more than noise: a bootstrap interval, and a sign test."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, lgamma, log, sqrt
from statistics import NormalDist, fmean

__all__ = ["SCORE_MOST", "PairedDifference", "paired_difference", "sign_test"]

#: The largest score: sums and squares of larger ones would not fit a float, here and in Postgres.
SCORE_MOST = 1e100
#: The share of resamples within the interval.
CONFIDENCE = 0.95
#: A sign test below this counts as more than noise.
SIGNIFICANT = 0.05
#: Scores that are drawn for one interval, and the fewest and the most resamples that they are divided into.
DRAWS, FEWEST, MOST = 2_000_000, 500, 5_000
#: The mean of so many differences is distributed normally, and drawing them again would take seconds.
NORMAL_FROM = 1000


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """The mean of differences between paired scores, second minus first.

    ``low`` and ``high`` are the ends of its 95 % interval, by bootstrap: the pairs are drawn again and again, with
    repeats; of a thousand pairs or more by the normal distribution, which the bootstrap comes to then. ``p_value`` is
    of the two-sided sign test: how often chance alone divides the pairs that differ into
    ``better`` and ``worse`` at least as unevenly.
    """

    mean: float
    low: float
    high: float
    better: int
    worse: int
    same: int
    p_value: float

    @property
    def is_more_than_noise(self) -> bool:
        """Whether both agree: the interval is on one side of zero, and the sign test is below 0.05."""
        return (self.low > 0 or self.high < 0) and self.p_value < SIGNIFICANT


def paired_difference(differences: Sequence[float]) -> PairedDifference:
    """The statistics of these differences, of which there is at least one. The same differences give the same result.

    Differences below a billionth count as none: they come from adding floating-point numbers.
    """
    values = [0.0 if abs(each) < 1e-9 else each for each in differences]
    better, worse = sum(each > 0 for each in values), sum(each < 0 for each in values)
    low, high = _interval(values)
    same = len(values) - better - worse
    return PairedDifference(sum(values) / len(values), low, high, better, worse, same, sign_test(better, worse))


def sign_test(better: int, worse: int) -> float:
    """The two-sided p-value for so many pairs better and worse, when both are as likely."""
    count = better + worse
    # By logarithms: the binomial coefficients of many pairs have thousands of digits.
    whole = lgamma(count + 1) - count * log(2)
    tail = sum(exp(whole - lgamma(few + 1) - lgamma(count - few + 1)) for few in range(min(better, worse) + 1))
    return min(1.0, 2 * tail)


def _interval(values: Sequence[float]) -> tuple[float, float]:
    count = len(values)
    if min(values) == max(values):
        return values[0], values[0]
    if count >= NORMAL_FROM:
        mean = fmean(values)
        variance = sum((value - mean) ** 2 for value in values) / (count - 1)
        half = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) * sqrt(variance / count)
        return mean - half, mean + half
    resamples = max(FEWEST, min(MOST, DRAWS // count))
    draw = random.Random(count)  # noqa: S311
    means = sorted(sum(draw.choices(values, k=count)) / count for _ in range(resamples))
    outside = round(resamples * (1 - CONFIDENCE) / 2)
    return means[outside], means[resamples - 1 - outside]
