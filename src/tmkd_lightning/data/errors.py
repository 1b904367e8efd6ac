"""The error of unusable data, and a check of class names."""

from __future__ import annotations

from collections.abc import Sequence

from tmkd_lightning.utils.messages import printable


class DataError(ValueError):
    """Data that cannot be used; the message names the file or folder and gives a remedy.

    Control characters in file names are escaped.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


def check_class_names(names: Sequence[object], sources: Sequence[object]) -> None:
    """Refuses classes whose names differ only by blanks or underscores; `sources` are named in the message."""
    first: dict[str, object] = {}
    for name, source in zip(names, sources, strict=True):
        word = " ".join(str(name).replace("_", " ").split())
        if word in first:
            raise DataError(f"{first[word]} and {source} would both be called {word!r}: rename one of them")
        first[word] = source
