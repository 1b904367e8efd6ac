"""Foreign text in messages: without control characters, and not endless."""

import textwrap

_DUMPS = (  # beginnings of lines in which jsonargparse repeats what it was given and what else it has tried
    "Does not validate against",
    "Subtypes:",
    "Errors:",
    "Given value",
    'Parser key "module"',
    "Expected a <class 'NoneType'>",
)


def printable(text: object, keep: str = "") -> str:
    """Escapes control and formatting characters, which could steer a terminal, other than those in `keep`."""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in str(text))


def short(error: Exception, kind: bool = False) -> str:
    """An error's message on one line, without jsonargparse's dumps; with its type if asked for, or if it is empty."""
    lines = [line.strip(" -") for line in str(error).splitlines()]
    text = " ".join(dict.fromkeys(line for line in lines if not line.startswith(_DUMPS)))
    text = f"{type(error).__name__}: {text}" if kind and text else text or type(error).__name__
    return textwrap.shorten(text, 300, placeholder=" ...")
