"""A network that is never trained: evaluation mode, no gradients, its own precision."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.losses.cam import pool
from tmkd_lightning.teacher.sharding import shard
from tmkd_lightning.utils.distributed import largest
from tmkd_lightning.utils.images import check_images
from tmkd_lightning.utils.validation import check_count

_CPU_PIXELS = 2**19  # in one forward: ten images of 224 pixels


class FrozenTeacher(nn.Module):
    """Runs an Extractor in evaluation mode without gradients, `chunk` images at once; None fits the device.

    On a `device` of its own it stays there, wherever the module that holds it is moved: images come to it, and outputs
    go back to where the images were. In a `dtype` of its own it computes in that one, whatever the precision is around
    it; BatchNorms, and the mean and std that images are normalised with, are in float32.
    """

    def __init__(
        self,
        extractor: Extractor,
        chunk: int | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if chunk is not None:
            check_count("chunk", chunk)
        self.extractor = extractor.requires_grad_(False)
        self.device = None if device is None else torch.device(device)
        self.dtype = dtype
        if dtype is not None:
            _convert(extractor, dtype)
            extractor.follows_autocast = False
        if self.device is not None:
            extractor.to(self.device)
        self.chunk = chunk
        self.sharded = False  # whether its weights are split over processes
        self.map_size: int | None = None  # side in pixels to which feature maps are pooled
        self.eval()

    def shard(self, device: torch.device) -> None:
        """Splits the weights over the processes that train, see `tmkd_lightning.teacher.sharding`.

        From then on all processes call it equally often; how many images each has does not matter.
        """
        shard(self.extractor, device)
        self.sharded = True

    def check_weights(self) -> None:
        """Raises ValueError if a weight, or a statistic of a frozen norm, is beyond what float16 holds."""
        if self.dtype != torch.float16:
            return
        statistics = ((name, value) for name, value in self.named_buffers() if ".running_" in name)  # masks may be -inf
        for name, value in (*self.named_parameters(), *statistics):
            if value.isinf().any():
                name = name.removeprefix("extractor.")
                raise ValueError(f"the teacher's {name} is beyond 65504, where float16 ends: take bfloat16")

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode: in training mode, BatchNorm would change its statistics."""
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Self:
        """Applies what ``.to`` or ``.half`` do to each tensor, but keeps the device and dtype that were named."""

        def stay(tensor: Tensor) -> Tensor:
            applied = fn(tensor)
            device = applied.device if self.device is None else tensor.device
            dtype = applied.dtype if self.dtype is None else tensor.dtype
            return applied if (applied.device, applied.dtype) == (device, dtype) else tensor.to(device, dtype)

        return super()._apply(stay, *args, **kwargs)

    @torch.no_grad()
    def forward(self, image: Tensor, views: int = 1, checked: bool = False) -> Output:
        """Runs the network on images ``(B, 3, H, W)``, uint8 or float in [0, 1], `views` views one after the other."""
        if not checked and not torch.compiler.is_compiling():
            check_images(image)
        device = image.device if self.device is None else self.device
        pieces = image.to(device).split(self._at_once(len(image), views, image))
        others = largest(len(pieces)) - len(pieces) if self.sharded else 0  # forwards that need this process too
        with self.extractor.own_precision(device):
            outputs = (self.extractor(piece, checked=True) for piece in [*pieces, *[pieces[-1][:1]] * others])
            if self.map_size is not None:  # piece by piece, so that large maps are not held
                outputs = (_pool_map(output, self.map_size) for output in outputs)
            return Output.cat(list(outputs)[: len(pieces)]).to(image.device)

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


def _convert(extractor: Extractor, dtype: torch.dtype) -> None:
    """Puts the weights into a dtype, layer by layer, so that no more than one stands in memory twice.

    BatchNorms go to float32, which their kernels take beside images in half precision: a running variance may be too
    large for float16, and a mean has three digits in bfloat16. So do the mean and std that images are normalised with.
    """
    for part in extractor.modules():
        kind = torch.float32 if isinstance(part, (Extractor, _BatchNorm)) else dtype
        part._apply(lambda tensor, to=kind: tensor.to(to) if tensor.is_floating_point() else tensor, recurse=False)
