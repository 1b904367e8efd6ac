"""KL divergence from one teacher and noisy copies of its logits (TeKAP)."""

import torch
from torch import Tensor

from tmkd_lightning.losses.kl import logit_kl


def tekap_kl(
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    noise: Tensor,
    teacher_share: float = 0.9,
    noise_share: float = 0.1,
    copies_weight: float = 0.8,
) -> Tensor:
    """KL divergence of the student's softened class distribution from the teacher's and from that of noisy copies.

    ``KL(z_t) + copies_weight · Σ_k KL(teacher_share · z_t + noise_share · ε_k)``, each as in `logit_kl`.

    Args:
        student: logits, ``(B, K)``.
        teacher: logits, ``(B, K)``; the target.
        temperature: T, above 0.
        noise: ε, ``(copies, B, K)``, standard normal.
        teacher_share: factor of the logits in a copy.
        noise_share: factor of the noise in a copy.
        copies_weight: factor of the copies' sum.

    Returns:
        Scalar, at least 0.

    Source: Hossain et al. 2025; the shares, the weight and T 4 as in the authors' code.

    Example:
        >>> logits = torch.tensor([[0.0, 3.0]]).log1p()
        >>> tekap_kl(torch.zeros(1, 2), logits, temperature=1.0, noise=torch.zeros(3, 1, 2)).item()
        0.58235...
    """
    if noise.shape[1:] != teacher.shape:
        raise ValueError(f"noise {tuple(noise.shape)} must be (copies, *{tuple(teacher.shape)}), like the logits")
    dtype = torch.promote_types(torch.result_type(student, teacher), torch.float32)
    student, teacher = student.to(dtype), teacher.to(dtype)
    copies = teacher_share * teacher + noise_share * noise
    of_copies = torch.stack([logit_kl(student, copy, temperature) for copy in copies]).sum() if len(copies) else 0
    return logit_kl(student, teacher, temperature) + copies_weight * of_copies
