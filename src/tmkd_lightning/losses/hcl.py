"""Hierarchical context loss: differences of two maps at several sizes (ReviewKD)."""

import torch
from torch import Tensor

from tmkd_lightning.losses.cam import pyramid
from tmkd_lightning.utils.precision import at_least_float32

_SIDES = (4, 2, 1)


def hcl(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean squared difference of two maps, at full size and pooled to sides of 4, 2 and 1.

    The differences have weights 1, ½, ¼ and ⅛, and are divided by the sum of the weights; sides that are not below that
    of the maps are left out. Gradients flow into both arguments.

    Args:
        student_map: feature maps, ``(B, C, h, w)``.
        teacher_map: feature maps of the same shape.

    Returns:
        Scalar, at least 0.

    Source: Chen et al. 2021, the weights as in their code; a method sums it over several pairs of maps.

    Example:
        >>> import torch
        >>> signs = torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]])
        >>> hcl(signs, torch.zeros(1, 1, 2, 2)).item()  # (1 · 1 + ½ · 0) / 1.5
        0.66666...
    """
    if student_map.shape != teacher_map.shape:
        shapes = f"student {tuple(student_map.shape)} and teacher {tuple(teacher_map.shape)}"
        raise ValueError(f"{shapes} must have one shape: project the student's map to the teacher's")
    difference = at_least_float32(student_map) - at_least_float32(teacher_map)
    pooled = pyramid(difference, [side for side in _SIDES if side < min(difference.shape[2:])])
    levels = [difference, *pooled]  # the means of a difference are the differences of the means
    weights = [0.5**level for level in range(len(levels))]
    losses = [weight * level.square().mean() for weight, level in zip(weights, levels, strict=True)]
    return torch.stack(losses).sum() / sum(weights)
