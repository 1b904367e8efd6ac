"""Several figures on one page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tmkd_lightning.figures.drawing import Drawing, add_caption, blank, settle, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH = 7.2  # inches, of a page's text
_HEAD = 0.2  # inches for the letter of each part
_FOOT = 0.3  # inches for the caption


def page_of(parts: Sequence[Drawing], source: str = "") -> Figure:
    """Draws figures on one page, a letter above and a caption under each.

    Args:
        parts: what to draw, in order; as many as fit stand in one row.
        source: where they come from, for the caption of the page.

    Returns:
        A figure of its own; pyplot does not know it, and no setting of matplotlib is changed.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: there is nothing to draw.
    """
    if not parts:
        raise ValueError("a page needs at least one figure")
    lines = rows(parts)
    heights = [max(part.size[1] for part in line) + _HEAD for line in lines]
    with styled():
        figure = blank((max(_WIDTH, *(part.size[0] for part in parts)), sum(heights) + _FOOT))
        letters = iter("abcdefghijklmnopqrstuvwxyz")
        bands = figure.subfigures(len(lines), 1, height_ratios=heights, squeeze=False)[:, 0]
        for band, line in zip(bands, lines, strict=True):
            widths = [part.size[0] for part in line]
            places = band.subfigures(1, len(line), width_ratios=widths, squeeze=False)[0]
            for place, part in zip(places, line, strict=True):
                part.draw(place)
                place.suptitle(f"({next(letters)})", x=0.01, ha="left", fontweight="bold")
                add_caption(place, part.note, figure.get_figwidth() * part.size[0] / sum(widths))
        add_caption(figure, source, figure.get_figwidth())
        settle(figure)
    return figure


def rows(parts: Sequence[Drawing]) -> list[list[Drawing]]:
    """Breaks figures into lines, as words are.

    Args:
        parts: figures in order.

    Returns:
        The lines; only a figure that stands alone may be wider than a page.
    """
    lines: list[list[Drawing]] = []
    for part in parts:
        if lines and sum(other.size[0] for other in [*lines[-1], part]) <= _WIDTH:
            lines[-1].append(part)
        else:
            lines.append([part])
    return lines
