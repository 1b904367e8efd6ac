"""Foreign text in messages: without control characters, and not endless."""

from __future__ import annotations

import textwrap

_LONGEST = 300  # characters
_DUMPS = (  # beginnings of lines in which jsonargparse repeats what it was given and what else it has tried
    "Does not validate against",
    "Subtypes:",
    "Errors:",
    "Given value",
    'Parser key "module"',
    "Expected a <class 'NoneType'>",
)


def printable(text: object, keep: str = "") -> str:
    """Escapes control and formatting characters, other than those in `keep`: they could steer a terminal.

    Example:
        >>> print(printable("\\x1b[2Jant\\n.png, 蟻.png"))
        \\x1b[2Jant\\n.png, 蟻.png
    """
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in str(text))


def short(error: Exception, kind: bool = False) -> str:
    """The message of an error on one line, without jsonargparse's dumps; with its type if asked for, or if it is empty.

    Example:
        >>> short(ValueError("Errors:\\n  - no such option\\nGiven value: Namespace(a=1)"))
        'no such option'
    """
    lines = [line.strip(" -") for line in str(error).splitlines()]
    text = " ".join(dict.fromkeys(line for line in lines if not line.startswith(_DUMPS)))
    text = f"{type(error).__name__}: {text}" if kind and text else text or type(error).__name__
    return textwrap.shorten(text, _LONGEST, placeholder=" ...")
