"""Where networks look: class activation maps over the images (the paper's Figure 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tmkd_lightning.figures.collect import Seen
from tmkd_lightning.figures.drawing import COLOURS, NothingToShowError
from tmkd_lightning.figures.names import distinct, wrapped
from tmkd_lightning.figures.views import show_image

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

_CELL = 1.0  # inches
_STRENGTH = 0.55  # of a map over its image
_LETTERS = 32  # of a name
_REMARK: Any = {"fontsize": 7, "color": "white", "bbox": {"facecolor": "#333333", "edgecolor": "none", "pad": 1.5}}
_ROUNDING = 1e-5  # of the largest value; what differs by less is the same


@dataclass(frozen=True)
class Attention:
    """Data of the figure of class activation maps.

    Args:
        image: ``(R, 3, H, W)`` in [0, 1].
        label: true classes, ``(R,)``.
        names: of the M networks.
        maps: activation of the true class, ``(M, R, H, W)``, from 0 to 1 over each map.
        predicted: classes that the networks give, ``(M, R)``.
        probability: of the predicted class, ``(M, R)``.
        class_names: K names.
    """

    image: Tensor
    label: Tensor
    names: list[str]
    maps: Tensor
    predicted: Tensor
    probability: Tensor
    class_names: list[str]

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in inches."""
        return max(2.4, 0.3 + _CELL * (1 + len(self.names))), 0.7 + (_CELL + 0.15) * len(self.image)

    @property
    def note(self) -> str:
        """What is shown, and how it was made."""
        text = (
            "Class activation maps of the true class, enlarged bilinearly, each from its lowest (dark) to its highest "
            "value (bright). Below: the predicted class and its probability."
        )
        plain = any(_without_shape(one) for maps in self.maps for one in maps)
        return text + (" A map that is the same everywhere says uniform." if plain else "")

    def draw(self, figure: FigureBase) -> None:
        """A row for each image: the image, then one map for each network over it."""
        axes = figure.subplots(len(self.image), 1 + len(self.names), squeeze=False)
        names = distinct(self.class_names, _LETTERS)
        for row, label in enumerate(self.label.tolist()):
            show_image(axes[row, 0], self.image[row])
            axes[row, 0].set_ylabel(wrapped(names[label], 16, lines=3), fontsize=7)
            for column, maps in enumerate(self.maps):
                axis = axes[row, 1 + column]
                show_image(axis, self.image[row].mean(0).expand(3, -1, -1))  # grey: colours are the map's
                axis.imshow(maps[row].numpy(), cmap="inferno", vmin=0, vmax=1, alpha=_STRENGTH, interpolation="nearest")
                if why := _without_shape(maps[row]):
                    axis.text(0.5, 0.5, why, transform=axis.transAxes, ha="center", va="center", **_REMARK)
                guess = int(self.predicted[column, row])
                right = guess == label
                answer = f"{'✓' if right else '✗'} {names[guess]} {self.probability[column, row]:.0%}"
                colour = COLOURS[0] if right else COLOURS[1]
                axis.set_xlabel(wrapped(answer, 18, lines=3), fontsize=6.5, labelpad=1.5, color=colour)
        for axis, name in zip(axes[0], ["image", *self.names], strict=True):
            axis.set_title(wrapped(name, 15))


def _without_shape(one: Tensor) -> str:
    """What a map is called that shows no place; nothing for any other."""
    if not one.isfinite().all():
        return "not finite"
    return "uniform" if one.amax() - one.amin() < 1e-3 else ""  # any other reaches from 0 to 1


def attention(seen: Seen) -> Attention:
    """Computes the maps of the examples.

    Args:
        seen: examples, and what networks said of them.

    Returns:
        The figure's data.

    Raises:
        NothingToShowError: a network has no map.
    """
    without = [name for name, output in seen.example_outputs.items() if output.feature_map is None]
    if without:
        raise NothingToShowError(
            f"{' and '.join(without)} cannot show attention: class activation maps need a network that ends in global "
            "average pooling and one linear layer"
        )
    size = (seen.example.shape[2], seen.example.shape[3])
    outputs = seen.example_outputs.values()
    probability = torch.stack([output.logits.softmax(1) for output in outputs])
    return Attention(
        image=seen.example,
        label=seen.example_label,
        names=list(seen.example_outputs),
        maps=torch.stack([activation(output.cam, seen.example_label, size) for output in outputs]),
        predicted=probability.argmax(2),
        probability=probability.amax(2),
        class_names=seen.class_names,
    )


def activation(cam: Tensor, label: Tensor, size: tuple[int, int]) -> Tensor:
    """Picks one class's map for each image, stretches it over [0, 1] and enlarges it.

    Args:
        cam: ``(B, K, h, w)``.
        label: the classes, ``(B,)``.
        size: height H and width W of the images.

    Returns:
        ``(B, H, W)`` in [0, 1]; 0.5 where a map is the same everywhere, NaN where it is not finite.

    Source: Zhou et al. 2016, section 2; bilinear enlargement and stretching are customary, the paper says neither.

    Example:
        >>> activation(torch.tensor([[[[9.0, 9.0]], [[2.0, 4.0]]]]), torch.tensor([1]), size=(1, 4)).tolist()
        [[[0.0, 0.25, 0.75, 1.0]]]
    """
    own = cam[torch.arange(len(cam)), label].unsqueeze(1)
    low, high = own.amin((2, 3), keepdim=True), own.amax((2, 3), keepdim=True)
    rounding = _ROUNDING * own.abs().amax((2, 3), keepdim=True) + torch.finfo(own.dtype).tiny
    stretched = torch.where(high - low <= rounding, 0.5, (own - low) / (high - low))  # NaN stays
    return F.interpolate(stretched, size=size, mode="bilinear", align_corners=False).squeeze(1)
