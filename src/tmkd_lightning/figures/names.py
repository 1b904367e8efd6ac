"""How long names are kept short in figures."""

from __future__ import annotations

import textwrap


def wrapped(text: str, letters: int) -> str:
    """Breaks a text into two short lines, and cuts off what is too long.

    Args:
        text: without line breaks.
        letters: most in a line, from 2.

    Returns:
        The text, with ``…`` for what was cut off.

    Example:
        >>> wrapped("black footed albatross", 12)
        'black footed\\nalbatross'
    """
    return textwrap.fill(text, letters, max_lines=2, placeholder="…")


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
