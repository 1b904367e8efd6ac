"""Relational losses: pairwise distances and angles of a batch's embeddings (RKD)."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

_MIN_SQUARED_DISTANCE = 1e-12  # smaller ones are clamped, and their mean, as in the official code
_MIN_SQUARED_SIDE = 1e-24  # a shorter side has no direction; as in the official code
_COSINES_PER_CHUNK = 2**18  # 1 MiB
_MIN_CORNERS_PER_CHUNK = 8


def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 between the pairwise distances of student and teacher, each divided by their mean.

    Averaged over all ``B²`` pairs. Invariant to translation, rotation and scale of either side; zero for a single
    sample. Gradients flow into both arguments.

    Args:
        student: embeddings, ``(B, D)``.
        teacher: embeddings of the same samples, ``(B, E)``.

    Returns:
        Scalar, at least 0.

    Source: Park et al. 2019, Eq. 5 and 6.

    Example:
        >>> line, stretched = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0], [2.0], [6.0]])
        >>> rkd_distance(line, stretched).item()
        0.0
    """
    student, teacher = prepare_embeddings(student, teacher)
    return F.smooth_l1_loss(_relative_distances(student), _relative_distances(teacher))


def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 between the cosines of the angles of all triplets of samples.

    Averaged over all ``B³`` triplets. Cosines come from squared distances by the law of cosines, in chunks of corners
    that are computed again in the backward pass, so memory grows with neither ``B³`` nor the width. Invariances,
    gradients and a single sample as in `rkd_distance`.

    Args:
        student: embeddings, ``(B, D)``.
        teacher: embeddings of the same samples, ``(B, E)``.

    Returns:
        Scalar, at least 0.

    Source: Park et al. 2019, Eq. 7 and 8.

    Example:
        >>> corner = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> rkd_angle(corner, corner @ torch.tensor([[0.0, 2.0], [-2.0, 0.0]])).item()
        0.0
    """
    student, teacher = prepare_embeddings(student, teacher)
    squared = _squared_distances(student), _squared_distances(teacher)
    batch = len(student)
    size = max(_MIN_CORNERS_PER_CHUNK, _COSINES_PER_CHUNK // batch**2)
    chunks = [slice(start, start + size) for start in range(0, batch, size)]
    parts = [  # nothing is drawn, so the state of the generators need not be saved
        checkpoint(_angle_differences, *squared, chunk, student.dtype, use_reentrant=False, preserve_rng_state=False)
        for chunk in chunks
    ]
    return torch.stack(parts).sum() / batch**3


def check_samples(student: Tensor, teacher: Tensor) -> None:
    """Refuses an empty batch and different numbers of samples."""
    if len(student) == 0:
        raise ValueError("an empty batch has no relations")
    if len(student) != len(teacher):
        raise ValueError(f"student has {len(student)} samples and teacher {len(teacher)}: relations need the same ones")


def prepare_embeddings(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Checks both embeddings and widens half precision to float32."""
    check_samples(student, teacher)
    if student.ndim != 2 or teacher.ndim != 2:
        raise ValueError(f"embeddings must be (batch, width), got {tuple(student.shape)} and {tuple(teacher.shape)}")
    dtype = torch.promote_types(torch.result_type(student, teacher), torch.float32)
    return student.to(dtype), teacher.to(dtype)


def _squared_distances(x: Tensor) -> Tensor:
    """Pairwise squared distances ``(B, B)`` in float64: near samples cancel in float32, and all of them in TF32."""
    wide = x if x.device.type == "mps" else x.double()
    wide = wide - wide.mean(0)
    with torch.autocast(x.device.type, enabled=False):
        gram = wide @ wide.T
    squares = gram.diagonal()
    both = squares[:, None] + squares[None]
    rounding = 8 * torch.finfo(wide.dtype).eps * both.detach()  # largest difference between equal samples
    squared = both - 2 * gram
    return squared.where(squared > rounding, 0)


def _relative_distances(x: Tensor) -> Tensor:
    """Pairwise distances ``(B, B)`` divided by their mean off the diagonal."""
    distance = _squared_distances(x).to(x.dtype).clamp(min=_MIN_SQUARED_DISTANCE).sqrt()
    distance = distance * (1 - torch.eye(len(x), dtype=x.dtype, device=x.device))
    pairs = max(1, len(x) * (len(x) - 1))
    return distance / (distance.sum() / pairs).clamp(min=_MIN_SQUARED_DISTANCE)


def _angle_differences(student: Tensor, teacher: Tensor, corners: slice, dtype: torch.dtype) -> Tensor:
    return F.smooth_l1_loss(_cosines(student, corners, dtype), _cosines(teacher, corners, dtype), reduction="sum")


def _cosines(squared: Tensor, corners: slice, dtype: torch.dtype) -> Tensor:
    """``(|bi|² + |bj|² − |ij|²) / (2·|bi|·|bj|)`` at some corners b, for all i and j; 0 where a side has no length."""
    apart = squared > _MIN_SQUARED_SIDE
    inverse = (squared.where(apart, 1).rsqrt() * apart).to(dtype)
    sides, inverse = squared[corners], inverse[corners]
    enclosed = (sides[:, :, None] + sides[:, None] - squared).to(dtype)  # cancels where b is near i or j
    return enclosed * (inverse[:, :, None] * inverse[:, None] / 2)
