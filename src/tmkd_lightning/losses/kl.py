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
    rows = terms.where(label != 0, 0.0).sum(1, keepdim=True)  # a class left out has a logit of -inf
    first = torch.zeros(len(label), dtype=torch.long, device=label.device)
    return F.nll_loss(rows, first, reduction=reduction)  # sums the rows in the same order as for classes


def logit_kl(
    student: Tensor, teacher: Tensor, temperature: float, standardize: bool = False, reduction: str = "mean"
) -> Tensor:
    """KL divergence of the student's softened class distribution from the teacher's.

    ``T² / B · Σ p_t (log p_t − log p_s)``. Gradients flow into both arguments.

    Args:
        student: logits, ``(B, K)``.
        teacher: logits, ``(B, K)``; the target.
        temperature: T, above 0.
        standardize: whether both sides are standardised first, see `standardize_logits`.
        reduction: ``mean`` over the batch, or ``none`` for the loss of each image, ``(B,)``.

    Returns:
        Scalar, at least 0.

    Source: Hinton et al. 2015; Eq. 8. T 4 is customary in the code that the paper builds on. Standardised: Sun et al.
    2024.

    Example:
        >>> logit_kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 4.0]]).log(), temperature=1.0).item()
        0.19274...
    """
    student, teacher = prepare_logits(student, teacher, temperature, standardize)
    student, teacher = F.log_softmax(student, dim=1), F.log_softmax(teacher, dim=1)
    terms = F.kl_div(student, teacher, reduction="none", log_target=True)
    return (terms.sum(1) if reduction == "none" else terms.sum() / len(terms)) * temperature**2


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


def standardize_logits(logits: Tensor) -> Tensor:
    """Subtracts from each row of logits its mean and divides by its standard deviation.

    Args:
        logits: ``(B, K)``, of at least two classes; equal logits become zeros, without a gradient.

    Returns:
        ``(B, K)``.

    Source: Sun et al. 2024; the deviation is the unbiased one and the 1e-7 below it theirs, as in their code.

    Example:
        >>> standardize_logits(torch.tensor([[1.0, 2.0, 3.0]])).round(decimals=4).tolist()
        [[-1.0, 0.0, 1.0]]
    """
    if logits.shape[1] < 2:
        raise ValueError("logits of one class cannot be standardised: use at least 2")
    deviation = logits.std(dim=1, keepdim=True)
    # Without the mask, equal logits would multiply their gradient by 1e7.
    return (logits - logits.mean(dim=1, keepdim=True)) / (1e-7 + deviation) * (deviation != 0)


def prepare_logits(
    student: Tensor, teacher: Tensor, temperature: float = 1.0, standardize: bool = False
) -> tuple[Tensor, Tensor]:
    """Checks the logits of both sides, and gives them in float32 or better, standardised if asked, divided by T."""
    if student.shape != teacher.shape:
        raise ValueError(f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must have one shape")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    dtype = torch.promote_types(torch.result_type(student, teacher), torch.float32)
    pair = student.to(dtype), teacher.to(dtype)
    if standardize:
        pair = standardize_logits(pair[0]), standardize_logits(pair[1])
    return pair[0] / temperature, pair[1] / temperature
