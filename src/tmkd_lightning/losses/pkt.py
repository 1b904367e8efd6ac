"""Probabilistic knowledge transfer: who is near to whom in a batch, as probabilities (PKT)."""

import torch
from torch import Tensor

from tmkd_lightning.losses.rkd import prepare_embeddings

_EPS = 1e-7  # of norms and of probabilities, as in the official code


def pkt(student: Tensor, teacher: Tensor) -> Tensor:
    """Divergence between the samples' neighbourhoods of student and teacher.

    ``mean over B² of t · log((t + ε) / (s + ε))``: each row of ``(cos + 1) / 2`` of the embeddings is divided by its
    sum. Invariant to the scale of each sample; zero for a single sample. Gradients flow into both arguments.

    Args:
        student: embeddings, ``(B, D)``.
        teacher: embeddings of the same samples, ``(B, E)``.

    Returns:
        Scalar.

    Source: Passalis and Tefas 2018; the mean over all pairs and ε 1e-7 as in their code and RepDistiller.

    Example:
        >>> apart, alike = torch.eye(2), torch.ones(2, 3)
        >>> pkt(apart, alike).item()
        0.02944...
    """
    student, teacher = prepare_embeddings(student, teacher)
    of_student, of_teacher = _neighbourhoods(student), _neighbourhoods(teacher)
    return (of_teacher * ((of_teacher + _EPS) / (of_student + _EPS)).log()).mean()


def _neighbourhoods(x: Tensor) -> Tensor:
    """Conditional probabilities ``(B, B)`` of samples, each row summing to 1; a dead one is as near to all."""
    # Without the mask, a row of zeros would multiply its gradient by 1e7.
    unit = x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + _EPS) * (x != 0).any(1, keepdim=True)
    with torch.autocast(x.device.type, enabled=False):
        near = (unit @ unit.T + 1) / 2
    return near / near.sum(1, keepdim=True)
