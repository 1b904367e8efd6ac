"""Class activation maps over images (the paper's Figure 3)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from tmkd_lightning.figures.collect import CollectedOutputs
from tmkd_lightning.figures.drawing import COLORS, Figure, NothingToPlotError, finish, new_figure, shorten, styled, wrap
from tmkd_lightning.figures.views import show_image


@styled()
def plot_cam(collected: CollectedOutputs, source: str = "") -> Figure:
    """Draws the map of the true class over each example image, a column for each network; `source` ends the caption."""
    images, labels, outputs = collected.example_images, collected.example_labels, collected.example_outputs
    without = [name for name, output in outputs.items() if output.feature_map is None]
    if without:
        needs = "they need a network that ends in global average pooling and one linear layer"
        raise NothingToPlotError(f"{' and '.join(without)} has no class activation maps: {needs}")
    names = shorten(collected.class_names, 32)
    figure = new_figure(max(2.4, 1.3 + len(outputs)), 0.7 + 1.15 * len(images))
    axes = figure.subplots(len(images), 1 + len(outputs), squeeze=False)
    axes[0, 0].set_title("image")
    for axis, image, label in zip(axes[:, 0], images, labels.tolist(), strict=True):
        show_image(axis, image)
        axis.set_ylabel(wrap(names[label], 16, lines=3), fontsize=7)
    for column, (name, output) in enumerate(outputs.items(), start=1):
        axes[0, column].set_title(wrap(name, 15))
        maps = class_activation(output.cam, labels, (images.shape[2], images.shape[3]))
        probabilities, guesses = output.logits.softmax(1).max(1)
        for row, axis in enumerate(axes[:, column]):
            show_image(axis, images[row].mean(0).expand(3, -1, -1))  # grey: colours are the map's
            axis.imshow(maps[row].numpy(), cmap="inferno", vmin=0, vmax=1, alpha=0.55, interpolation="nearest")
            correct = bool(guesses[row] == labels[row])
            answer = f"{'✓' if correct else '✗'} {names[guesses[row]]} {probabilities[row]:.0%}"
            if maps[row].amax() - maps[row].amin() < 1e-3:  # any other map reaches from 0 to 1
                answer += " (uniform map)"
            axis.set_xlabel(wrap(answer, 18, lines=3), fontsize=6.5, labelpad=1.5, color=COLORS[0 if correct else 1])
    caption = (
        "Class activation maps of the true class, enlarged bilinearly, each from its lowest (dark) to its highest "
        "value (bright). Below: the predicted class and its probability."
    )
    return finish(figure, f"{caption} {source}")


def class_activation(cam: Tensor, labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Takes the map of one class for each image, scales it to [0, 1] (0.5 if constant) and enlarges it.

    Args:
        cam: ``(B, K, h, w)``.
        labels: the classes, ``(B,)``.
        size: height H and width W of the images.

    Returns:
        ``(B, H, W)``.

    Source: Zhou et al. 2016, section 2, which says nothing of scaling; it and bilinear enlargement are customary.

    Example:
        >>> class_activation(torch.tensor([[[[9.0, 9.0]], [[2.0, 4.0]]]]), torch.tensor([1]), size=(1, 4)).tolist()
        [[[0.0, 0.25, 0.75, 1.0]]]
    """
    own = cam[torch.arange(len(cam)), labels].unsqueeze(1)
    low, high = own.amin((2, 3), keepdim=True), own.amax((2, 3), keepdim=True)
    rounding = 1e-5 * own.abs().amax((2, 3), keepdim=True) + torch.finfo(own.dtype).tiny
    scaled = torch.where(high - low <= rounding, 0.5, (own - low) / (high - low))
    return F.interpolate(scaled, size=size, mode="bilinear", align_corners=False).squeeze(1)
