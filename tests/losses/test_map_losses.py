"""Losses of two feature maps (AT, NST, HCL) against loops over their pixels and channels."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.golden_values import Loss, Operations, check_moderate, check_nothing, gradients
from tmkd_lightning.losses import attention_transfer, hcl, hint, nst, vid

BOTH = pytest.mark.parametrize("loss", [attention_transfer, nst])


def one_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    size = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
    return F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size)


def slow_attention(student: Tensor, teacher: Tensor, power: float = 2) -> float:
    differences = []
    for s, t in zip(*one_size(student, teacher), strict=True):
        sides = []
        for maps in (s, t):
            channels = maps.flatten(1).T.tolist()
            pixels = [sum(abs(value) ** power for value in pixel) / len(pixel) for pixel in channels]
            sides.append([pixel / (math.hypot(*pixels) or 1.0) for pixel in pixels])
        differences += [(a - b) ** 2 for a, b in zip(*sides, strict=True)]
    return sum(differences) / len(differences)


def slow_nst(student: Tensor, teacher: Tensor) -> float:
    """The kernel of every pair of channels."""
    total = 0.0
    for s, t in zip(*one_size(student, teacher), strict=True):
        sides = []
        for maps in (s, t):
            rows = maps.flatten(1).tolist()
            sides.append([[value / (math.hypot(*row) or 1.0) for value in row] for row in rows])

        def kernel(one: list[list[float]], other: list[list[float]]) -> float:
            pairs = product(one, other)
            values = [sum(a * b for a, b in zip(*pair, strict=True)) ** 2 for pair in pairs]
            return sum(values) / len(values)

        s_rows, t_rows = sides
        total += kernel(t_rows, t_rows) + kernel(s_rows, s_rows) - 2 * kernel(s_rows, t_rows)
    return total / len(student)


SLOW = {attention_transfer: slow_attention, nst: slow_nst}


@BOTH
@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ((2, 3, 4, 4), (2, 5, 4, 4)),
        ((3, 4, 7, 5), (3, 2, 4, 6)),
        ((2, 3, 4, 4), (2, 3, 8, 8)),
        ((2, 3, 9, 9), (2, 2, 9, 9)),
        ((1, 1, 1, 1),) * 2,
    ],
)
def test_by_loops(loss: Loss, student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    pair = torch.randn(student).double(), torch.randn(teacher).double()
    assert loss(*pair).item() == pytest.approx(SLOW[loss](*pair), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("power", [1, 3])
def test_attention_of_another_power(power: float) -> None:
    pair = torch.randn(2, 3, 4, 4).double(), torch.randn(2, 5, 4, 4).double()
    assert attention_transfer(*pair, power).item() == pytest.approx(slow_attention(*pair, power), rel=1e-9)


def edge(name: str, channels: int) -> Tensor:
    maps = torch.randn(3, channels, 4, 4)
    dead = torch.ones(3, channels, 1, 1)
    dead[1], dead[2, 0] = 0, 0
    return {
        "partly dead": maps * dead,
        "dead": torch.zeros_like(maps),
        "large": 1e4 * maps.clamp(-3, 3),
        "tiny": 1e-20 * maps,
    }[name]


@BOTH
@pytest.mark.parametrize("name", ["partly dead", "dead", "large"])
def test_edges(loss: Loss, name: str) -> None:
    """A channel or an image whose activations are dead would multiply its gradient by 1e12."""
    student, plain = edge(name, 4), torch.randn(3, 2, 4, 4)
    for pair in ((student, plain), (plain, student)):
        check_moderate(loss, *pair)
        assert loss(*pair).item() == pytest.approx(SLOW[loss](*pair), rel=1e-4)
    check_nothing(loss, student, student)


def test_tiny_maps() -> None:
    """Channels of 1e-20 have directions still; their squares are below what float32 resolves."""
    student, plain = edge("tiny", 4), torch.randn(3, 2, 4, 4)
    for value in gradients(attention_transfer, student, plain):
        assert value.isfinite().all()
    for value in gradients(nst, student, plain):
        assert value.isfinite().all()


def test_memory_of_nst() -> None:
    """No pairs of channels: with 512 and 64 of them, they would be 2 · 512 · 512 numbers."""
    with Operations() as operations:
        nst(torch.randn(2, 64, 4, 4, requires_grad=True), torch.randn(2, 512, 4, 4)).backward()
    assert operations.elements <= 2 * 512 * 16


def test_vid_and_hint_by_loops() -> None:
    mean, teacher, log_scale = (
        torch.randn(2, 3, 6, 5).double(),
        torch.randn(2, 3, 4, 8).double(),
        torch.randn(3).double(),
    )
    total, squares = [], []
    for s, t in zip(*one_size(mean, teacher), strict=True):
        for channel in range(3):
            variance = math.log(1 + math.exp(log_scale[channel])) + 1e-5
            for a, b in zip(s[channel].flatten().tolist(), t[channel].flatten().tolist(), strict=True):
                total.append(0.5 * ((a - b) ** 2 / variance + math.log(variance)))
                squares.append((a - b) ** 2)
    assert vid(mean, teacher, log_scale).item() == pytest.approx(sum(total) / len(total), rel=1e-9)
    assert hint(mean, teacher).item() == pytest.approx(sum(squares) / len(squares), rel=1e-9)
    with pytest.raises(
        ValueError, match=r"mean \(2, 3, 6, 5\), teacher \(2, 4, 4, 4\) and log_scale \(3,\) must agree"
    ):
        vid(mean, torch.zeros(2, 4, 4, 4), log_scale)
    with pytest.raises(ValueError, match="differ in samples or channels: project the student's map"):
        hint(mean, torch.zeros(2, 4, 4, 4))


@pytest.mark.parametrize(("size", "sides"), [((8, 8), [4, 2, 1]), ((4, 7), [2, 1]), ((2, 2), [1]), ((1, 1), [])])
def test_hcl_by_loops(size: tuple[int, int], sides: list[int]) -> None:
    student, teacher = torch.randn(2, 3, *size).double(), torch.randn(2, 3, *size).double()
    total, weights, weight = F.mse_loss(student, teacher).item(), 1.0, 1.0
    for side in sides:
        weight /= 2
        weights += weight
        pooled = (F.adaptive_avg_pool2d(maps, side) for maps in (student, teacher))
        total += weight * F.mse_loss(*pooled).item()
    assert hcl(student, teacher).item() == pytest.approx(total / weights, rel=1e-9)


def test_wrong_shapes() -> None:
    for loss in (attention_transfer, nst):
        with pytest.raises(ValueError, match="student has 3 samples and teacher 4"):
            loss(torch.zeros(3, 2, 4, 4), torch.zeros(4, 2, 4, 4))
    with pytest.raises(ValueError, match=r"student \(2, 3, 4, 4\) and teacher \(2, 5, 4, 4\) must have one shape"):
        hcl(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4))
