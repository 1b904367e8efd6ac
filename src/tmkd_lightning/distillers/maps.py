"""The base class of methods that compare several maps of both networks."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

from tmkd_lightning.distillers.base import Distiller, Unbuilt
from tmkd_lightning.feature_extraction.output import Output, Part
from tmkd_lightning.feature_extraction.spec import MapShape, Spec

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


class RegressingDistiller(MapDistiller):
    """A method that predicts the teacher's maps from the student's, by layers made for their channels."""

    def __init__(self) -> None:
        super().__init__()
        self.regressor: nn.Module = Unbuilt(self.method_name)
        self.channels: list[tuple[int, int]] | None = None  # of the pairs that the layers were made for

    @abstractmethod
    def make_layers(self, pairs: list[tuple[MapShape, MapShape]]) -> nn.Module:
        """Makes the layers for pairs of maps of these shapes."""

    def shapes(self, student: Spec, teacher: Spec) -> list[tuple[MapShape, MapShape]]:
        """Shapes of the pairs of maps."""
        return self.pair(student.maps, teacher.maps)

    def build(self, student: Spec, teacher: Spec) -> None:
        """Makes the layers, once; raises a ValueError for networks of other channels than before; see `Distiller`."""
        pairs = self.shapes(student, teacher)
        if not pairs:
            raise ValueError(f"{self.method_name} reads maps, which one of the two networks does not have")
        channels = [(one[0], other[0]) for one, other in pairs]
        if self.channels is None:
            self.regressor = self.make_layers(pairs)
            self.channels = channels
        elif self.channels != channels:
            raise ValueError(
                f"{self.method_name} was built for maps of {self.channels} channels, of student and teacher, but they "
                f"have {channels}: make a new {self.method_name} for each pair of networks"
            )

    def each_regressor(self) -> list[Any]:
        """The layers of each pair."""
        return list(self.regressor) if isinstance(self.regressor, nn.ModuleList) else [self.regressor()]
