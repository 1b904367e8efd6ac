"""Canny edges of each colour channel, on the device of the batch."""

from __future__ import annotations

import kornia
from torch import Tensor

from tmkd_lightning.hysteresis import hysteresis
from tmkd_lightning.images import to_unit_batch


def canny(image: Tensor, low_threshold: float = 100 / 255, high_threshold: float = 200 / 255) -> Tensor:
    """Finds edges in each channel separately, without blurring first.

    The gradient is Kornia's: unnormalised Sobel on [0, 1], in float32 or better. So are non-maximum suppression and
    tie rules, which are OpenCV's with ``L2gradient=True``. Hysteresis runs to its fixed point.

    Args:
        image: ``(B, C, H, W)``, uint8 or float in [0, 1].
        low_threshold: gradient magnitude above which a pixel may continue an edge, on [0, 1] pixels.
        high_threshold: magnitude above which a pixel starts an edge, at least `low_threshold`.

    Returns:
        ``(B, C, H, W)``, 1 on edges and 0 elsewhere, float32 for integer images and else of the image's type.

    Raises:
        ValueError: thresholds that are not ``0 < low <= high``, or an image that is not 4-D.

    Source: Eq. 1; Canny 1986. The thresholds are OpenCV's customary 100 and 200 (our choice).

    Example:
        >>> import torch
        >>> step = torch.zeros(1, 1, 3, 6)
        >>> step[..., 3:] = 1
        >>> canny(step)[0, 0, 1].tolist()
        [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    """
    check_thresholds(low_threshold, high_threshold)
    image = to_unit_batch(image)
    channels = image.flatten(0, 1).unsqueeze(1)
    # kernel_size=1 skips the blur; without hysteresis, weak pixels come back as 0.5 and strong ones as 1.
    _, marked = kornia.filters.canny(channels, low_threshold, high_threshold, kernel_size=1, hysteresis=False)
    return hysteresis(weak=marked > 0, strong=marked == 1).view_as(image).to(image.dtype)


def check_thresholds(low: float, high: float) -> None:
    """Refuses thresholds that are not ``0 < low <= high``."""
    if not 0 < low <= high:
        raise ValueError(f"canny needs 0 < low_threshold <= high_threshold, got {low} and {high}")
