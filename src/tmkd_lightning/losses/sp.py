"""Similarity-preserving loss: pairwise similarities of the samples' feature maps."""

import torch
from torch import Tensor
from torch.nn import functional as F

from tmkd_lightning.losses.rkd import check_samples


def similarity_preserving(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean squared difference between the similarity matrices of student and teacher.

    ``‖G_t − G_s‖² / B²``, where ``G = F·Fᵀ`` of the flattened maps, each row divided by its L2 norm. Invariant to the
    scale of either side; zero for a single sample. Gradients flow into both arguments.

    Args:
        student_map: feature maps before the pooling, ``(B, C, h, w)``.
        teacher_map: feature maps of the same samples, ``(B, D, H, W)``; channels and size may differ.

    Returns:
        Scalar, at least 0.

    Source: Tung and Mori 2019, Eq. 4.

    Example:
        >>> maps, alike = torch.eye(2).view(2, 2, 1, 1), torch.ones(2, 3, 4, 4)
        >>> similarity_preserving(maps, 3 * maps).item(), similarity_preserving(maps, alike).item()
        (0.0, 0.29289...)
    """
    check_samples(student_map, teacher_map)
    with torch.autocast(student_map.device.type, enabled=False):
        difference = _similarities(teacher_map) - _similarities(student_map)
    return difference.square().sum() / len(student_map) ** 2


def _similarities(maps: Tensor) -> Tensor:
    """Similarity matrix ``(B, B)`` with rows of length 1; a row of zeros stays zero and gets no gradient."""
    rows = maps.to(torch.promote_types(maps.dtype, torch.float32)).flatten(1)
    gram = rows @ rows.T
    return F.normalize(gram) * (gram != 0).any(1, keepdim=True)
