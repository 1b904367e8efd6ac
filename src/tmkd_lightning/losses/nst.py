"""Neuron selectivity transfer: the channels' activation patterns as a distribution (NST)."""

import torch
from torch import Tensor

from tmkd_lightning.losses.cam import pool_larger
from tmkd_lightning.losses.rkd import check_samples

_FEW_PIXELS = 64  # of a map that is compared by pixels


def nst(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Squared maximum mean discrepancy between the channels of student and teacher, by the kernel ``(x·y)²``.

    ``mean k(t, t') + mean k(s, s') − 2 · mean k(s, t)`` over all pairs of channels of an image, each channel flattened
    and divided by its L2 norm, averaged over the batch. The larger map is pooled to the size of the smaller one first.
    Gradients flow into both arguments.

    Small maps are compared as ``‖A_sᵀA_s / C − A_tᵀA_t / D‖²``, which is the same, from channels A as rows: no pairs of
    channels are formed, and it cannot be negative. That takes ``(h·w)²`` numbers an image; maps with more pixels than
    channels are compared by pairs of channels.

    Args:
        student_map: feature maps, ``(B, C, h, w)``.
        teacher_map: feature maps of the same samples, ``(B, D, H, W)``.

    Returns:
        Scalar, at least 0.

    Source: Huang and Wang 2017, with the polynomial kernel (d 2, c 0).

    Example:
        >>> student, teacher = torch.tensor([[[[3.0, 0.0]]]]), torch.tensor([[[[0.0, 5.0]]]])
        >>> nst(student, teacher).item(), nst(student, student.expand(1, 4, 1, 2)).item()
        (2.0, 0.0)
    """
    check_samples(student_map, teacher_map)
    student, teacher = pool_larger(student_map, teacher_map)
    s, t = _unit_channels(student), _unit_channels(teacher)
    with torch.autocast(student.device.type, enabled=False):
        if s.shape[2] > max(_FEW_PIXELS, s.shape[1] + t.shape[1]):
            return (_kernel(s, s) + _kernel(t, t) - 2 * _kernel(s, t)) / len(s)
        difference = _second_moment(s) - _second_moment(t)
    return difference.square().sum() / len(s)


def _unit_channels(maps: Tensor) -> Tensor:
    """Channels ``(B, C, h·w)`` of length 1; a channel of zeros stays zero and gets no gradient."""
    channels = maps.flatten(2)
    length = torch.linalg.vector_norm(channels, dim=2, keepdim=True)
    return channels * torch.where(length > 0, 1 / length.clamp_min(1e-12), 0.0)


def _kernel(one: Tensor, other: Tensor) -> Tensor:
    """Mean of ``(x·y)²`` over pairs of channels, summed over the batch."""
    return (one @ other.mT).square().sum() / (one.shape[1] * other.shape[1])


def _second_moment(channels: Tensor) -> Tensor:
    """Mean of ``a·aᵀ`` over the channels ``(B, h·w, h·w)``."""
    return channels.mT @ channels / channels.shape[1]
