"""Checks of arguments; each returns the value, or raises a ValueError that names the argument."""

import math
from numbers import Integral, Real

from torch import Tensor


def check_positive(name: str, value: float) -> float:
    """Checks for a finite number above 0."""
    if not (is_number(value) and 0 < value < math.inf):
        raise ValueError(f"{name} must be above 0 and finite, got {value!r}")
    return value


def check_weight(name: str, weight: float) -> float:
    """Checks for a finite number of at least 0, as loss weights are."""
    if not (is_number(weight) and 0 <= weight < math.inf):
        raise ValueError(f"{name} must be at least 0 and finite, got {weight!r}")
    return weight


def check_at_least_one(name: str, value: float) -> float:
    """Checks for a finite number of at least 1."""
    if not (is_number(value) and 1 <= value < math.inf):
        raise ValueError(f"{name} must be at least 1 and finite, got {value!r}")
    return value


def check_share(name: str, value: float) -> float:
    """Checks for a number from 0 to 1."""
    if not (is_number(value) and 0 <= value <= 1):
        raise ValueError(f"{name} must be from 0 to 1, got {value!r}")
    return value


def check_count(name: str, count: int, minimum: int = 1) -> int:
    """Checks for an integer of at least `minimum`."""
    given: object = count  # a user's may be of another type
    if isinstance(given, bool) or not isinstance(given, Integral) or count < minimum:
        raise ValueError(f"{name} must be a whole number, at least {minimum}, got {count!r}")
    return count


def check_term(name: object) -> str:
    """Checks for a name that a loss term can be logged under."""
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"name must be a word, as the term is logged under it, got {name!r}")
    return name


def is_number(value: object) -> bool:
    """Whether a value is a number of Python, NumPy or torch."""
    return isinstance(value, (Real, Tensor)) and not isinstance(value, bool)
