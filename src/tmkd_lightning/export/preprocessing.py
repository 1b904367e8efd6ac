"""Finds the resizing and cropping that an evaluation transform does, in the words of timm's configs."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from tmkd_lightning.feature_extraction.image_size import Size

_INTERPOLATIONS = {"bilinear": v2.InterpolationMode.BILINEAR, "bicubic": v2.InterpolationMode.BICUBIC}
_LEVELS = 0.5  # of 255, that the same settings on PIL images and on tensors may lie apart on average


class Preprocessing(NamedTuple):
    """How an image of any size becomes one of the network's.

    Attributes:
        resize: pixels of the shorter side, or of both sides where `crop_mode` is ``squash``, before the crop.
        crop_mode: ``center``, which keeps the aspect ratio, or ``squash``.
        interpolation: ``bilinear`` or ``bicubic``, with antialiasing.
        doubt: why it may not be what the run did, as a sentence; None where both gave the same on test images.
    """

    resize: int
    crop_mode: str
    interpolation: str
    doubt: str | None = None

    def crop_pct(self, size: int) -> float:
        """The crop's share of the resized side, from which timm computes that side as ``floor(size / crop_pct)``."""
        exact = size / self.resize
        rounded = (round(exact, 3), round(exact, 4), exact)
        return next((pct for pct in rounded if math.floor(size / pct) == self.resize), size / (self.resize + 0.5))


def find_preprocessing(prepare: Callable[[Image.Image], Tensor] | None, size: Size) -> Preprocessing:
    """Tries settings until one does to images what a transform does.

    Args:
        prepare: from a PIL image to floats in [0, 1] ``(3, H, W)``; None where it is not known.
        size: height and width of the network's images.

    Example:
        >>> from tmkd_lightning.data.transforms import eval_transform
        >>> find_preprocessing(lambda image: eval_transform(56)(image) / 255, (56, 56))
        Preprocessing(resize=64, crop_mode='center', interpolation='bilinear', doubt=None)
    """
    side = min(size)
    plain = Preprocessing(side, "center", "bilinear")
    if prepare is None:
        return plain._replace(doubt="It is not known how the run resized its images: these settings are a guess.")
    probes = [_probe(round(2.3 * side), round(1.7 * side)), _probe(round(1.7 * side), round(2.3 * side))]
    try:
        wanted = [255 * prepare(probe) for probe in probes]
        if all(found.shape[-2:] == (probe.height, probe.width) for found, probe in zip(wanted, probes, strict=True)):
            return plain._replace(doubt=f"The run's images came in {side} pixels and were not resized.")
    except Exception:  # the user's own code, on images of a size that it may not expect
        wanted = [torch.empty(0)] * 2
    sides = [side, round(side * 256 / 224), *range(side, math.ceil(1.5 * side) + 1)] if size[0] == size[1] else []
    candidates = [Preprocessing(side, "squash", name) for name in _INTERPOLATIONS]
    candidates += [Preprocessing(resize, "center", name) for name in _INTERPOLATIONS for resize in sides]
    for candidate in candidates:
        if all(_close(candidate, probe, one, size) for probe, one in zip(probes, wanted, strict=True)):
            return candidate
    return plain._replace(doubt="The run prepared its images in a way that these settings cannot state.")


def apply(preprocessing: Preprocessing, image: Image.Image, size: Size) -> Tensor:
    """What the settings make of an image: uint8 ``(3, H, W)``, as timm does it, on PIL images."""
    resize = [preprocessing.resize] if preprocessing.crop_mode == "center" else list(size)
    resized = TF.resize(image, resize, _INTERPOLATIONS[preprocessing.interpolation])
    return TF.pil_to_tensor(TF.center_crop(resized, list(size)))


def _close(candidate: Preprocessing, probe: Image.Image, wanted: Tensor, size: Size) -> bool:
    if wanted.shape != (3, *size):
        return False
    return bool((apply(candidate, probe, size) - wanted).abs().mean() <= _LEVELS)


def _probe(width: int, height: int) -> Image.Image:
    """Coloured blobs under noise, coarse enough for any crop to show and fine enough for any filter."""
    generator = torch.Generator().manual_seed(0)
    coarse, fine = (
        torch.rand(1, 3, max(2, height // step), max(2, width // step), generator=generator) for step in (8, 2)
    )
    parts = [F.interpolate(part, (height, width), mode="bilinear") for part in (coarse, fine)]
    return TF.to_pil_image((0.6 * parts[0] + 0.4 * parts[1])[0])
