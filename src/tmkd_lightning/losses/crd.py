"""Contrastive representation distillation: tells an image from others in the other network's embeddings (CRD)."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_EPS = 1e-7


def crd(student: Tensor, teacher: Tensor, images: int) -> Tensor:
    """Noise-contrastive loss of both networks, each against embeddings of the other.

    ``−[log P/(P + m·Pn) + Σ log m·Pn/(P' + m·Pn)]``, summed over both sides and averaged over the batch: P is the
    probability of the image itself, P' those of m others, ``Pn = 1 / images``. Gradients flow into both arguments.

    Args:
        student: logarithms of the probabilities ``exp(s / τ) / Z``, from similarities s of the student's embeddings
            to the teacher's of earlier epochs, ``(B, 1 + m)``, the image itself first.
        teacher: likewise of the teacher's embeddings to the student's.
        images: number of training images.

    Returns:
        Scalar, at least 0.

    Source: Tian et al. 2020, Eq. 18 and 19; 1e-7 in the denominators as in their code.

    Example:
        >>> even = torch.zeros(1, 2) - math.log(4)  # P = 1/4 = m · Pn
        >>> crd(even, even, images=4).item() / math.log(2)
        4.0000...
    """
    if student.shape != teacher.shape or student.ndim != 2 or student.shape[1] < 2:
        shapes = f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)}"
        raise ValueError(f"{shapes} must have one shape (batch, 1 + negatives)")
    return _contrast(student, images) + _contrast(teacher, images)


def _contrast(scores: Tensor, images: int) -> Tensor:
    """In logarithms, so that no probability overflows."""
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    noise = (scores.shape[1] - 1) / images
    both = math.log(noise + _EPS)
    own = F.softplus(both - scores[:, 0])
    others = F.softplus(scores[:, 1:] - both) + (both - math.log(noise))
    return (own + others.sum(1)).mean()
