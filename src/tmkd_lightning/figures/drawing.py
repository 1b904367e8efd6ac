"""What a figure is here: computed data that know how to draw themselves, and a caption."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from matplotlib.figure import Figure, FigureBase

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
"""Eight colours that everybody can tell apart (Okabe and Ito 2008), the ones with most contrast to white first."""

_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "lines.linewidth": 1.4,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.05,
    "pdf.fonttype": 42,  # letters stay letters in a PDF
}
_CAPTION_SIZE = 7  # points
_LETTERS_PER_INCH = 18  # of a caption


class NothingToShowError(ValueError):
    """A figure was asked for that a run has nothing for: no maps, no metrics, no images."""


class Drawing(Protocol):
    """The data of one figure. One of your own needs these three."""

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in inches."""

    @property
    def note(self) -> str:
        """One or two sentences for the caption: what is shown, and how it was made."""

    def draw(self, figure: FigureBase) -> None:
        """Draws into an empty figure, or a part of one, that has this size."""


def figure_of(drawing: Drawing, source: str = "") -> Figure:
    """Draws one figure with its caption.

    Args:
        drawing: what to draw.
        source: where it comes from, for the caption: run, checkpoint and seed.

    Returns:
        A figure of its own; pyplot does not know it, and no setting of matplotlib is changed.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    with styled():
        figure = blank(drawing.size)
        drawing.draw(figure)
        add_caption(figure, f"{drawing.note} {source}".strip(), drawing.size[0])
        settle(figure)
    return figure


def blank(size: tuple[float, float]) -> Figure:
    """An empty figure of a size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def settle(figure: Figure) -> None:
    """Gives everything its place once and for all: laid out anew for each file, a figure would move a little."""
    for _ in range(3):  # one time does not do where panels keep their shape: labels would be cut off
        figure.draw_without_rendering()
    figure.set_layout_engine("none")


def add_caption(figure: FigureBase, text: str, width: float) -> None:
    """Writes a line, or several, under a figure that is `width` inches wide."""
    lines = textwrap.fill(text, round(width * _LETTERS_PER_INCH))
    figure.supxlabel(lines, x=0.01, ha="left", fontsize=_CAPTION_SIZE, color="#333333")


@contextmanager
def styled() -> Iterator[None]:
    """Has matplotlib draw in our style, and puts its settings back."""
    check_matplotlib()
    from matplotlib import rc_context

    with rc_context(_STYLE):
        yield


def check_matplotlib() -> None:
    """Refuses to begin without matplotlib, before anything is trained or computed for it.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("figures need matplotlib: pip install matplotlib") from error
