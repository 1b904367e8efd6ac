"""Regressions of the teacher's embedding (VkD, SRRL) against loops."""

import math

import pytest
import torch
from torch import Tensor

from tmkd_lightning.losses import srrl, vkd


def products(rows: Tensor, weight: Tensor) -> list[list[float]]:
    return [[sum(a * b for a, b in zip(row, out, strict=True)) for out in weight.tolist()] for row in rows.tolist()]


def mean_square(one: list[list[float]], other: list[list[float]]) -> float:
    differences = [(a - b) ** 2 for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)]
    return sum(differences) / len(differences)


@pytest.mark.parametrize("scale", [0.1, 3.0])  # both branches of smooth L1
def test_vkd_by_loops(scale: float) -> None:
    student, teacher = scale * torch.randn(5, 3).double(), torch.randn(5, 4).double()
    weight, terms = torch.randn(4, 3).double(), []
    for found, row in zip(products(student, weight), teacher.tolist(), strict=True):
        mean = sum(row) / 4
        deviation = math.sqrt(sum((value - mean) ** 2 for value in row) / 4 + 1e-5)
        for value, target in zip(found, row, strict=True):
            size = abs(value - (target - mean) / deviation)
            terms.append(size**2 / 2 if size < 1 else size - 0.5)
    assert vkd(student, teacher, weight).item() == pytest.approx(sum(terms) / len(terms), rel=1e-9)


def test_srrl_by_loops() -> None:
    """The logits have biases here, which cancel."""
    student, teacher, weight = torch.randn(5, 4).double(), torch.randn(5, 4).double(), torch.randn(3, 4).double()
    bias = [0.3, -1.0, 2.0]
    logits = [
        [[value + b for value, b in zip(row, bias, strict=True)] for row in products(side, weight)]
        for side in (student, teacher)
    ]
    expected = mean_square(student.tolist(), teacher.tolist()) + mean_square(*logits)
    assert srrl(student, teacher, weight).item() == pytest.approx(expected, rel=1e-9)


def test_gradients_of_the_weights() -> None:
    sides = torch.randn(3, 2).double().requires_grad_(), torch.randn(3, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(vkd, (*sides, torch.randn(4, 2).double().requires_grad_()))
    sides = torch.randn(3, 4).double().requires_grad_(), torch.randn(3, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(srrl, (*sides, torch.randn(2, 4).double().requires_grad_()))


def test_a_dead_teacher_costs_no_more_than_its_student() -> None:
    student = torch.zeros(2, 3, requires_grad=True)
    value = vkd(student, torch.zeros(2, 4), torch.eye(4, 3))
    value.backward()
    assert value.item() == student.grad.abs().sum().item() == 0


def test_wrong_projection() -> None:
    with pytest.raises(
        ValueError, match=r"projection must be \(4, 3\), the teacher's width by the student's, got \(3,"
    ):
        vkd(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(3, 4))
