"""How networks arrange images: t-SNE of their embeddings (the paper's Figure 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tmkd_lightning.figures.collect import Seen
from tmkd_lightning.figures.drawing import COLOURS, NothingToShowError
from tmkd_lightning.figures.names import distinct, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

_PANEL = 1.9  # inches
_MARKERS = "o^sDv"  # with eight colours, forty classes
_LARGE = 12  # classes in a legend of normal size
_LINE = 0.11  # inches, of a larger one
_PERPLEXITY = 30.0  # scikit-learn's


@dataclass(frozen=True)
class Embedding:
    """Data of the figure of embeddings.

    Args:
        names: of the M networks.
        points: where t-SNE puts the images, ``(M, N, 2)``; only neighbourhoods mean something.
        label: classes of the images, ``(N,)``.
        class_names: K names.
        seed: of t-SNE.
    """

    names: list[str]
    points: Tensor
    label: Tensor
    class_names: list[str]
    seed: int

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in inches."""
        return max(3.4, _PANEL * len(self.names) + 1.4), max(_PANEL + 0.7, _LINE * len(self.label.unique()) + 0.8)

    @property
    def note(self) -> str:
        """What is shown, and how it was made."""
        shown, every = len(self.label.unique()), len(self.class_names)
        classes = f"{every} classes" if shown == every else f"{shown} of {every} classes"
        return f"t-SNE of the embeddings of {len(self.label)} images of {classes} (seed of t-SNE {self.seed})."

    def draw(self, figure: FigureBase) -> None:
        """A panel for each network; a class has the same colour and mark in all."""
        axes = figure.subplots(1, len(self.names), squeeze=False)[0]
        shown = self.label.unique().tolist()
        short = distinct([self.class_names[label] for label in shown], 20)
        for axis, name, points in zip(axes, self.names, self.points, strict=True):
            axis.set(title=wrapped(name, 26), xticks=[], yticks=[])
            axis.spines[:].set_visible(True)
            axis.set_box_aspect(1)
            for place, label in enumerate(shown):
                x, y = points[self.label == label].T.numpy()
                axis.scatter(
                    x,
                    y,
                    s=7,
                    linewidths=0,
                    alpha=0.85,
                    color=COLOURS[place % len(COLOURS)],
                    marker=_MARKERS[place // len(COLOURS)],
                    label=short[place],
                )
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(
            handles,
            names,
            loc="outside right upper",
            markerscale=1.6,
            handletextpad=0.1,
            fontsize=7 if len(names) <= _LARGE else 6,
            labelspacing=0.5 if len(names) <= _LARGE else 0.15,
        )


def embedding(seen: Seen, seed: int = 0, classes: int = 20, images: int = 1000) -> Embedding:
    """Computes t-SNE for each network, on the same images.

    Args:
        seen: what networks said of the images.
        seed: of t-SNE, from 0.
        classes: how many classes to show at most, the first; from 1 to 40.
        images: how many images to show at most, as many of each class and the first.

    Returns:
        The figure's data.

    Raises:
        NothingToShowError: fewer than four images, or a network whose embeddings are all the same.
        ValueError: `classes` is out of its range.
    """
    if not 1 <= classes <= len(COLOURS) * len(_MARKERS):
        raise ValueError(f"classes must be 1 to {len(COLOURS) * len(_MARKERS)}, got {classes}")
    rows = first_of_each(seen.label, classes, images)
    if len(rows) < 4:
        raise NothingToShowError(f"t-SNE needs at least 4 images, there are {len(rows)}")
    return Embedding(
        names=list(seen.outputs),
        points=torch.stack([_tsne(out.require("embedding")[rows], name, seed) for name, out in seen.outputs.items()]),
        label=seen.label[rows],
        class_names=seen.class_names,
        seed=seed,
    )


def first_of_each(label: Tensor, classes: int, images: int) -> Tensor:
    """Chooses images evenly from the first classes that occur.

    Args:
        label: ``(N,)``.
        classes: most classes.
        images: most images; no class gets more than its share.

    Returns:
        Indices in order, ``(n,)``.

    Example:
        >>> first_of_each(torch.tensor([5, 3, 3, 3, 9]), classes=2, images=4).tolist()
        [0, 1, 2]
    """
    chosen = label.unique()[:classes]  # sorted
    share = max(1, images // len(chosen))
    return torch.cat([(label == one).nonzero().flatten()[:share] for one in chosen]).sort().values


def _tsne(embedding: Tensor, name: str, seed: int) -> Tensor:
    from sklearn.manifold import TSNE  # slow to import, and only needed here

    if embedding.std(0).max() == 0:
        raise NothingToShowError(f"{name} gives all images the same embedding")
    perplexity = min(_PERPLEXITY, (len(embedding) - 1) / 3)
    start = "pca" if embedding.shape[1] > 1 else "random"
    found = TSNE(2, perplexity=perplexity, init=start, random_state=seed).fit_transform(embedding.numpy())
    return torch.from_numpy(found)
