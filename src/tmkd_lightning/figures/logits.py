"""What networks answer, class by class: mean logits, and the classes that compete (the paper's Figure 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tmkd_lightning.figures.collect import Seen
from tmkd_lightning.figures.drawing import COLOURS, NothingToShowError
from tmkd_lightning.figures.names import distinct, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

_PANEL = 1.7  # inches
_MOST = 5000  # classes: their map has the square of that, and a page some hundred pixels a side
_NAMED = 12  # classes whose names fit beside a panel
_LETTERS = 24  # of a name
_LETTER = 0.055  # inches, of those beside a panel


@dataclass(frozen=True)
class Logits:
    """Data of the figure of logits.

    Args:
        names: of the M networks.
        means: mean logits of the images of each true class, ``(M, K, K)``; a class without images is NaN.
        focus: the true class that the bars are about.
        top: the classes with the first network's highest mean logits for its images, highest first, ``(n,)``.
        class_names: K names.
        hardest: whether it is the class with the first network's lowest recall.
    """

    names: list[str]
    means: Tensor
    focus: int
    top: Tensor
    class_names: list[str]
    hardest: bool

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in inches."""
        below, beside = (max(map(len, names), default=0) for names in (self._labels(), self._beside()))
        width, height = _PANEL * len(self.names) + 1.2, 2 * _PANEL + 0.5 + 0.05 * below
        return max(3.4, width + _LETTER * beside), height + _LETTER * beside

    @property
    def note(self) -> str:
        """What is shown, and how it was made."""
        why = f", the hardest for {self.names[0]}" if self.hardest else ""
        return (
            "Top: mean logits of the images of each class; classes without images are grey. Bottom: those of class "
            f"{self.class_names[self.focus]}{why} (bold), for the {len(self.top)} classes where they are highest there."
        )

    def draw(self, figure: FigureBase) -> None:
        """A heat map for each network above bars of all."""
        widths = [1.0] * len(self.names) + [0.06]
        grid = figure.add_gridspec(2, len(widths), height_ratios=[1.5, 1], width_ratios=widths)
        *axes, bar = [figure.add_subplot(grid[0, column]) for column in range(len(widths))]
        self._draw_means(figure, axes, bar)
        self._draw_top(figure.add_subplot(grid[1, :]))

    def _draw_means(self, figure: FigureBase, axes: list[Axes], bar: Axes) -> None:
        names = self._beside()
        limit = self.means.nan_to_num().abs().max().item() or 1.0
        for axis, name, mean in zip(axes, self.names, self.means, strict=True):
            image = axis.imshow(mean.numpy(), cmap="PuOr_r", vmin=-limit, vmax=limit, interpolation="nearest")
            axis.set_facecolor("#BBBBBB")
            axis.set_title(wrapped(name, 24))
            axis.spines[:].set_visible(False)
            if names:
                axis.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
                axis.set_yticks(range(len(names)), names, fontsize=6)
            axis.tick_params(length=0, labelleft=axis is axes[0])
        axes[0].set_ylabel("true class")
        axes[len(axes) // 2].set_xlabel("logit of class")
        figure.colorbar(image, cax=bar, label="mean logit")  # in a column of its own, which has room for the label

    def _draw_top(self, axis: Axes) -> None:
        width = 0.8 / len(self.names)
        place = torch.arange(len(self.top))
        for index, (name, mean) in enumerate(zip(self.names, self.means, strict=True)):
            offset = (index - (len(self.names) - 1) / 2) * width
            heights = mean[self.focus, self.top].tolist()
            axis.bar((place + offset).tolist(), heights, width, color=COLOURS[index], label=name)
        axis.set_xticks(place.tolist(), self._labels(), rotation=45, ha="right", rotation_mode="anchor", fontsize=7)
        for tick, label in zip(axis.get_xticklabels(), self.top.tolist(), strict=True):
            tick.set_fontweight("bold" if label == self.focus else "normal")
        axis.axhline(0, color="#888888", linewidth=0.6)
        axis.set_ylabel("mean logit")
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(self.names))

    def _labels(self) -> list[str]:
        names = distinct(self.class_names, _LETTERS)
        return [names[label] for label in self.top.tolist()]

    def _beside(self) -> list[str]:
        """Names beside the panels; none where they are too many."""
        return distinct(self.class_names, _LETTERS) if len(self.class_names) <= _NAMED else []


def logits(seen: Seen, focus: int | None = None, top: int = 20) -> Logits:
    """Averages logits over the images of each class.

    Args:
        seen: what networks said of the images. The first network chooses `top`, and `focus` if that is None.
        focus: true class for the bars, by default the one with the lowest recall.
        top: how many classes get bars, at most K.

    Returns:
        The figure's data.

    Raises:
        NothingToShowError: there are more than 5000 classes.
        ValueError: `focus` is not a class with images.
    """
    classes = len(seen.class_names)
    if classes > _MOST:
        raise NothingToShowError(
            f"a map of {classes} by {classes} mean logits cannot be read; it takes {_MOST} at most"
        )
    means = torch.stack([class_means(output.logits, seen.label) for output in seen.outputs.values()])
    own = next(iter(seen.outputs.values()))
    hardest = _hardest(own.logits, seen.label)
    focus = hardest if focus is None else focus
    if focus not in seen.label.unique().tolist():
        raise ValueError(f"focus must be a class with images, got {focus}")
    order = means[0, focus].argsort(descending=True, stable=True)
    return Logits(list(seen.outputs), means, focus, order[:top], seen.class_names, focus == hardest)


def class_means(logits: Tensor, label: Tensor) -> Tensor:
    """Averages logits over the images of each true class.

    Args:
        logits: ``(N, K)``.
        label: ``(N,)``, in 0..K-1.

    Returns:
        ``(K, K)``, a row for each true class; a class without images is NaN.

    Example:
        >>> class_means(torch.tensor([[1.0, 2.0], [3.0, 6.0]]), torch.tensor([1, 1])).tolist()
        [[nan, nan], [2.0, 4.0]]
    """
    classes = logits.shape[1]
    total = torch.zeros(classes, classes, dtype=logits.dtype).index_add_(0, label, logits)
    return total / label.bincount(minlength=classes).unsqueeze(1)


def _hardest(logits: Tensor, label: Tensor) -> int:
    """The class with the lowest recall among those with images, the first if several are."""
    right = (logits.argmax(1) == label).to(logits.dtype)
    classes = logits.shape[1]
    recall = label.bincount(right, minlength=classes) / label.bincount(minlength=classes)
    return int(recall.nan_to_num(nan=2.0).argmin())
