"""t-SNE of embeddings (the paper's Figure 4)."""

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from tmkd_lightning.figures.collect import CollectedOutputs
from tmkd_lightning.figures.drawing import COLORS, Figure, NothingToPlotError, finish, new_figure, shorten, styled, wrap


@styled()
def plot_tsne(collected: CollectedOutputs, seed: int = 0, source: str = "") -> Figure:
    """Draws t-SNE of at most 1,000 images of 20 classes, a panel for each network; `source` ends the caption."""
    from sklearn.manifold import TSNE  # slow to import, and only needed here

    indices = balanced_indices(collected.labels, classes=20, images=1000)
    if len(indices) < 4:
        raise NothingToPlotError(f"t-SNE needs at least 4 images, there are {len(indices)}")
    classes, label_places = collected.labels[indices].unique(return_inverse=True)
    names = shorten([collected.class_names[label] for label in classes.tolist()], 20)
    figure = new_figure(max(3.4, 1.9 * len(collected.outputs) + 1.4), max(2.6, 0.13 * len(names) + 0.8))
    axes = figure.subplots(1, len(collected.outputs), squeeze=False)[0]
    for axis, (title, output) in zip(axes, collected.outputs.items(), strict=True):
        embedding = output.require("embedding")[indices]
        if embedding.std(0).max() == 0:
            raise NothingToPlotError(f"{title} gives all images the same embedding")
        init = "pca" if embedding.shape[1] > 1 else "random"
        rank_zero_info(f"Computing t-SNE of {len(embedding)} embeddings of {title}")
        tsne = TSNE(perplexity=min(30.0, (len(embedding) - 1) / 3), init=init, random_state=seed)
        points = torch.from_numpy(tsne.fit_transform(embedding.numpy()))
        axis.set(title=wrap(title, 26), xticks=[], yticks=[])
        axis.spines[:].set_visible(True)
        axis.set_box_aspect(1)
        for place, name in enumerate(names):
            x, y = points[label_places == place].T.numpy()
            colour, marker = COLORS[place % len(COLORS)], "o^s"[place // len(COLORS)]
            axis.scatter(x, y, s=7, linewidths=0, alpha=0.85, color=colour, marker=marker, label=name)
    handles, _ = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", markerscale=1.6, fontsize=6, labelspacing=0.3)
    shown = f"{len(indices)} images of {len(names)} of {len(collected.class_names)} classes"
    return finish(figure, f"t-SNE of the embeddings of {shown} (seed of t-SNE {seed}). {source}")


def balanced_indices(labels: Tensor, classes: int, images: int) -> Tensor:
    """Indices, in order, of at most `images` images in all, as many of each of the first `classes` classes.

    Example:
        >>> balanced_indices(torch.tensor([5, 3, 3, 3, 9]), classes=2, images=4).tolist()
        [0, 1, 2]
    """
    chosen = labels.unique()[:classes]  # sorted
    share = max(1, images // len(chosen))
    return torch.cat([(labels == one).nonzero().flatten()[:share] for one in chosen]).sort().values
