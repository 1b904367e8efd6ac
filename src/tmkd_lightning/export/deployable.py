"""A classifier for deployment: one module from images to logits, normalisation included."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.utils.messages import short


class DeployableClassifier(nn.Module):
    """A copy of a network behind its normalisation, on the CPU, in float32 and evaluation mode."""

    def __init__(self, extractor: Extractor) -> None:
        super().__init__()
        self.extractor = copy.deepcopy(extractor)
        self.extractor.to("cpu", torch.float32).to(memory_format=torch.contiguous_format)
        self.extractor.keep_map = False
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        """Classifies images ``(B, 3, H, W)``, uint8 or float in [0, 1]; returns logits ``(B, K)``."""
        return self.extractor.network(self.extractor.normalize(image))


@torch.no_grad()
def predict_logits(network: Extractor | DeployableClassifier, images: Tensor) -> Tensor:
    """Logits ``(B, K)`` of images; raises ValueError if the network does not take them, or gives NaN or infinity."""
    name = network.name if isinstance(network, Extractor) else network.extractor.name
    try:
        output = network(images)
    except Exception as error:  # the network's own code may raise anything
        height, width = images.shape[-2:]
        raise ValueError(f"{name} does not take images of {height}x{width} pixels: {short(error)}") from error
    logits: Tensor = output.logits if isinstance(network, Extractor) else output
    if not logits.isfinite().all():
        raise ValueError(f"{name} gives logits that are not finite: look at its weights")
    return logits
