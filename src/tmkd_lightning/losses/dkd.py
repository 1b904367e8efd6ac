"""Decoupled KL divergence: the target class against the rest, and within the rest (DKD)."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from tmkd_lightning.losses.kl import prepare_logits


def dkd(
    student: Tensor,
    teacher: Tensor,
    label: Tensor,
    alpha: float,
    beta: float,
    temperature: float,
    standardize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """KL divergence of the target class against the others, plus that within the others, each with its own weight.

    ``T² · (α · KL([p_y, 1 − p_y]) + β · KL(softmax of the other logits))``, averaged over the batch. Probabilities stay
    in log space, so gradients are finite however sure a network is. Gradients flow into both arguments.

    Args:
        student: logits, ``(B, K)``, of at least two classes.
        teacher: logits, ``(B, K)``; the target.
        label: classes ``(B,)``, in 0..K-1.
        alpha: α, factor of the target-class part.
        beta: β, factor of the non-target part.
        temperature: T, above 0.
        standardize: whether both sides are standardised first, see `standardize_logits`.
        reduction: ``mean`` over the batch, or ``none`` for the loss of each image, ``(B,)``.

    Returns:
        Scalar, at least 0.

    Source: Zhao et al. 2022; the same numbers as their code.

    Example:
        >>> teacher = torch.tensor([[2.0, 1.0, 1.0]]).log()  # p_y is 1/2, and of the others each has 1/2
        >>> dkd(torch.zeros(1, 3), teacher, torch.tensor([0]), alpha=1.0, beta=8.0, temperature=1.0).item()
        0.05889...
    """
    student, teacher = prepare_logits(student, teacher, temperature, standardize)
    parts = zip(split(student, label), split(teacher, label), strict=True)
    of_target, of_rest = (F.kl_div(*pair, reduction="none", log_target=True).sum(1) for pair in parts)
    losses = (alpha * of_target + beta * of_rest) * temperature**2
    return losses if reduction == "none" else losses.mean()


def split(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of target and non-target ``(B, 2)``, and of the other classes ``(B, K)``, 0 at the target."""
    if logits.shape[1] < 2:
        raise ValueError(f"{logits.shape[1]} class has no others to be told from: use at least 2")
    if label.shape != logits.shape[:1]:
        raise ValueError(f"label must be one class for each of {len(logits)} images, got shape {tuple(label.shape)}")
    is_target = torch.arange(logits.shape[1], device=logits.device) == label.unsqueeze(1)
    rest = logits.masked_fill(is_target, -math.inf)
    odds = logits.gather(1, label.unsqueeze(1)) - rest.logsumexp(1, keepdim=True)
    of_rest = F.log_softmax(rest, dim=1).masked_fill(is_target, 0.0)
    return F.logsigmoid(torch.cat([odds, -odds], dim=1)), of_rest
