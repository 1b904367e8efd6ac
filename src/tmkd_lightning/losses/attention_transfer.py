"""Attention transfer: where the activations of two maps are strong, whatever their channels (AT)."""

from torch import Tensor
from torch.nn import functional as F

from tmkd_lightning.losses.cam import pool_larger
from tmkd_lightning.losses.rkd import check_samples


def attention_transfer(student_map: Tensor, teacher_map: Tensor, power: float = 2) -> Tensor:
    """Mean squared difference of the attention maps of student and teacher.

    An attention map is the channels' mean of ``|F|^p``, flattened and divided by its L2 norm. The larger map is pooled
    to the size of the smaller one first. Gradients flow into both arguments.

    Args:
        student_map: feature maps, ``(B, C, h, w)``.
        teacher_map: feature maps of the same samples, ``(B, D, H, W)``.
        power: p, at least 1.

    Returns:
        Scalar, at least 0.

    Source: Zagoruyko and Komodakis 2017; p 2 and the mean over images and pixels as in their code.

    Example:
        >>> import torch
        >>> student, teacher = torch.ones(1, 3, 1, 2), torch.tensor([[[[2.0, 0.0]]]])
        >>> attention_transfer(student, teacher).item()  # (1/√2, 1/√2) and (1, 0)
        0.29289...
    """
    check_samples(student_map, teacher_map)
    student, teacher = (_attention(maps, power) for maps in pool_larger(student_map, teacher_map))
    return (student - teacher).square().mean()


def _attention(maps: Tensor, power: float) -> Tensor:
    """Attention maps ``(B, h·w)`` of length 1; a map of zeros stays zero and gets no gradient."""
    maps = maps.flatten(2).contiguous()  # adds up in one order, however a map lies in memory
    strength = (maps.square() if power == 2 else maps.abs().pow(power)).mean(1)
    return F.normalize(strength) * (strength != 0).any(1, keepdim=True)
