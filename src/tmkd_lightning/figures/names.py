"""How long names are kept short in figures."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence


def wrapped(text: str, letters: int, lines: int = 2) -> str:
    """Breaks a text into short lines, and cuts off what is too long.

    Args:
        text: without line breaks.
        letters: most in a line, from 2.
        lines: most of them.

    Returns:
        The text, with ``…`` for what was cut off.

    Example:
        >>> wrapped("black footed albatross", 12)
        'black footed\\nalbatross'
    """
    return textwrap.fill(text, letters, max_lines=lines, placeholder="…")


def shortened(text: str, letters: int) -> str:
    """Cuts a text off after so many letters.

    Args:
        text: without line breaks.
        letters: most, from 2.

    Returns:
        The text, with ``…`` for what was cut off.

    Example:
        >>> shortened("black footed albatross", 15), shortened("albatross", 15)
        ('black footed a…', 'albatross')
    """
    return text if len(text) <= letters else text[: letters - 1].rstrip() + "…"


def distinct(names: Sequence[str], letters: int) -> list[str]:
    """Shortens names so that no two become the same: at the end, else in the middle, else with their number behind.

    Args:
        names: all different.
        letters: most in each, from 12.

    Returns:
        As many, with ``…`` for what was cut out.

    Example:
        >>> distinct(["black footed albatross", "black footed tern", "black tern"], 14)
        ['black f…atross', 'black f…d tern', 'black tern']
    """
    result = [shortened(name, letters) for name in names]
    start, end = (letters - 1) // 2 + (letters - 1) % 2, (letters - 1) // 2
    for short in (
        lambda _, name: f"{name[:start]}…{name[-end:]}",
        lambda place, name: f"{name[: letters - 7]}… {place}",
    ):
        count = Counter(result)
        result = [
            short(place, name) if count[one] > 1 else one
            for place, (name, one) in enumerate(zip(names, result, strict=True))
        ]
    return result
