"""Regression of the teacher's embedding, and of its logits through its own head (SRRL)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from tmkd_lightning.losses.rkd import prepare_embeddings


def srrl(projected: Tensor, teacher: Tensor, head_weight: Tensor) -> Tensor:
    """Mean squared difference of embeddings, plus that of the logits which the teacher's head gives for them.

    ``mse(h, E_t) + mse(W · h, W · E_t)``. The head's bias is on both sides and cancels. Gradients flow into all
    arguments.

    Args:
        projected: h, the student's embedding in the teacher's space, ``(B, E)``.
        teacher: embedding of the same samples, ``(B, E)``.
        head_weight: W of the teacher, ``(K, E)``.

    Returns:
        Scalar, at least 0.

    Source: Yang et al. 2021; both parts squared, with weight 1, as in the code of SimKD.

    Example:
        >>> srrl(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 5.0]])).item()
        9.5
    """
    projected, teacher = prepare_embeddings(projected, teacher)
    with torch.autocast(projected.device.type, enabled=False):
        logits = (projected - teacher) @ head_weight.to(projected.dtype).T
    return F.mse_loss(projected, teacher) + logits.square().mean()
