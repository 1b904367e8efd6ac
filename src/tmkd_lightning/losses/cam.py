"""Class attention loss: differences of pooled class activation maps (CAT-KD)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tmkd_lightning.utils.precision import at_least_float32


def class_attention(student_cam: Tensor, teacher_cam: Tensor, resolution: int, normalize: bool) -> Tensor:
    """Mean squared difference of the class activation maps, both pooled to one size.

    Gradients flow into both arguments.

    Args:
        student_cam: ``(B, K, h, w)``.
        teacher_cam: of the same samples and classes, ``(B, K, H, W)``; the size may differ.
        resolution: side r of the pooled maps, at least 1 and at most the side of either map.
        normalize: whether each pooled map is divided by its L2 norm; a map of zeros stays zero.

    Returns:
        Scalar, at least 0.

    Source: Guo et al. 2023, Eq. 5 and 6.

    Example:
        >>> class_attention(torch.ones(1, 3, 4, 4), torch.zeros(1, 3, 8, 8), resolution=2, normalize=False).item()
        1.0
    """
    if student_cam.shape[:2] != teacher_cam.shape[:2]:
        shapes = f"student {tuple(student_cam.shape)} and teacher {tuple(teacher_cam.shape)}"
        raise ValueError(f"{shapes} differ in samples or classes")
    student = pool(student_cam, resolution, "student").flatten(2)
    teacher = pool(teacher_cam, resolution, "teacher").flatten(2)
    if normalize:  # without the mask, a map of zeros would multiply its gradient by 1e12
        student, teacher = (F.normalize(maps, dim=2) * (maps != 0).any(2, keepdim=True) for maps in (student, teacher))
    return (student - teacher).square().mean()  # of any two precisions, unlike mse_loss


def pool(maps: Tensor, resolution: int, whose: str) -> Tensor:
    """Adaptive average pooling ``(B, C, h, w) -> (B, C, r, r)`` that has a deterministic gradient on CUDA."""
    height, width = maps.shape[2:]
    if resolution < 1:
        raise ValueError(f"resolution must be at least 1, got {resolution}")
    if min(height, width) < resolution:
        raise ValueError(
            f"the {whose}'s maps of {height}x{width} cannot be pooled to {resolution}x{resolution}: use larger images, "
            "a network that keeps larger maps, or a lower resolution"
        )
    return average_pool(maps, (resolution, resolution))


def average_pool(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Like `pool`, to any size ``(r, c)`` up to that of the maps."""
    maps = at_least_float32(maps)
    height, width = maps.shape[2:]
    if [height, width] == list(size):
        return maps
    rows, columns = _windows(height, size[0], maps), _windows(width, size[1], maps)
    with torch.autocast(maps.device.type, enabled=False):
        return rows.T @ (maps @ columns)


def pyramid(maps: Tensor, sides: Sequence[int]) -> list[Tensor]:
    """Pools maps to squares of several sides at once, which reads them once."""
    if not sides:
        return []
    height, width = maps.shape[2:]
    rows, columns = (torch.cat([_windows(size, side, maps) for side in sides], 1) for size in (height, width))
    with torch.autocast(maps.device.type, enabled=False):
        pooled = rows.T @ (maps @ columns)
    bands = pooled.split(list(sides), dim=2)
    return [band.split(list(sides), dim=3)[level] for level, band in enumerate(bands)]


def pool_larger(student_map: Tensor, teacher_map: Tensor) -> tuple[Tensor, Tensor]:
    """Pools the larger of two maps ``(B, C, h, w)`` to the size of the smaller one."""
    size = [min(sides) for sides in zip(student_map.shape[2:], teacher_map.shape[2:], strict=True)]
    return average_pool(student_map, size), average_pool(teacher_map, size)


def _windows(size: int, resolution: int, like: Tensor) -> Tensor:
    """Pooling matrix of one dimension, ``(size, r)``."""
    return F.adaptive_avg_pool1d(torch.eye(size, dtype=like.dtype, device=like.device), resolution)
