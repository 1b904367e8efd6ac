"""Variational information distillation: the teacher's map under a Gaussian that the student predicts (VID)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from tmkd_lightning.losses.cam import average_pool

_LEAST_VARIANCE = 1e-5


def vid(mean: Tensor, teacher_map: Tensor, log_scale: Tensor) -> Tensor:
    """Negative log-likelihood of the teacher's map, without its constant.

    ``½ · mean((μ − F_t)² / σ² + log σ²)`` with a variance ``σ² = softplus(log_scale) + 1e-5`` for each channel. The
    larger map is pooled to the size of the smaller one first. Gradients flow into all arguments.

    Args:
        mean: μ, what the student predicts of the teacher's map, ``(B, D, h, w)``.
        teacher_map: feature maps of the same samples, ``(B, D, H, W)``.
        log_scale: of the variances, ``(D,)``.

    Returns:
        Scalar; negative where small variances hold.

    Source: Ahn et al. 2019, Eq. 5 and 6; 1e-5 as in their code.

    Example:
        >>> zeros = torch.zeros(1, 1, 2, 2)
        >>> round(vid(zeros, zeros + 2, torch.tensor([0.541325])).item(), 3)  # softplus gives 1: ½ · (4 / 1 + 0)
        2.0
    """
    if mean.shape[:2] != teacher_map.shape[:2] or log_scale.shape != teacher_map.shape[1:2]:
        shapes = f"mean {tuple(mean.shape)}, teacher {tuple(teacher_map.shape)} and log_scale {tuple(log_scale.shape)}"
        raise ValueError(f"{shapes} must agree in samples and channels")
    size = [min(sides) for sides in zip(mean.shape[2:], teacher_map.shape[2:], strict=True)]
    wide = torch.promote_types(torch.result_type(mean, teacher_map), torch.float32)
    predicted, target = (average_pool(maps.to(wide), size).flatten(2) for maps in (mean, teacher_map))
    variance = F.softplus(log_scale.to(wide)) + _LEAST_VARIANCE
    # the mean over pixels first, so that variances divide few numbers
    error = (predicted - target).square().mean((0, 2))
    return 0.5 * (error / variance + variance.log()).mean()
