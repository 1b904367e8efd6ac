"""Images ``(B, 3, H, W)``, uint8 or float in [0, 1]: conversion, normalisation and the check of a batch."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tmkd_lightning.utils.validation import is_number

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_TOLERANCE = 0.02  # by which rounding (in resizing, in undoing a normalisation) may leave [0, 1]


def to_unit_float(image: Tensor) -> Tensor:
    """Scales uint8 images of any shape to float32 in [0, 1]; floating images stay, other types raise a TypeError."""
    if image.dtype == torch.uint8:
        return image.float().div_(255)
    if image.is_floating_point():
        return image
    raise TypeError(f"images must be uint8 or floating, got {image.dtype}")


def to_unit_batch(image: Tensor) -> Tensor:
    """Like `to_unit_float`, and raises a ValueError for what is not ``(B, C, H, W)``."""
    if image.ndim != 4:
        raise ValueError(f"expected images (batch, channels, height, width), got {tuple(image.shape)}")
    return to_unit_float(image)


def channel_statistics(mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of three channels as float32 tensors ``(3, 1, 1)``."""
    finite = all(is_number(value) and math.isfinite(value) for value in [*mean, *std])
    if len(mean) != 3 or len(std) != 3 or not finite or min(std) <= 0:
        raise ValueError(f"mean and std need three finite values each, std above 0, got {tuple(mean)}, {tuple(std)}")
    return torch.tensor(mean, dtype=torch.float32).view(3, 1, 1), torch.tensor(std, dtype=torch.float32).view(3, 1, 1)


def denormalize(image: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Inverts ``(image - mean) / std`` for statistics ``(3, 1, 1)``, and clips what rounding left outside [0, 1]."""
    return (image * std + mean).clamp(0, 1)


def check_images(image: Tensor, normalized_with: tuple[Tensor, Tensor] | None = None, batch: str = "batch") -> None:
    """Checks shape, type and range of a batch, which arrives normalised if `normalized_with` has mean and std.

    Meant for the host, before the transfer; `batch` is its name in messages, such as ``validation batch``.
    """
    if image.ndim != 4 or image.shape[1] != 3:
        remedy = "convert greyscale images with torchvision.transforms.v2.RGB()"
        if image.shape[-1] == 3:
            remedy = "put the channels first, with albumentations' ToTensorV2 or torch's permute"
        raise ValueError(f"images must be (batch, 3, height, width), got {tuple(image.shape)}; {remedy}")
    if image.numel() == 0:
        raise ValueError(f"a {batch} holds no image, its shape is {tuple(image.shape)}: leave empty batches out")
    if image.dtype == torch.uint8:
        if normalized_with is not None:
            raise TypeError("normalized_with is set, but the images are uint8: normalised images are floating")
        return
    image = to_unit_float(image)
    if normalized_with is not None:
        mean, std = (part.to(image.device) for part in normalized_with)
        image = image * std + mean
    low, high = (value.item() for value in torch.aminmax(image))
    if low >= -_TOLERANCE and high <= 1 + _TOLERANCE:
        return
    wrong = image.isnan() if math.isnan(low) else (image < -_TOLERANCE) | (image > 1 + _TOLERANCE)
    place = f"image {int(wrong.flatten(1).any(1).int().argmax())} of a {batch} of {len(image)}"
    if math.isnan(low):
        raise ValueError(f"{place} holds values that are not a number: look at what the transform makes of it")
    raise ValueError(
        f"images must lie in [0, 1] {'' if normalized_with is None else 'after undoing normalized_with '}but this "
        f"batch spans [{low:.3g}, {high:.3g}] ({place} is the first outside); if they arrive normalised, pass "
        "normalized_with=(mean, std) as your transform uses it; if they are 0..255, hand them over as uint8"
    )
