"""Numbers and names that arguments may be; messages name the argument."""

from __future__ import annotations

import math
from numbers import Integral, Real

from torch import Tensor


def check_positive(name: str, value: float) -> float:
    """Gives a number back, and refuses one that is not above 0 and finite.

    Raises:
        ValueError: the message has its name.

    Example:
        >>> check_positive("temperature", 4.0)
        4.0
    """
    if not (is_number(value) and 0 < value < math.inf):
        raise ValueError(f"{name} must be above 0 and finite, got {value!r}")
    return value


def check_weight(name: str, weight: float) -> float:
    """Gives a loss weight back, and refuses one that is negative or not finite.

    Raises:
        ValueError: the weight is below 0, infinite, NaN or no number; the message has its name.

    Example:
        >>> check_weight("ce_weight", 0.5)
        0.5
    """
    if not (is_number(weight) and 0 <= weight < math.inf):
        raise ValueError(f"{name} must be at least 0 and finite, got {weight!r}")
    return weight


def check_whole(name: str, value: int) -> int:
    """Gives a number back, and refuses one that is not whole.

    Raises:
        ValueError: the message has its name.

    Example:
        >>> check_whole("seed", 0)
        0
    """
    if not _is_whole(value):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    return value


def check_count(name: str, count: int) -> int:
    """Gives a number of things back, and refuses one that is no whole number from 1 on.

    Raises:
        ValueError: the message has its name.

    Example:
        >>> check_count("copies", 3)
        3
    """
    if not _is_whole(count) or count < 1:
        raise ValueError(f"{name} must be a whole number, at least 1, got {count!r}")
    return count


def check_term(name: object) -> str:
    """Gives the name of a loss term back, and refuses what nothing can be logged under.

    Raises:
        ValueError: it is empty or no word.

    Example:
        >>> check_term("kd")
        'kd'
    """
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"name must be a word, as the term is logged under it, got {name!r}")
    return name


def is_number(value: object) -> bool:
    """Whether a value is a number, of Python, NumPy or torch.

    Example:
        >>> is_number(4.0), is_number("4")
        (True, False)
    """
    return isinstance(value, (Real, Tensor)) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
