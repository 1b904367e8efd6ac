"""Progress of what takes long: a bar on a terminal, and now and then a line elsewhere, as in the log of a cluster."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

FIRST, NEXT = 2.0, 10.0  # seconds without a terminal until the first line, and between lines

_Item = TypeVar("_Item")


def progress(items: Iterable[_Item], title: str, total: int, unit: str) -> Iterable[_Item]:
    """Gives items on, and shows on stderr how many there were.

    Args:
        items: to go through once.
        title: what is done.
        total: number of items.
        unit: what they are, in the plural.

    Example:
        >>> sum(progress([1, 2, 3], "Adding", 3, "numbers"))
        6
    """
    if on_terminal():
        return tqdm(items, title, total, unit=f" {unit}", leave=False)
    return _lines(items, title, total, unit)


def on_terminal() -> bool:
    """Whether a bar that is redrawn can be read."""
    return sys.stderr.isatty()


class Clock:
    """Says when the next line is due: after two seconds, and then every ten."""

    def __init__(self) -> None:
        self.start = self._last = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.start

    @property
    def has_struck(self) -> bool:
        """Whether a line was due before."""
        return self._last != self.start

    def due(self) -> bool:
        """Whether a line is due, which is taken to be printed."""
        now = time.monotonic()
        if now - self._last < (NEXT if self.has_struck else FIRST):
            return False
        self._last = now
        return True


def _lines(items: Iterable[_Item], title: str, total: int, unit: str) -> Iterator[_Item]:
    clock = Clock()
    for done, item in enumerate(items, start=1):
        yield item
        if clock.due() or (done == total and clock.has_struck):
            print(f"{title}: {done} of {total} {unit} in {clock.seconds:.0f} s", file=sys.stderr, flush=True)
