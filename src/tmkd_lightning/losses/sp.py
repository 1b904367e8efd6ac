"""Similarities between the samples of a batch, read off their maps."""

from __future__ import annotations

from torch import Tensor

from tmkd_lightning.losses.rkd import check_samples
from tmkd_lightning.losses.unit import unit
from tmkd_lightning.utils.precision import in_full_precision


@in_full_precision
def similarity_preserving(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """How far the student's similarities between samples are from the teacher's.

    ``‖G_t − G_s‖² / B²``, where ``G = F·Fᵀ`` of the flattened maps, each row divided by its L2 norm. The scale of
    either side changes nothing. Zero for one sample, which is similar to itself alone. Gradients flow into both
    arguments.

    Args:
        student_map: maps before the pooling, ``(B, C, h, w)``.
        teacher_map: maps of the same samples, ``(B, D, H, W)``; channels and size may differ.

    Returns:
        Scalar, at least 0.

    Raises:
        ValueError: different numbers of samples.

    Source: Tung and Mori 2019, Eq. 4.

    Example:
        >>> import torch
        >>> maps, alike = torch.eye(2).view(2, 2, 1, 1), torch.ones(2, 3, 4, 4)
        >>> similarity_preserving(maps, 3 * maps).item(), similarity_preserving(maps, alike).item()
        (0.0, 0.29289...)
    """
    check_samples(student_map, teacher_map)
    difference = _similarities(teacher_map) - _similarities(student_map)
    return difference.square().sum() / len(student_map) ** 2


def _similarities(maps: Tensor) -> Tensor:
    rows = maps.flatten(1)
    return unit(rows @ rows.T)
