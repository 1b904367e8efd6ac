"""What classes are called in figures, and how long names are kept short."""

from __future__ import annotations

import textwrap
from typing import Any


def class_names(module: Any, data: object) -> list[str]:
    """The module's names of classes, else the datamodule's, else their numbers.

    Args:
        module: with `class_names`, or None, and `num_classes`.
        data: a datamodule, which may have `class_names`, or None.

    Returns:
        K names.

    Example:
        >>> from types import SimpleNamespace
        >>> class_names(SimpleNamespace(class_names=None, num_classes=2), data=None)
        ['0', '1']
    """
    names = module.class_names or getattr(data, "class_names", None)  # a foreign datamodule may lack them
    return [str(name) for name in names or range(module.num_classes)]


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
