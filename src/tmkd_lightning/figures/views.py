"""Some images in all views, as the teacher sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from tmkd_lightning.figures.collect import Seen
from tmkd_lightning.figures.drawing import NothingToShowError
from tmkd_lightning.figures.names import distinct, wrapped
from tmkd_lightning.views import MultiView

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

_CELL = 0.85  # inches


@dataclass(frozen=True)
class Views:
    """Data of the figure of views.

    Args:
        image: every image in every view, ``(V, R, 3, H, W)`` in [0, 1].
        names: of the V views.
        titles: of the R images.
    """

    image: Tensor
    names: list[str]
    titles: list[str]

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in inches."""
        return max(2.4, 0.3 + _CELL * len(self.names)), 0.6 + _CELL * len(self.titles)

    @property
    def note(self) -> str:
        """What is shown."""
        return "Images as the teacher sees them, a view in each column."

    def draw(self, figure: FigureBase) -> None:
        """A row for each image, a column for each view."""
        axes = figure.subplots(len(self.titles), len(self.names), squeeze=False)
        short = dict(zip(names := list(dict.fromkeys(self.titles)), distinct(names, 28), strict=True))
        for row, title in enumerate(self.titles):
            for column, name in enumerate(self.names):
                axis = axes[row, column]
                show_image(axis, self.image[column, row])
                if row == 0:
                    axis.set_title(name.replace("_", " "))
                if column == 0:
                    axis.set_ylabel(wrapped(short[title], 14, lines=3), fontsize=7)


def views_of(seen: Seen, views: MultiView) -> Views:
    """Looks at the examples in all views.

    Args:
        seen: images with their classes.
        views: what the teacher sees.

    Returns:
        The figure's data.

    Raises:
        NothingToShowError: there is one view alone.
    """
    if len(views) == 1:
        raise NothingToShowError(f"the run has one view, {views.names[0]!r}: there is nothing to set beside it")
    names = [seen.class_names[label] for label in seen.example_label.tolist()]
    return Views(views(seen.example).float(), list(views.names), names)


def show_image(axis: Axes, image: Tensor) -> None:
    """Shows ``(3, H, W)`` in [0, 1] without ticks or frame."""
    axis.imshow(image.clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
