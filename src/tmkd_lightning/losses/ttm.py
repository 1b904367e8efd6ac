"""Transformed teacher matching: the teacher's probabilities to a power, the student at temperature 1 (TTM, WTTM)."""

from torch import Tensor
from torch.nn import functional as F

from tmkd_lightning.losses.kl import prepare_logits


def ttm(student: Tensor, teacher: Tensor, power: float) -> Tensor:
    """KL divergence of the student's class distribution from the teacher's, raised to a power and normalised.

    ``1 / B · Σ KL(q ‖ p_s)`` with ``q ∝ p_t^γ``: the teacher at temperature 1/γ, the student at 1, and no T². Gradients
    flow into both arguments.

    Args:
        student: logits, ``(B, K)``.
        teacher: logits, ``(B, K)``; the target.
        power: γ, above 0; below 1 it softens.

    Returns:
        Scalar, at least 0.

    Source: Zheng and Yang 2024; the same numbers as their code.

    Example:
        >>> import torch
        >>> ttm(torch.zeros(1, 2), torch.tensor([[1.0, 16.0]]).log(), power=0.5).item()  # q is [1/5, 4/5]
        0.19274...
    """
    return _losses(student, teacher, power)[0].mean()


def wttm(student: Tensor, teacher: Tensor, power: float) -> Tensor:
    """Like `ttm`, each image weighed by how flat the teacher's probabilities are for it.

    ``1 / B · Σ (Σ_k p_t^γ) · KL(q ‖ p_s)``: the sum before normalising, 1 for a one-hot and ``K^(1−γ)`` for a uniform
    distribution.

    Args:
        student: logits, ``(B, K)``.
        teacher: logits, ``(B, K)``; the target.
        power: γ, above 0.

    Returns:
        Scalar, at least 0.

    Source: Zheng and Yang 2024; the same numbers as their code.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[1.0, 16.0]]).log()  # the sum is (1 + 4) / √17
        >>> wttm(torch.zeros(1, 2), teacher, power=0.5).item()
        0.23373...
    """
    losses, log_sums = _losses(student, teacher, power)
    return (log_sums.exp() * losses).mean()


def _losses(student: Tensor, teacher: Tensor, power: float) -> tuple[Tensor, Tensor]:
    """The divergence of each image ``(B,)``, and the logarithm of its ``Σ p_t^γ``."""
    if not power > 0:
        raise ValueError(f"power must be above 0, got {power}")
    student, teacher = prepare_logits(student, teacher)
    scaled = power * F.log_softmax(teacher, dim=1)
    target = F.log_softmax(scaled, dim=1)
    losses = F.kl_div(F.log_softmax(student, dim=1), target, reduction="none", log_target=True).sum(1)
    return losses, scaled.logsumexp(1)
