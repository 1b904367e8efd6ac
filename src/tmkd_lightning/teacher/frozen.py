"""The teacher: an Extractor that never learns, never changes and never leaves evaluation mode."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn

from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.losses.cam import pool
from tmkd_lightning.utils.images import check_images
from tmkd_lightning.utils.validation import check_count

_CPU_PIXELS = 2**19  # in one forward: ten images of 224 pixels


class Frozen(nn.Module):
    """Runs an Extractor in evaluation mode without gradients, whatever mode its owner is in.

    Args:
        extractor: the teacher; its parameters stop requiring gradients.
        chunk: largest number of images in one forward, which bounds memory for huge teachers; None for all at once,
            or on a CPU, which is faster on pieces, for a view of a few.

    Attributes:
        map_size: side in pixels that maps are pooled to, None for the size that they have. What reads small maps need
            not have large ones fused or kept.

    Raises:
        ValueError: `chunk` is below 1.

    Example:
        >>> from torchvision.models import resnet18
        >>> teacher = Frozen(Extractor(resnet18(num_classes=5))).train()
        >>> teacher.training, teacher.extractor.network.bn1.training
        (False, False)
    """

    def __init__(self, extractor: Extractor, chunk: int | None = None) -> None:
        super().__init__()
        if chunk is not None:
            check_count("chunk", chunk)
        self.extractor = extractor.requires_grad_(False)
        self.chunk = chunk
        self.map_size: int | None = None
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode: BatchNorm in training mode would change the teacher."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, image: Tensor, views: int = 1, checked: bool = False) -> Output:
        """Runs the teacher.

        Args:
            image: ``(B, 3, H, W)``, uint8 or float in [0, 1].
            views: how many views of the same images these are, one after the other.
            checked: whether somebody has looked at their range.

        Returns:
            The teacher's output; it carries no gradient.
        """
        if not checked and not torch.compiler.is_compiling():
            check_images(image)
        pieces = image.split(self._at_once(len(image), views, image))
        with self.extractor.own_precision(image.device):
            return Output.cat([self._with_pooled_map(self.extractor(piece, checked=True)) for piece in pieces])

    @torch.no_grad()
    def from_embedding(self, embedding: Tensor, feature_map: Tensor | None, image: Tensor, views: int) -> Output:
        """Turns what is known of the teacher's output into the whole, as if the teacher had run.

        Args:
            embedding: ``(V * B, D)``.
            feature_map: pooled if `map_size` says so, ``(V * B, D, h, w)``, or None if it is not wanted.
            image: what the teacher would have seen in each view, ``(B, 3, H, W)``.
            views: how many views these are, one after the other.

        Returns:
            The output. The head works on pieces of the same sizes, so that rounding is the same too.
        """
        head = self.extractor.head
        pieces = embedding.split(self._at_once(len(embedding), views, image))
        with self.extractor.own_precision(image.device):
            return Output(torch.cat([head(piece) for piece in pieces]), embedding, feature_map, head.weight)

    def _at_once(self, images: int, views: int, image: Tensor) -> int:
        if self.chunk is not None or image.device.type != "cpu":
            return self.chunk or images
        # What is larger leaves the cache, and memory above 32 MB is fetched anew for every layer.
        return min(images // views, max(1, _CPU_PIXELS // image.shape[-2:].numel()))

    def _with_pooled_map(self, output: Output) -> Output:
        if self.map_size is None or output.feature_map is None:
            return output
        return replace(output, feature_map=pool(output.feature_map, self.map_size, "teacher"))
