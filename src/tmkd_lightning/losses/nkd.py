"""Normalised KD: soft cross-entropy of the target class, and of the others among themselves (NKD)."""

from torch import Tensor

from tmkd_lightning.losses.dkd import split
from tmkd_lightning.losses.kl import prepare_logits


def nkd(
    student: Tensor, teacher: Tensor, label: Tensor, gamma: float, temperature: float, reduction: str = "mean"
) -> Tensor:
    """Cross-entropy of the target class by the teacher's probability, plus that of the others, normalised to sum to 1.

    ``−p_t[y] · log p_s[y] − γ T² · Σ_{k≠y} q_t log q_s``, averaged over the batch; ``p`` at temperature 1, ``q`` the
    softmax of the other logits at T. It is a cross-entropy and not a divergence: equal logits do not make it 0.
    Gradients flow into both arguments, but not into ``p_t[y]``, which weighs the image.

    Args:
        student: logits, ``(B, K)``, of at least two classes.
        teacher: logits, ``(B, K)``; the target.
        label: classes ``(B,)``, in 0..K-1.
        gamma: γ, factor of the non-target part.
        temperature: T of the non-target part, above 0.
        reduction: ``mean`` over the batch, or ``none`` for the loss of each image, ``(B,)``.

    Returns:
        Scalar, at least 0.

    Source: Yang et al. 2023; ``p_t[y]`` is detached as in their code.

    Example:
        >>> import torch
        >>> nkd(torch.zeros(1, 3), torch.zeros(1, 3), torch.tensor([0]), gamma=1.5, temperature=1.0).item()
        1.40592...
    """
    student, teacher = prepare_logits(student, teacher)
    student_target, teacher_target = (split(side, label)[0][:, 0] for side in (student, teacher))
    student_rest, teacher_rest = (split(side, label)[1] for side in prepare_logits(student, teacher, temperature))
    of_rest = (teacher_rest.exp() * student_rest).sum(1)  # the target's log-probability is set to 0
    losses = -teacher_target.detach().exp() * student_target - gamma * temperature**2 * of_rest
    return losses if reduction == "none" else losses.mean()
