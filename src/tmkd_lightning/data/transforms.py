"""How photos become tensors, in training and to be measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image
from torchvision.transforms import v2

Transform = Callable[[Any], Any]  # gives a Tensor; torchvision's own classes do not say so


def for_training(size: int) -> Transform:
    """Random crop, resized, and flip.

    Args:
        size: side of the result in pixels.

    Returns:
        A function from a PIL image to a tensor ``(3, size, size)`` of uint8.
    """
    return v2.Compose([as_rgb, v2.PILToTensor(), v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()])


def for_measuring(size: int) -> Transform:
    """The middle of the image, of the customary 224 pixels in 256.

    Args:
        size: side of the result in pixels.

    Returns:
        A function from a PIL image to a tensor ``(3, size, size)`` of uint8.

    Example:
        >>> for_measuring(32)(Image.new("L", (60, 40), 7)).shape
        torch.Size([3, 32, 32])
    """
    whole = round(size * 256 / 224)
    return v2.Compose([as_rgb, v2.PILToTensor(), v2.Resize(whole, antialias=True), v2.CenterCrop(size)])


def as_rgb(image: Any) -> Any:
    """Turns an image into RGB; one that is RGB already is not copied, which would be a tenth of the time to load it.

    Args:
        image: PIL image of any mode, or whatever else `v2.RGB` takes.

    Returns:
        The image itself, or an RGB image.

    Example:
        >>> as_rgb(Image.new("L", (2, 1), 7)).getpixel((0, 0))
        (7, 7, 7)
    """
    return image if isinstance(image, Image.Image) and image.mode == "RGB" else v2.RGB()(image)
