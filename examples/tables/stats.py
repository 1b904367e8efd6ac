"""Means over seeds, and gains seed by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.stats import t

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over `count` seeds and what it is worth: None where one seed cannot say."""

    mean: float
    spread: float | None
    count: int


def summary(values: Mapping[int, float]) -> Estimate | None:
    """Mean and standard deviation (of a sample, n - 1) over seeds; None without any.

    Example:
        >>> summary({0: 1.0, 1: 2.0, 2: 6.0})
        Estimate(mean=3.0, spread=2.6457513110645907, count=3)
        >>> summary({0: 1.0})
        Estimate(mean=1.0, spread=None, count=1)
    """
    if not values:
        return None
    numbers = list(values.values())
    return Estimate(fmean(numbers), stdev(numbers) if len(numbers) > 1 else None, len(numbers))


def gain(values: Mapping[int, float], base: Mapping[int, float]) -> Estimate | None:
    """Mean of the differences of equal seeds, and half the width of its 95 % interval by Student's t.

    The interval assumes that the differences are normally distributed. Seeds that only one side has do not count.

    Example:
        >>> gain({0: 2.0, 1: 4.0, 2: 9.0}, {0: 1.0, 1: 2.0, 3: 0.0})
        Estimate(mean=1.5, spread=6.35310..., count=2)
    """
    differences = summary({seed: values[seed] - base[seed] for seed in values if seed in base})
    if differences is None or differences.spread is None:
        return differences
    quantile = float(t.ppf((1 + CONFIDENCE) / 2, differences.count - 1))
    half = quantile * differences.spread / math.sqrt(differences.count)
    return Estimate(differences.mean, half, differences.count)
