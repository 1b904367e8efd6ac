"""Noisy copies of a teacher against a value of the official code, and against loops."""

import math
from functools import partial

import pytest
import torch

from helpers.golden_values import HALVES, check_moderate, fill, gradients
from tmkd_lightning.losses import logit_kl, tekap_kl

STUDENT, TEACHER = fill((4, 10), 0.1, 3), fill((4, 10), 1.3, 3)
NOISE = torch.stack([fill((4, 10), phase, 1) for phase in (2.0, 3.0, 4.0)])


def test_golden() -> None:
    assert tekap_kl(STUDENT, TEACHER, 4.0, NOISE).item() == pytest.approx(4.9589163712721565, rel=1e-9)


def divergence(student: list[float], teacher: list[float], temperature: float) -> float:
    p_student, p_teacher = ([math.exp(value / temperature) for value in row] for row in (student, teacher))
    p_student, p_teacher = ([value / sum(row) for value in row] for row in (p_student, p_teacher))
    return temperature**2 * sum(t * math.log(t / s) for s, t in zip(p_student, p_teacher, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize(("copies", "shares"), [(1, (0.9, 0.1, 0.8)), (4, (0.5, 2.0, 0.3))])
def test_by_loops(copies: int, shares: tuple[float, float, float], temperature: float) -> None:
    student, teacher, noise = (torch.randn(shape).double() for shape in ((3, 5), (3, 5), (copies, 3, 5)))
    teacher_share, noise_share, copies_weight = shares
    expected = 0.0
    for row in range(3):
        s, t = student[row].tolist(), teacher[row].tolist()
        expected += divergence(s, t, temperature) / 3
        for copy in noise[:, row].tolist():
            mixed = [teacher_share * value + noise_share * eps for value, eps in zip(t, copy, strict=True)]
            expected += copies_weight * divergence(s, mixed, temperature) / 3
    assert tekap_kl(student, teacher, temperature, noise, *shares).item() == pytest.approx(expected, rel=1e-9)


def test_without_copies_it_is_kd() -> None:
    plain = logit_kl(STUDENT, TEACHER, 4.0)
    assert tekap_kl(STUDENT, TEACHER, 4.0, NOISE[:0]).equal(plain)
    assert tekap_kl(STUDENT, TEACHER, 4.0, NOISE, copies_weight=0.0).equal(plain)


def test_extreme_logits_and_equal_ones() -> None:
    student, teacher = torch.tensor([[1e4, -1e4, 0.0]]), torch.tensor([[-1e4, 1e4, 0.0]])
    loss = partial(tekap_kl, temperature=4.0, noise=torch.zeros(3, 1, 3))
    assert loss(student, teacher).item() == pytest.approx(3.4 * 4.0**2 * 2e4 / 4.0, rel=1e-3)
    check_moderate(loss, student, teacher, limit=1e6)
    for batch in ([0], [0, 0, 2, 2]):
        loss = partial(tekap_kl, temperature=4.0, noise=NOISE[:, batch].float())
        check_moderate(loss, STUDENT[batch], TEACHER[batch])


@pytest.mark.parametrize("half", [None, *HALVES])
def test_equal_logits_without_noise_cost_exactly_nothing(half: torch.dtype | None) -> None:
    loss = partial(tekap_kl, temperature=4.0, noise=NOISE.float(), teacher_share=1.0, noise_share=0.0)
    value, *slopes = gradients(loss, STUDENT.float(), STUDENT.float(), half)
    assert value.item() == 0.0
    assert all(slope.abs().max() < 1e-6 for slope in slopes)


@pytest.mark.parametrize("shape", [(4, 10), (3, 4, 9), (3, 1, 10), (10,)])
def test_noise_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"noise .* must be \(copies, \*\(4, 10\)\), like the logits"):
        tekap_kl(STUDENT, TEACHER, 4.0, torch.zeros(shape))
