"""What classes are called in figures, and how long names are kept short."""

from __future__ import annotations

import textwrap
from typing import Any

from tmkd_lightning.prompts import known_class_names


def class_names(module: Any, data: object) -> list[str]:
    """What the module, the datamodule or the checkpoint calls the classes, else their numbers.

    Args:
        module: as in `known_class_names`, with `num_classes`.
        data: as in `known_class_names`.

    Returns:
        K names.

    Example:
        >>> from types import SimpleNamespace
        >>> class_names(SimpleNamespace(class_names=None, saved_class_names=None, num_classes=2), data=None)
        ['0', '1']
    """
    return next(known_class_names(module, data), [str(number) for number in range(module.num_classes)])


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
