"""Where a network looks for each class: class activation maps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tmkd_lightning.losses.unit import unit
from tmkd_lightning.utils.precision import in_full_precision


@in_full_precision
def class_attention(student_cam: Tensor, teacher_cam: Tensor, resolution: int, normalize: bool) -> Tensor:
    """How far the student's class activation maps are from the teacher's, both pooled to one size.

    Gradients flow into both arguments.

    Args:
        student_cam: ``(B, K, h, w)``.
        teacher_cam: of the same samples and classes, ``(B, K, H, W)``; the size may differ.
        resolution: side r of the pooled maps, at least 1 and at most the side of either map.
        normalize: whether each pooled map is divided by its L2 norm.

    Returns:
        Scalar, at least 0: the mean squared difference.

    Raises:
        ValueError: different samples or classes, or a map smaller than the resolution.

    Source: Guo et al. 2023, Eq. 5 and 6.

    Example:
        >>> class_attention(torch.ones(1, 3, 4, 4), torch.zeros(1, 3, 8, 8), resolution=2, normalize=False).item()
        1.0
    """
    if student_cam.shape[:2] != teacher_cam.shape[:2]:
        raise ValueError(
            f"student {tuple(student_cam.shape)} and teacher {tuple(teacher_cam.shape)} differ in samples or classes"
        )
    student = pool(student_cam, resolution, "student").flatten(2)
    teacher = pool(teacher_cam, resolution, "teacher").flatten(2)
    return F.mse_loss(unit(student), unit(teacher)) if normalize else F.mse_loss(student, teacher)


@in_full_precision
def pool(maps: Tensor, resolution: int, whose: str) -> Tensor:
    """Adaptive average pooling, as a product: that of the library has no deterministic gradient on CUDA.

    Args:
        maps: ``(B, C, h, w)``.
        resolution: side r of the result, at most the side of the maps.
        whose: network, for the message.

    Returns:
        Maps ``(B, C, r, r)``.

    Raises:
        ValueError: maps smaller than the resolution, or a resolution below 1.

    Example:
        >>> pool(torch.arange(6.0).view(1, 1, 2, 3), resolution=1, whose="student").tolist()
        [[[[2.5]]]]
    """
    height, width = maps.shape[2:]
    if resolution < 1:
        raise ValueError(f"resolution must be at least 1, got {resolution}")
    if min(height, width) < resolution:
        raise ValueError(
            f"the {whose}'s maps of {height}x{width} cannot be pooled to {resolution}x{resolution}: use larger images, "
            "a network that keeps larger maps, or a lower resolution"
        )
    if height == width == resolution:
        return maps
    windows = torch.kron(_windows(height, resolution, maps), _windows(width, resolution, maps))
    return (maps.flatten(2) @ windows).unflatten(2, (resolution, resolution))


def _windows(size: int, resolution: int, like: Tensor) -> Tensor:
    return F.adaptive_avg_pool1d(torch.eye(size, dtype=like.dtype, device=like.device), resolution)
