"""Style, captions, pages and files that all figures share."""

import io
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from tmkd_lightning.utils.files import atomic_write, check_writable

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure as Figure
else:
    Axes = Figure = Any  # matplotlib need not be installed, and is slow to import

# Eight colours that everybody can tell apart (Okabe and Ito 2008), the ones with most contrast to white first
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
FORMATS = ("png", "pdf")
_DPI = 200
_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.05,
    "pdf.fonttype": 42,  # text stays text in a PDF
}


class NothingToPlotError(ValueError):
    """A run has no data for a figure: no maps, no metrics, no images."""


def check_matplotlib() -> None:
    """Raises ModuleNotFoundError, with the remedy, where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError("figures need matplotlib: pip install matplotlib")


def check_choice(what: str, given: Sequence[str], known: Sequence[str]) -> None:
    """Raises ValueError for a name that is not one of the known ones."""
    for name in given:
        if name not in known:
            raise ValueError(f"unknown {what} {name!r}: choose from {list(known)}")


def check_files(paths: Iterable[Path]) -> None:
    """Raises ValueError for a file of another format, OSError for one that cannot be written."""
    for path in paths:
        check_choice("format", [path.suffix[1:]], FORMATS)
        check_writable(path)


@contextmanager
def styled() -> Iterator[None]:
    """Applies the style of our figures and restores matplotlib's settings; also a decorator."""
    check_matplotlib()
    from matplotlib import rc_context

    with rc_context(_STYLE):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Creates an empty figure, in inches, that pyplot does not know."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def finish(figure: Figure, caption: str) -> Figure:
    """Writes a wrapped caption under a figure and fixes the layout."""
    lines = textwrap.fill(caption, round(figure.get_figwidth() * 18))  # letters an inch
    figure.supxlabel(lines, x=0.01, ha="left", fontsize=7, color="#333333")
    for _ in range(3):  # one pass cuts labels off where panels have a fixed aspect
        figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def wrap(text: str, width: int, lines: int = 2) -> str:
    """Breaks a text into lines and cuts off the rest."""
    return textwrap.fill(text, width, max_lines=lines, placeholder="…")


def shorten(names: Sequence[str], width: int) -> list[str]:
    """Cuts names to `width` characters, 12 or more; where that makes several the same, their index follows."""
    short = [name if len(name) <= width else f"{name[: width - 1]}…" for name in names]
    count = Counter(short)
    return [f"{names[i][: width - 7]}… {i}" if count[name] > 1 else name for i, name in enumerate(short)]


@styled()
def to_image(figure: Figure, dpi: int = _DPI) -> Image.Image:
    """Renders a figure to an RGB image."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    return Image.open(content).convert("RGB")


def join_figures(figures: Sequence[Figure]) -> Figure:
    """Puts figures on one page as images, as many beside each other as fit into 7.2 inches."""
    width = max([7.2, *(figure.get_figwidth() for figure in figures)])
    left = top = row_height = 0.0
    corners = []
    for figure in figures:
        if left + figure.get_figwidth() > width:
            left, top, row_height = 0.0, top + row_height, 0.0
        corners.append((left, top))
        left, row_height = left + figure.get_figwidth(), max(row_height, figure.get_figheight())
    height = top + row_height
    page = new_figure(width, height)
    page.set_layout_engine("none")
    for figure, (left, top) in zip(figures, corners, strict=True):
        own = figure.get_figwidth(), figure.get_figheight()
        axis = page.add_axes((left / width, 1 - (top + own[1]) / height, own[0] / width, own[1] / height))
        axis.imshow(to_image(figure, 300), aspect="auto", interpolation="none")
        axis.set_axis_off()
    return page


@styled()
def save_figures(figures: Mapping[Path, Figure]) -> None:
    """Writes figures to files, by path that ends in ``.png`` or ``.pdf``: all of them or none."""
    figures = {Path(path).expanduser(): figure for path, figure in figures.items()}
    check_files(figures)
    with ExitStack() as stack:
        for path, figure in figures.items():
            figure.savefig(stack.enter_context(atomic_write(path)), format=path.suffix[1:], dpi=_DPI)
