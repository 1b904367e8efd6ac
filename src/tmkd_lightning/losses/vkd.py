"""Regression of the normalised teacher from the student by a projection (VkD)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from tmkd_lightning.losses.rkd import prepare_embeddings


def vkd(student_embedding: Tensor, teacher_embedding: Tensor, projection: Tensor) -> Tensor:
    """Smooth L1 between the student's projected embedding and the teacher's, which is normalised.

    ``smooth_l1(E_s · Pᵀ, layer_norm(E_t))``, averaged over samples and dimensions; the normalisation has no weights.
    With an orthogonal P the student's distances are kept, so the projection cannot do its work for it. Gradients flow
    into all arguments.

    Args:
        student_embedding: ``(B, D)``.
        teacher_embedding: of the same samples, ``(B, E)``.
        projection: P, ``(E, D)``.

    Returns:
        Scalar, at least 0.

    Source: Miles et al. 2024; the same numbers as their code.

    Example:
        >>> vkd(torch.tensor([[1.0, -1.0]]), torch.tensor([[5.0, 3.0]]), torch.eye(2)).item() < 1e-6
        True
    """
    student, teacher = prepare_embeddings(student_embedding, teacher_embedding)
    if projection.shape != (teacher.shape[1], student.shape[1]):
        raise ValueError(
            f"projection must be ({teacher.shape[1]}, {student.shape[1]}), the teacher's width by the student's, got "
            f"{tuple(projection.shape)}"
        )
    with torch.autocast(student.device.type, enabled=False):
        projected = student @ projection.to(student.dtype).T
    return F.smooth_l1_loss(projected, F.layer_norm(teacher, teacher.shape[1:]))
