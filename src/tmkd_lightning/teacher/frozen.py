"""A network that is never trained: evaluation mode, no gradients, its own precision."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.losses.cam import pool
from tmkd_lightning.utils.images import check_images
from tmkd_lightning.utils.validation import check_count

_CPU_PIXELS = 2**19  # in one forward: ten images of 224 pixels


class FrozenTeacher(nn.Module):
    """Runs an Extractor in evaluation mode without gradients, `chunk` images at once; None fits the device.

    On a `device` of its own it stays there, wherever the module that holds it is moved: images come to it, and outputs
    go back to where the images were.
    """

    def __init__(
        self, extractor: Extractor, chunk: int | None = None, device: str | torch.device | None = None
    ) -> None:
        super().__init__()
        if chunk is not None:
            check_count("chunk", chunk)
        self.extractor = extractor.requires_grad_(False)
        self.device = None if device is None else torch.device(device)
        if self.device is not None:
            extractor.to(self.device)
        self.chunk = chunk
        self.map_size: int | None = None  # side in pixels to which feature maps are pooled
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode: in training mode, BatchNorm would change its statistics."""
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Self:
        """Applies what ``.to`` or ``.half`` do to each tensor: a new dtype, but no other device than the named one."""

        def stay(tensor: Tensor) -> Tensor:
            applied = fn(tensor)
            return applied if applied.device == tensor.device else tensor.to(applied.dtype)

        return super()._apply(fn if self.device is None else stay, *args, **kwargs)

    @torch.no_grad()
    def forward(self, image: Tensor, views: int = 1, checked: bool = False) -> Output:
        """Runs the network on images ``(B, 3, H, W)``, uint8 or float in [0, 1], `views` views one after the other."""
        if not checked and not torch.compiler.is_compiling():
            check_images(image)
        device = image.device if self.device is None else self.device
        pieces = image.to(device).split(self._at_once(len(image), views, image))
        with self.extractor.own_precision(device):
            outputs = (self.extractor(piece, checked=True) for piece in pieces)
            if self.map_size is not None:  # piece by piece, so that large maps are not held
                outputs = (_pool_map(output, self.map_size) for output in outputs)
            return Output.cat(list(outputs)).to(image.device)

    @torch.no_grad()
    def from_embedding(
        self,
        embedding: Tensor,
        feature_map: Tensor | None,
        image: Tensor,
        views: int,
        maps: tuple[Tensor, ...] = (),
    ) -> Output:
        """The output of embeddings ``(V * B, D)`` and maps ``(V * B, D, h, w)`` that a cache holds of a batch."""
        head, device = self.extractor.head, image.device if self.device is None else self.device
        # in pieces as in `forward`: it rounds likewise
        pieces = embedding.to(device).split(self._at_once(len(embedding), views, image))
        with self.extractor.own_precision(device):
            logits = torch.cat([head(piece) for piece in pieces])
        return Output(logits, embedding, feature_map, head.weight, maps).to(image.device)

    def _at_once(self, images: int, views: int, image: Tensor) -> int:
        """Number of images in one forward."""
        device = image.device if self.device is None else self.device
        if self.chunk is not None or device.type != "cpu":
            return self.chunk or images
        # Larger activations do not fit the caches of the CPU, and above 32 MB each layer allocates its memory anew.
        return min(images // views, max(1, _CPU_PIXELS // self.extractor.pixels(image)))


def _pool_map(output: Output, size: int) -> Output:
    if output.feature_map is None:
        return output
    return replace(output, feature_map=pool(output.feature_map, size, "teacher"))
