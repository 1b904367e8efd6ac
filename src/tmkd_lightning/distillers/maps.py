"""The base class of methods that compare several maps of both networks."""

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

from tmkd_lightning.distillers.base import Distiller
from tmkd_lightning.feature_extraction.output import Output, Part

T = TypeVar("T")


class MapDistiller(Distiller):
    """A method that compares pairs of maps: the last of one network with the last of the other, and so on.

    Attributes:
        last: number of the last maps to compare; None for as many as both networks have.
    """

    reads: frozenset[Part] = frozenset({"maps"})
    reads_logits = False
    last: int | None = None

    def pair(self, student: Sequence[T], teacher: Sequence[T]) -> list[tuple[T, T]]:
        """The last of each side, in their order."""
        count = min(len(student), len(teacher), *(() if self.last is None else (self.last,)))
        return list(zip(student[-count:], teacher[-count:], strict=True)) if count else []

    def map_pairs(self, student: Output, teacher: Output) -> list[tuple[Tensor, Tensor]]:
        """Pairs of maps ``(B, C, h, w)`` and ``(B, D, H, W)``, the largest first."""
        return self.pair(student.require_maps(), teacher.require_maps())
