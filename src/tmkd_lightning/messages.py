"""What is told of errors in somebody else's code."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

_LONGEST = 300  # letters
_DUMPS = (  # beginnings of lines in which jsonargparse says what it was given and what else it has tried
    "Does not validate against",
    "Subtypes:",
    "Errors:",
    "Given value",
    'Parser key "module"',
    "Expected a <class 'NoneType'>",
)


def short(error: Exception) -> str:
    """The message of an error, on one line and not endless, without the parser's dumps.

    Args:
        error: any; where it has no message its type is told.

    Example:
        >>> short(ValueError("Errors:\\n  - no such option\\nGiven value: Namespace(a=1)"))
        'no such option'
    """
    lines = [line.strip(" -") for line in str(error).splitlines()]
    telling = dict.fromkeys(line for line in lines if not line.startswith(_DUMPS))
    return textwrap.shorten(" ".join(telling) or type(error).__name__, _LONGEST, placeholder=" ...")


def misfit(path: Path, network: str, problems: Sequence[str]) -> str:
    """Says that the weights of a checkpoint are not those of the network that its config describes.

    Example:
        >>> misfit(Path("best.ckpt"), "Net", ["missing keys: fc.bias"])
        'best.ckpt does not fit Net, which its config describes: missing keys: fc.bias. Was it made with another ...'
    """
    return (
        f"{path} does not fit {network}, which its config describes: {'; '.join(problems)}. Was it made with another "
        "version of that network?"
    )
