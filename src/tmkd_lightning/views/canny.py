"""Canny edges of each colour channel, on the device of the batch."""

import torch
from torch import Tensor
from torch.nn import functional as F

from tmkd_lightning.utils.images import to_unit_batch
from tmkd_lightning.views.hysteresis import hysteresis

_TAN_22_5 = 0.41421356237309503
_PIXELS_PER_CHUNK = 2**16  # few enough to stay in a CPU's cache


def canny(
    image: Tensor, low_threshold: float = 100 / 255, high_threshold: float = 200 / 255, rounds: int | None = None
) -> Tensor:
    """Canny edges of each channel separately, without a blur before the gradient.

    As Kornia and, with ``L2gradient=True``, OpenCV define it: unnormalised Sobel gradient on [0, 1] in float32 or
    float64, non-maximum suppression along the nearest of four directions with their rules for ties, and hysteresis to
    its fixed point.

    Args:
        image: ``(B, C, H, W)``, uint8 or float in [0, 1].
        low_threshold: gradient magnitude above which a pixel may continue an edge, on [0, 1] pixels.
        high_threshold: magnitude above which a pixel starts an edge, at least `low_threshold`.
        rounds: how many pixels an edge may continue from a strong pixel; None for no limit. See `hysteresis`.

    Returns:
        ``(B, C, H, W)``, 1 on edges and 0 elsewhere, float32 for integer images and else of the image's type. No
        gradient flows through it.

    Source: Eq. 1; Canny 1986. The thresholds are OpenCV's customary 100 and 200 (our choice).

    Example:
        >>> step = torch.zeros(1, 1, 3, 6)
        >>> step[..., 3:] = 1
        >>> canny(step)[0, 0, 1].tolist()
        [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    """
    check_thresholds(low_threshold, high_threshold)
    if image.ndim != 4 or not image.is_floating_point():
        image = to_unit_batch(image)
    channels = image.detach().flatten(0, 1).to(torch.promote_types(image.dtype, torch.float32))
    size = len(channels)
    if image.device.type == "cpu":
        size = max(1, _PIXELS_PER_CHUNK // max(1, channels.shape[1:].numel()))
    masks = [_edge_masks(piece, low_threshold, high_threshold) for piece in channels.split(size)]
    weak, strong = (torch.cat(parts) for parts in zip(*masks, strict=True))
    return hysteresis(weak, strong, rounds).view_as(image).to(image.dtype)


def check_thresholds(low: float, high: float) -> None:
    """Refuses thresholds that are not ``0 < low <= high``."""
    if not 0 < low <= high:
        raise ValueError(f"canny needs 0 < low_threshold <= high_threshold, got {low} and {high}")


def _edge_masks(image: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Masks of weak and strong edge pixels, ``(N, H, W)`` each."""
    across, down = _sobel(image)
    images, height, width = image.shape
    squared = image.new_zeros(images, height + 2, width + 2)  # no gradient beyond the image
    inner = squared[:, 1:-1, 1:-1]
    torch.square(across, out=inner)
    inner.addcmul_(down, down)
    ridge = inner * _local_maxima(squared, across, down)
    return _greater(ridge, low**2), _greater(ridge, high**2)


def _sobel(image: Tensor) -> tuple[Tensor, Tensor]:
    """Sobel gradients to the right and downwards, ``(N, H, W)`` each, with replicated borders."""
    padded = F.pad(image[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    above, level, below = padded[:, :-2], padded[:, 1:-1], padded[:, 2:]
    smooth = above.add(level, alpha=2).add_(below)
    slope = below - above
    across = smooth[..., 2:] - smooth[..., :-2]
    down = slope[..., :-2].add(slope[..., 1:-1], alpha=2).add_(slope[..., 2:])
    return across, down


def _local_maxima(squared: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Non-maximum suppression: of two equal gradients the left or upper one stays, and on a diagonal neither."""
    height, width = across.shape[1:]

    def shifted(y: int, x: int) -> Tensor:
        return squared[:, 1 + y : 1 + y + height, 1 + x : 1 + x + width]

    here = shifted(0, 0)
    horizontal = _greater(here, shifted(0, -1)) & ~_greater(shifted(0, 1), here)
    vertical = _greater(here, shifted(-1, 0)) & ~_greater(shifted(1, 0), here)
    falling = _greater(here, torch.maximum(shifted(1, 1), shifted(-1, -1)))
    rising = _greater(here, torch.maximum(shifted(1, -1), shifted(-1, 1)))
    right, under = across.abs(), down.abs()
    flat, steep = _greater(_TAN_22_5 * right, under), _greater(_TAN_22_5 * under, right)
    diagonal = _choose(_greater(across * down, 0), falling, rising)
    return _choose(flat, horizontal, _choose(steep, vertical, diagonal))


def _greater(one: Tensor, other: Tensor | float) -> Tensor:
    """``one > other``, on a CPU by way of floats: PyTorch compares into floats with vector instructions only."""
    floats = torch.empty_like(one, memory_format=torch.contiguous_format) if one.device.type == "cpu" else None
    return torch.gt(one, other, out=floats).bool()


def _choose(condition: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """``torch.where`` of masks, for which PyTorch has vector instructions only in bitwise operations."""
    return ((yes ^ no) & condition) ^ no
