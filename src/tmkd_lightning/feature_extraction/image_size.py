"""The size of the images that a network sees: resizing to it, and reading it off a network."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from tmkd_lightning.utils.precision import at_least_float32
from tmkd_lightning.utils.validation import check_count

Size = tuple[int, int]  # height and width in pixels

IMAGE_SIZE = "tmkd_image_size"  # key in checkpoints


def check_image_size(size: int | Sequence[int]) -> Size:
    """Checks a side of square images, or their height and width, in pixels."""
    sides = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(sides) != 2:
        raise ValueError(f"image_size must be a side or (height, width) in pixels, got {size!r}")
    height, width = (check_count("image_size", side) for side in sides)
    return height, width


def resize(image: Tensor, size: Size) -> Tensor:
    """Resizes images ``(B, 3, H, W)`` in [0, 1] to `size`; those that have it come back as they are.

    Bicubic with antialiasing, in float32 or better, clipped to [0, 1] as PIL clips what bicubic weights overshoot.

    Source: the preprocessing of CLIP and of most of timm's networks (``pretrained_cfg["interpolation"]``).

    Example:
        >>> import torch
        >>> checkerboard = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).expand(1, 3, 2, 2)
        >>> resize(checkerboard, (1, 1)).flatten().tolist()
        [0.5, 0.5, 0.5]
    """
    if image.shape[-2:] == size:
        return image
    return F.interpolate(at_least_float32(image), size=size, mode="bicubic", antialias=True).clamp(0, 1)


def stated_image_size(network: nn.Module) -> Size | None:
    """The size that a network was built for, if it states it: timm's, open_clip's and torchvision's ViTs do."""
    for module in network.modules():  # the layers first: a config keeps the size of the pretrained weights
        for attribute in ("img_size", "image_size"):
            if (size := _as_size(getattr(module, attribute, None))) is not None:
                return size
    for module in network.modules():
        config: Any = getattr(module, "pretrained_cfg", None)
        if isinstance(config, Mapping) and isinstance(shape := config.get("input_size"), (tuple, list)):
            return _as_size(shape[1:])
    return None


def in_words(size: Size) -> str:
    """``224`` for square images, ``(224, 160)`` for others: as the argument `image_size` takes it."""
    return str(size[0]) if size[0] == size[1] else str(size)


def _as_size(value: object) -> Size | None:
    sides = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    whole = [side for side in sides if type(side) is int and side > 0]
    return (whole[0], whole[1]) if len(whole) == len(sides) == 2 else None
