"""A small random perturbation of the teacher (Eq. 6)."""

from __future__ import annotations

import torch
from torch import Tensor

from tmkd_lightning.precision import in_full_precision


@in_full_precision
def perturb(value: Tensor, scale: float) -> Tensor:
    """Adds normal noise, fresh at each call.

    Args:
        value: any shape.
        scale: λ, the noise's standard deviation, at least 0; at 0 nothing is drawn.

    Returns:
        ``value + scale * noise``, of the same shape, at least float32.

    Source: Eq. 6; λ 0.1 is customary in the code that the paper builds on.

    Example:
        >>> perturb(torch.ones(2), scale=0.0).tolist()
        [1.0, 1.0]
    """
    return value + scale * torch.randn_like(value) if scale > 0 else value
