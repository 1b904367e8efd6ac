"""Images as the library means them: ``(B, 3, H, W)``, uint8 or float in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tmkd_lightning.utils.validation import is_number

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# A float image may leave [0, 1] by rounding (resizing, undoing a normalisation) but not by more than this.
_TOLERANCE = 0.02


def to_unit_float(image: Tensor) -> Tensor:
    """Scales uint8 images to [0, 1]; floating images stay as they are.

    Args:
        image: any shape, uint8, or floating in [0, 1].

    Returns:
        The image in float32 if it was uint8, else in its own type.

    Raises:
        TypeError: another integer type, whose range is not known.

    Example:
        >>> to_unit_float(torch.tensor([0, 255], dtype=torch.uint8)).tolist()
        [0.0, 1.0]
    """
    if image.dtype == torch.uint8:
        return image.float().div_(255)
    if image.is_floating_point():
        return image
    raise TypeError(f"images must be uint8 or floating, got {image.dtype}")


def to_unit_batch(image: Tensor) -> Tensor:
    """Like `to_unit_float`, and refuses what is not a batch of images.

    Raises:
        ValueError: not ``(B, C, H, W)``.
        TypeError: an integer type other than uint8.

    Example:
        >>> to_unit_batch(torch.zeros(1, 3, 2, 2, dtype=torch.uint8)).dtype
        torch.float32
    """
    if image.ndim != 4:
        raise ValueError(f"expected images (batch, channels, height, width), got {tuple(image.shape)}")
    return to_unit_float(image)


def channel_statistics(mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Turns the statistics of three channels into tensors that broadcast over images.

    Args:
        mean: mean of each channel on [0, 1].
        std: standard deviation of each channel on [0, 1], above 0.

    Returns:
        Mean and standard deviation, ``(3, 1, 1)`` each, float32.

    Raises:
        ValueError: not three of each, a number that is not finite, or a standard deviation that is not positive.

    Example:
        >>> channel_statistics((0, 0, 0), (1, 1, 1))[1].shape
        torch.Size([3, 1, 1])
    """
    finite = all(is_number(value) and math.isfinite(value) for value in [*mean, *std])
    if len(mean) != 3 or len(std) != 3 or not finite or min(std) <= 0:
        raise ValueError(
            f"mean and std need three values each, std above 0, all finite; got {tuple(mean)} and {tuple(std)}"
        )
    return torch.tensor(mean, dtype=torch.float32).view(3, 1, 1), torch.tensor(std, dtype=torch.float32).view(3, 1, 1)


def denormalize(image: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Undoes ``(image - mean) / std`` and removes what rounding left outside [0, 1].

    Args:
        image: normalised images, ``(B, 3, H, W)``.
        mean: mean of each channel on [0, 1], ``(3, 1, 1)``.
        std: standard deviation of each channel on [0, 1], ``(3, 1, 1)``.

    Returns:
        Images in [0, 1], ``(B, 3, H, W)``.

    Example:
        >>> denormalize(torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1), 0.25), torch.ones(1, 1, 1)).item()
        0.25
    """
    return (image * std + mean).clamp(0, 1)


def check_images(image: Tensor, normalized_with: tuple[Tensor, Tensor] | None = None, batch: str = "batch") -> None:
    """Refuses a batch that is not what the views and networks expect; meant for the host, before the transfer.

    Args:
        image: a batch as the DataLoader gave it.
        normalized_with: mean and standard deviation, ``(3, 1, 1)`` each, if the batch arrives normalised.
        batch: what messages call it, such as ``validation batch``.

    Raises:
        TypeError: not a tensor of uint8 or floating type.
        ValueError: wrong shape, wrong number of channels, or values outside the range.

    Example:
        >>> check_images(torch.zeros(2, 3, 8, 8))
    """
    if image.ndim != 4 or image.shape[1] != 3:
        raise ValueError(
            f"images must be (batch, 3, height, width), got {tuple(image.shape)}; "
            "convert greyscale images with torchvision.transforms.v2.RGB()"
        )
    if image.numel() == 0:
        raise ValueError(
            f"a {batch} holds no image, its shape is {tuple(image.shape)}: have the DataLoader leave empty batches out"
        )
    if image.dtype == torch.uint8:
        if normalized_with is not None:
            raise TypeError("normalized_with is set, but the images are uint8: normalised images are floating")
        return
    image = to_unit_float(image)
    if normalized_with is not None:
        mean, std = (part.to(image.device) for part in normalized_with)
        image = image * std + mean
    low, high = (value.item() for value in torch.aminmax(image))
    if math.isnan(low):
        raise ValueError(
            f"{_place(image.isnan(), batch)} holds values that are not a number: look at what the transform "
            "makes of it; a mean or a division over nothing gives NaN"
        )
    if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):
        what = "after undoing normalized_with " if normalized_with is not None else ""
        place = _place((image < -_TOLERANCE) | (image > 1 + _TOLERANCE), batch)
        raise ValueError(
            f"images must lie in [0, 1] {what}but this batch spans [{low:.3g}, {high:.3g}] ({place} is the first "
            "outside); if they arrive normalised, pass normalized_with=(mean, std) as your transform uses it; if they "
            "are 0..255, hand them over as uint8"
        )


def _place(bad: Tensor, batch: str) -> str:
    """Names the first image with a bad value."""
    return f"image {int(bad.flatten(1).any(1).int().argmax())} of a {batch} of {len(bad)}"
