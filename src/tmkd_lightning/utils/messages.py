"""What is told of errors in somebody else's code, and how foreign text is shown."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Sequence
from pathlib import Path

_LONGEST = 300  # letters
_INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")  # categories of Unicode; Cs are bytes of a file's name that are no text
_DUMPS = (  # beginnings of lines in which jsonargparse says what it was given and what else it has tried
    "Does not validate against",
    "Subtypes:",
    "Errors:",
    "Given value",
    'Parser key "module"',
    "Expected a <class 'NoneType'>",
)


def printable(text: object, keep: str = "") -> str:
    """Escapes what would steer a terminal, forge a line or not be encoded: control and formatting characters.

    Args:
        text: of unknown origin, such as the name of a file or class.
        keep: characters that may stay, such as the end of a line.

    Example:
        >>> print(printable("\\x1b[2Jant\\n.png, 蟻.png"))
        \\x1b[2Jant\\n.png, 蟻.png
    """
    escaped = (
        letter.encode("unicode_escape").decode() if _steers(letter) and letter not in keep else letter
        for letter in str(text)
    )
    return "".join(escaped)


def short(error: Exception, kind: bool = False) -> str:
    """The message of an error, on one line and not endless, without the parser's dumps.

    Args:
        error: any; where it has no message its type is told.
        kind: whether its type is told anyway.

    Example:
        >>> short(ValueError("Errors:\\n  - no such option\\nGiven value: Namespace(a=1)"))
        'no such option'
    """
    lines = [line.strip(" -") for line in str(error).splitlines()]
    telling = dict.fromkeys(line for line in lines if not line.startswith(_DUMPS))
    words = [type(error).__name__] if kind or not any(telling) else []
    text = ": ".join([*words, *filter(None, [" ".join(telling)])])
    return textwrap.shorten(text, _LONGEST, placeholder=" ...")


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


def _steers(letter: str) -> bool:
    return unicodedata.category(letter) in _INVISIBLE
