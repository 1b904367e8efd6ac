"""Hints: squared difference of the teacher's map and the student's, brought to its shape (FitNet)."""

from torch import Tensor

from tmkd_lightning.losses.cam import pool_larger


def hint(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean squared difference of two maps.

    The larger map is pooled to the size of the smaller one first. Gradients flow into both arguments.

    Args:
        student_map: the student's map, regressed to the teacher's channels, ``(B, D, h, w)``.
        teacher_map: feature maps of the same samples, ``(B, D, H, W)``.

    Returns:
        Scalar, at least 0.

    Source: Romero et al. 2015, Eq. 3, as the mean of RepDistiller and mdistiller.

    Example:
        >>> import torch
        >>> hint(torch.zeros(1, 1, 1, 1), torch.tensor([[[[1.0, 3.0]]]])).item()
        4.0
    """
    if student_map.shape[:2] != teacher_map.shape[:2]:
        shapes = f"student {tuple(student_map.shape)} and teacher {tuple(teacher_map.shape)}"
        raise ValueError(f"{shapes} differ in samples or channels: project the student's map to the teacher's channels")
    student, teacher = pool_larger(student_map, teacher_map)
    return (student - teacher).square().mean()
