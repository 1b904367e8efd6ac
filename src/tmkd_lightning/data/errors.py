"""What can be wrong with data, named once."""

from __future__ import annotations

from collections.abc import Sequence

from tmkd_lightning.utils.messages import printable


class DataError(ValueError):
    """Data that cannot be used; the message names the file or folder and what would help.

    Names of files are foreign text: what would steer a terminal is escaped.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


def check_told_apart(names: Sequence[object], sources: Sequence[object]) -> None:
    """Refuses classes that nothing but blanks or underscores would tell apart.

    Args:
        names: of the classes, in the order of the labels.
        sources: where each comes from, for the message.

    Raises:
        DataError: two classes have one name; the message says which.

    Example:
        >>> check_told_apart(["a b", "a  b"], ["train/a_b", "train/a  b"])
        Traceback (most recent call last):
        tmkd_lightning.data.errors.DataError: train/a_b and train/a  b would both be called 'a b': rename one of them
    """
    known: dict[str, object] = {}
    for name, source in zip(names, sources, strict=True):
        word = " ".join(str(name).replace("_", " ").split())
        if word in known:
            raise DataError(f"{known[word]} and {source} would both be called {word!r}: rename one of them")
        known[word] = source
