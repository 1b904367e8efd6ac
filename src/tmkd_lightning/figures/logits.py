"""Mean logits by class, and the classes that compete with the hardest one (the paper's Figure 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tmkd_lightning.figures.collect import CollectedOutputs
from tmkd_lightning.figures.drawing import COLORS, NothingToPlotError, finish, new_figure, shorten, styled, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@styled()
def plot_logits(collected: CollectedOutputs, source: str = "") -> Figure:
    """Draws mean logits by class for each network, and bars for the class of the first one's lowest recall.

    `source` ends the caption.
    """
    classes = len(collected.class_names)
    if classes > 5000:  # the heat map has the square of that, and a page some hundred pixels a side
        raise NothingToPlotError(f"a map of {classes} by {classes} mean logits cannot be read; it takes 5000 at most")
    means = {name: class_means(output.logits, collected.labels) for name, output in collected.outputs.items()}
    first = next(iter(means))
    hardest = hardest_class(collected.outputs[first].logits, collected.labels)
    top = means[first][hardest].argsort(descending=True, stable=True)[:20].tolist()
    names = shorten(collected.class_names, 24)
    beside = names if classes <= 12 else []  # more do not fit
    longest = max(map(len, beside), default=0)
    below = 0.05 * max(len(names[label]) for label in top)
    figure = new_figure(max(3.4, 1.7 * len(means) + 1.2) + 0.055 * longest, 3.9 + below + 0.055 * longest)
    ratios = [1.0] * len(means) + [0.06]
    grid = figure.add_gridspec(2, len(ratios), height_ratios=[1.5, 1], width_ratios=ratios)
    _draw_heat_maps(figure, [figure.add_subplot(grid[0, column]) for column in range(len(ratios))], means, beside)
    bars = figure.add_subplot(grid[1, :])
    for index, (name, mean) in enumerate(means.items()):
        width = 0.8 / len(means)
        places = [place + (index - (len(means) - 1) / 2) * width for place in range(len(top))]
        bars.bar(places, mean[hardest, top].tolist(), width, color=COLORS[index], label=name)
    labels = [names[label] for label in top]
    bars.set_xticks(range(len(top)), labels, rotation=45, ha="right", rotation_mode="anchor", fontsize=7)
    for tick, label in zip(bars.get_xticklabels(), top, strict=True):
        tick.set_fontweight("bold" if label == hardest else "normal")
    bars.axhline(0, color="#888888", linewidth=0.6)
    bars.set_ylabel("mean logit")
    bars.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(means))
    caption = (
        "Top: mean logits of the images of each class; classes without images are grey. Bottom: those of class "
        f"{collected.class_names[hardest]}, the hardest for {first} (bold), for the {len(top)} classes where they are "
        "highest there."
    )
    return finish(figure, f"{caption} {source}")


def _draw_heat_maps(figure: Figure, axes: list[Axes], means: dict[str, Tensor], names: list[str]) -> None:
    """Draws a heat map for each network, and the colour bar of all in the last of the axes."""
    limit = max(mean.nan_to_num().abs().max().item() for mean in means.values()) or 1.0
    for axis, (title, mean) in zip(axes[:-1], means.items(), strict=True):
        image = axis.imshow(mean.numpy(), cmap="PuOr_r", vmin=-limit, vmax=limit, interpolation="nearest")
        axis.set_facecolor("#BBBBBB")
        axis.set_title(wrap(title, 24))
        axis.spines[:].set_visible(False)
        if names:
            axis.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
            axis.set_yticks(range(len(names)), names, fontsize=6)
        axis.tick_params(length=0, labelleft=axis is axes[0])
    axes[0].set_ylabel("true class")
    axes[len(means) // 2].set_xlabel("logit of class")
    figure.colorbar(image, cax=axes[-1], label="mean logit")


def class_means(logits: Tensor, labels: Tensor) -> Tensor:
    """Averages logits ``(N, K)`` over the images of each class: ``(K, K)``, a row for each, NaN without images.

    Example:
        >>> class_means(torch.tensor([[1.0, 2.0], [3.0, 6.0]]), torch.tensor([1, 1])).tolist()
        [[nan, nan], [2.0, 4.0]]
    """
    classes = logits.shape[1]
    total = torch.zeros(classes, classes, dtype=logits.dtype).index_add_(0, labels, logits)
    return total / labels.bincount(minlength=classes).unsqueeze(1)


def hardest_class(logits: Tensor, labels: Tensor) -> int:
    """The class with the lowest recall among those with images, the first of equals."""
    correct = (logits.argmax(1) == labels).to(logits.dtype)
    classes = logits.shape[1]
    recall = labels.bincount(correct, minlength=classes) / labels.bincount(minlength=classes)
    return int(recall.nan_to_num(nan=2.0).argmin())
