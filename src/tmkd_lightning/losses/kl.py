"""Cross-entropy with a label, and KL divergence between logits and between embeddings (Eq. 7, 8 and 12)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits: Tensor, label: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy of class distributions from labels, in float32 or better, whatever the network runs in.

    Args:
        logits: ``(B, K)``.
        label: classes ``(B,)`` in 0..K-1, or distributions over them ``(B, K)``, each row summing to 1.
        reduction: ``mean`` over the batch, or ``sum``.

    Returns:
        Scalar, at least 0; for one-hot rows the same to the last bit as for their classes.

    Source: Eq. 12.

    Example:
        >>> cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.25, 0.75]])).item()
        0.69314...
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if label.ndim == 1:
        return F.cross_entropy(logits, label, reduction=reduction)
    terms = label * F.log_softmax(logits, dim=1)
    rows = terms.where(label > 0, 0.0).sum(1, keepdim=True)  # a class left out has a logit of -inf
    first = torch.zeros(len(label), dtype=torch.long, device=label.device)
    return F.nll_loss(rows, first, reduction=reduction)  # sums the rows in the same order as for classes


def logit_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL divergence of the student's softened class distribution from the teacher's.

    ``T² / B · Σ p_t (log p_t − log p_s)``. Gradients flow into both arguments.

    Args:
        student: logits, ``(B, K)``.
        teacher: logits, ``(B, K)``; the target.
        temperature: T, above 0.

    Returns:
        Scalar, at least 0.

    Source: Hinton et al. 2015; Eq. 8. T 4 is customary in the code that the paper builds on.

    Example:
        >>> logit_kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 4.0]]).log(), temperature=1.0).item()
        0.19274...
    """
    if student.shape != teacher.shape:
        raise ValueError(f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must have one shape")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    dtype = torch.promote_types(torch.result_type(student, teacher), torch.float32)
    student = F.log_softmax(student.to(dtype) / temperature, dim=1)
    teacher = F.log_softmax(teacher.to(dtype) / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def feature_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL divergence of the student's embedding from the teacher's, both softmaxed over their dimensions.

    ``T² · KL(softmax(teacher / T) ‖ softmax(student / T))``, averaged over the batch.

    Args:
        student: projected embedding, ``(B, D)``.
        teacher: (perturbed) embedding, ``(B, D)``; the target.
        temperature: T, above 0.

    Returns:
        Scalar, at least 0.

    Source: Eq. 7; T 4 is customary in the code that the paper builds on.

    Example:
        >>> feature_kl(torch.ones(2, 8), torch.zeros(2, 8), temperature=4.0).item()
        0.0
    """
    return logit_kl(student, teacher, temperature)
