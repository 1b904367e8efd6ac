"""Relations between the samples of a batch: the distances and angles of their embeddings."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tmkd_lightning.utils.precision import in_full_precision

_SMALLEST = 1e-12  # squared distance below which the official code does not go
_SHORTEST = 1e-24  # squared length of a side below which there is no direction; the official code's, too
_CHUNK = 2**18  # cosines held at once, 1 MiB
_FEWEST = 8  # corners taken at once in a large batch, so that there are not too many pieces


@in_full_precision
def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """How far the student's distances between samples are from the teacher's, each in units of their mean.

    Smooth L1, averaged over all ``B²`` pairs. Translation, rotation and scale of either side change nothing. Zero for
    one sample, which has no relations. Gradients flow into both arguments.

    Args:
        student: embeddings, ``(B, D)``.
        teacher: embeddings of the same samples, ``(B, E)``.

    Returns:
        Scalar, at least 0.

    Raises:
        ValueError: different numbers of samples, none, or other than 2-D tensors.

    Source: Park et al. 2019, Eq. 5 and 6.

    Example:
        >>> line, stretched = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0], [2.0], [6.0]])
        >>> rkd_distance(line, stretched).item()
        0.0
    """
    _check_embeddings(student, teacher)
    return F.smooth_l1_loss(_relative_distances(student), _relative_distances(teacher))


@in_full_precision
def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """How far the student's angles between any three samples are from the teacher's.

    Smooth L1 of their cosines, averaged over all ``B³`` triplets. Cosines come from squared distances, by the law of
    cosines, those at a few corners at a time, and once more in the backward pass: of the ``B³`` cosines only 2¹⁸, or
    those at 8 corners, are held at once, and the width of the embeddings costs nothing. Invariances, gradients and one
    sample as in `rkd_distance`.

    Args:
        student: embeddings, ``(B, D)``.
        teacher: embeddings of the same samples, ``(B, E)``.

    Returns:
        Scalar, at least 0.

    Raises:
        ValueError: different numbers of samples, none, or other than 2-D tensors.

    Source: Park et al. 2019, Eq. 7 and 8.

    Example:
        >>> corner = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> rkd_angle(corner, corner @ torch.tensor([[0.0, 2.0], [-2.0, 0.0]])).item()
        0.0
    """
    _check_embeddings(student, teacher)
    squared = _squared_distances(student), _squared_distances(teacher)
    batch = len(student)
    size = max(_FEWEST, _CHUNK // batch**2)
    parts = [
        checkpoint(
            _angle_differences,
            *squared,
            slice(start, start + size),
            student.dtype,
            use_reentrant=False,
            preserve_rng_state=False,  # nothing is drawn
        )
        for start in range(0, batch, size)
    ]
    return torch.stack(parts).sum() / batch**3


def check_samples(student: Tensor, teacher: Tensor) -> None:
    """Refuses to relate different numbers of samples, or none."""
    if len(student) == 0:
        raise ValueError("an empty batch has no relations")
    if len(student) != len(teacher):
        raise ValueError(f"student has {len(student)} samples and teacher {len(teacher)}: relations need the same ones")


def _check_embeddings(student: Tensor, teacher: Tensor) -> None:
    check_samples(student, teacher)
    if student.ndim != 2 or teacher.ndim != 2:
        raise ValueError(f"embeddings must be (batch, width), got {tuple(student.shape)} and {tuple(teacher.shape)}")


def _squared_distances(x: Tensor) -> Tensor:
    # In float64, or near samples would cancel to noise, and on GPUs that round products to TF32 all of them.
    wide = x if x.device.type == "mps" else x.double()
    wide = wide - wide.mean(0)
    gram = wide @ wide.T
    squares = gram.diagonal()
    both = squares[:, None] + squares[None]
    rounding = 8 * torch.finfo(wide.dtype).eps * both.detach()  # what equal samples may differ by
    squared = both - 2 * gram
    return squared.where(squared > rounding, 0)


def _relative_distances(x: Tensor) -> Tensor:
    distance = _squared_distances(x).to(x.dtype).clamp(min=_SMALLEST).sqrt()
    distance = distance * (1 - torch.eye(len(x), dtype=x.dtype, device=x.device))
    pairs = max(1, len(x) * (len(x) - 1))
    return distance / (distance.sum() / pairs).clamp(min=_SMALLEST)


def _angle_differences(student: Tensor, teacher: Tensor, corners: slice, dtype: torch.dtype) -> Tensor:
    return F.smooth_l1_loss(_cosines(student, corners, dtype), _cosines(teacher, corners, dtype), reduction="sum")


def _cosines(squared: Tensor, corners: slice, dtype: torch.dtype) -> Tensor:
    """``(|bi|² + |bj|² − |ij|²) / (2·|bi|·|bj|)`` at some corners b, for all i and j; 0 where a side has no length."""
    apart = squared > _SHORTEST
    inverse = (squared.where(apart, 1).rsqrt() * apart).to(dtype)
    sides, inverse = squared[corners], inverse[corners]
    enclosed = (sides[:, :, None] + sides[:, None] - squared).to(dtype)  # cancels where b is near i or j
    return enclosed * (inverse[:, :, None] * inverse[:, None] / 2)
