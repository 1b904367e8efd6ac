"""All figures of a run: which there are, each by itself, and all on one page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from tmkd_lightning.figures.cam import attention
from tmkd_lightning.figures.collect import Seen
from tmkd_lightning.figures.curves import History, curves
from tmkd_lightning.figures.drawing import Drawing, NothingToShowError
from tmkd_lightning.figures.logits import logits
from tmkd_lightning.figures.tsne import embedding
from tmkd_lightning.figures.views import views_of
from tmkd_lightning.views import MultiView

FIGURES = ("views", "attention", "embedding", "logits", "curves")
"""Names of all figures."""


class Material:
    """What figures are made of; images are looked at, and files read, when a figure first needs them.

    Args:
        look: gives what networks say of the images.
        views: what the teacher sees.
        histories: gives what was logged, by the name of the run.
        seed: of t-SNE.
    """

    def __init__(
        self,
        look: Callable[[], Seen],
        views: MultiView,
        histories: Callable[[], Mapping[str, History]],
        seed: int = 0,
    ) -> None:
        self._look, self.views, self.histories, self.seed = look, views, histories, seed

    @cached_property
    def seen(self) -> Seen:
        """What networks say of the images."""
        return self._look()

    def drawing(self, name: str) -> Drawing:
        """Computes one figure's data.

        Args:
            name: one of `FIGURES`.

        Raises:
            NothingToShowError: the run has nothing for it.
            ValueError: there is no such figure.
        """
        match name:
            case "views":
                return views_of(self.seen, self.views)
            case "attention":
                return attention(self.seen)
            case "embedding":
                return embedding(self.seen, self.seed)
            case "logits":
                return logits(self.seen)
            case "curves":
                return curves(self.histories())
        raise ValueError(f"unknown figure {name!r}: choose from {list(FIGURES)}")


def check_names(which: Sequence[str]) -> None:
    """Refuses names of figures that there are not.

    Args:
        which: names.

    Raises:
        ValueError: an unknown name, or none at all.

    Example:
        >>> check_names(["views", "curves"])
    """
    unknown = [name for name in which if name not in FIGURES]
    if unknown or not which:
        what = f"unknown figure {unknown[0]!r}" if unknown else "no figure is named"
        raise ValueError(f"{what}: choose from {list(FIGURES)}")


def drawings(
    material: Material, which: Sequence[str], left_out: Callable[[str], None] | None = None
) -> dict[str, Drawing]:
    """Computes the data of several figures.

    Args:
        material: what they are made of.
        which: their names.
        left_out: is told of each figure that there is nothing for, and why; None to raise.

    Returns:
        The figures' data by their names.

    Raises:
        NothingToShowError: the run has nothing for a figure, and nobody is to be told.
    """
    made = {}
    for name in which:
        try:
            made[name] = material.drawing(name)
        except NothingToShowError as error:
            if left_out is None:
                raise
            left_out(f"no figure of {name}: {error}")
    return made
