"""InfoNCE between images and the texts of their classes (Eq. 11)."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from tmkd_lightning.losses.kl import cross_entropy


def text_contrast(
    student: Tensor, text: Tensor, label: Tensor, temperature: float, excluded: Tensor | None = None
) -> Tensor:
    """InfoNCE of an image's embedding with the text of its class as the positive and the other classes as negatives.

    Args:
        student: embeddings in the common space, ``(B, E)``; L2-normalised here, rows of zeros stay zero.
        text: embeddings of each class's text in the common space, ``(K, E)``; L2-normalised here.
        label: classes of the images ``(B,)``, in 0..K-1, or distributions over them ``(B, K)``.
        temperature: τ, above 0.
        excluded: mask of texts that are no negatives, ``(K,)``, of classes that no image has; None for none.

    Returns:
        Scalar, at least 0: the mean over the batch.

    Source: Eq. 9 to 11; InfoNCE is our choice, the paper calls its loss CRD; τ 0.07 is customary.

    Example:
        >>> text_contrast(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), temperature=1.0).item()
        0.31326...
    """
    if student.shape[1] != text.shape[1]:
        raise ValueError(f"student is {student.shape[1]} wide and text {text.shape[1]}: project both to one width")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    dtype = torch.promote_types(torch.result_type(student, text), torch.float32)
    with torch.autocast(student.device.type, enabled=False):
        # Without the mask, normalising a row of zeros would multiply its gradient by 1e12.
        student, text = (F.normalize(rows.to(dtype)) * (rows != 0).any(1, keepdim=True) for rows in (student, text))
        similarity = student @ text.T
    if excluded is not None:
        similarity = similarity.masked_fill(excluded, -math.inf)
    return cross_entropy(similarity / temperature, label)
