"""Contrast of images with the texts of classes (Eq. 11)."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from tmkd_lightning.losses.kl import check_temperature
from tmkd_lightning.losses.unit import unit
from tmkd_lightning.utils.precision import in_full_precision


@in_full_precision
def text_contrast(
    student: Tensor, text: Tensor, label: Tensor, temperature: float, left_out: Tensor | None = None
) -> Tensor:
    """How badly an image's embedding picks its own class's text among the classes' texts.

    InfoNCE with one positive, the text of the image's class, and ``K - 1`` negatives, those of the other classes.

    Args:
        student: embeddings in the common space, ``(B, E)``; normalised here, and one of zeros stays as it is.
        text: embeddings of each class's text in the common space, ``(K, E)``; normalised here.
        label: classes of the images, ``(B,)``, in 0..K-1.
        temperature: τ, above 0.
        left_out: which texts do not take part, ``(K,)``, of classes that no image is of; None for none.

    Returns:
        Scalar, at least 0: the mean over the batch.

    Raises:
        ValueError: different widths, or a temperature that is not positive.

    Source: Eq. 9 to 11; InfoNCE is our choice, the paper calls its loss CRD; τ 0.07 is customary.

    Example:
        >>> import torch
        >>> text_contrast(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), temperature=1.0).item()
        0.31326...
    """
    if student.shape[1] != text.shape[1]:
        raise ValueError(f"student is {student.shape[1]} wide and text {text.shape[1]}: project both to one width")
    check_temperature(temperature)
    similarity = unit(student) @ unit(text).T
    if left_out is not None:
        similarity = similarity.masked_fill(left_out, -math.inf)
    return F.cross_entropy(similarity / temperature, label)
