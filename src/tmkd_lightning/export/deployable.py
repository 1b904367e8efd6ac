"""A classifier as it leaves the library: one module from plain images to logits, nothing of training left in it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.utils.messages import short


class Deployed(nn.Module):
    """A copy of a network with its normalisation before it, on the CPU, in float32 and evaluation mode.

    Args:
        extractor: the network and its statistics; left as it is.

    Example:
        >>> from torchvision.models import resnet18
        >>> network = Deployed(Extractor(resnet18(num_classes=5)))
        >>> network(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([2, 5])
    """

    def __init__(self, extractor: Extractor) -> None:
        super().__init__()
        self.extractor = copy.deepcopy(extractor)
        self.extractor.to("cpu", torch.float32).to(memory_format=torch.contiguous_format)
        self.extractor.keep_map = False
        self.eval().requires_grad_(False)

    @property
    def network(self) -> nn.Module:
        """The bare network, which takes normalised images."""
        return self.extractor.network

    def forward(self, image: Tensor) -> Tensor:
        """Classifies images ``(B, 3, H, W)``, uint8 or float in [0, 1]; returns logits ``(B, K)``."""
        logits: Tensor = self.network(self.extractor.normalize(image))
        return logits


@torch.no_grad()
def ask(network: Extractor | Deployed, image: Tensor) -> Tensor:
    """Lets a network classify images, and says clearly if it cannot.

    Args:
        network: in evaluation mode.
        image: ``(B, 3, H, W)``, uint8 or float in [0, 1].

    Returns:
        Logits ``(B, K)``.

    Raises:
        ValueError: the network does not take such images, or gives logits that are not finite.
    """
    extractor = network.extractor if isinstance(network, Deployed) else network
    try:
        logits: Tensor = network(image) if isinstance(network, Deployed) else network(image).logits
    except Exception as error:  # whatever the network's own code comes to
        size = f"{image.shape[-2]}x{image.shape[-1]}"
        raise ValueError(f"{extractor.name} does not take images of {size} pixels: {short(error)}") from error
    if not logits.isfinite().all():
        raise ValueError(f"{extractor.name} gives logits that are not finite: look at its weights")
    return logits
