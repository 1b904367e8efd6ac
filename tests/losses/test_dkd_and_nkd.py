"""Losses that need the class of an image, against loops over its classes and with networks that are very sure."""

import math

import pytest
import torch
from torch import Tensor

from helpers.golden_values import HALVES, fill
from tmkd_lightning.losses import dkd, logit_kl, nkd, standardize_logits

LABEL = torch.tensor([3, 0, 4, 2, 2])


def softmax(row: list[float], temperature: float) -> list[float]:
    total = sum(math.exp(value / temperature) for value in row)
    return [math.exp(value / temperature) / total for value in row]


def kl(target: list[float], found: list[float]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(target, found, strict=True))


def others(row: list[float], label: int) -> list[float]:
    return row[:label] + row[label + 1 :]


def slow_dkd(student: Tensor, teacher: Tensor, alpha: float, beta: float, temperature: float) -> list[float]:
    losses = []
    for s, t, y in zip(student.tolist(), teacher.tolist(), LABEL.tolist(), strict=True):
        p, q = softmax(s, temperature)[y], softmax(t, temperature)[y]
        of_rest = kl(softmax(others(t, y), temperature), softmax(others(s, y), temperature))
        losses.append(temperature**2 * (alpha * kl([q, 1 - q], [p, 1 - p]) + beta * of_rest))
    return losses


def slow_nkd(student: Tensor, teacher: Tensor, gamma: float, temperature: float) -> list[float]:
    losses = []
    for s, t, y in zip(student.tolist(), teacher.tolist(), LABEL.tolist(), strict=True):
        of_target = -softmax(t, 1)[y] * math.log(softmax(s, 1)[y])
        pairs = zip(softmax(others(s, y), temperature), softmax(others(t, y), temperature), strict=True)
        losses.append(of_target - gamma * temperature**2 * sum(q * math.log(p) for p, q in pairs))
    return losses


@pytest.mark.parametrize(("alpha", "beta", "temperature"), [(1, 8, 4), (0.5, 0, 1), (0, 2, 0.5)])
def test_dkd_by_loops(alpha: float, beta: float, temperature: float) -> None:
    student, teacher = fill((5, 6), 0.4, 2), fill((5, 6), 2.0, 1)
    expected = slow_dkd(student, teacher, alpha, beta, temperature)
    assert dkd(student, teacher, LABEL, alpha, beta, temperature).item() == pytest.approx(sum(expected) / 5, rel=1e-9)
    single = dkd(student, teacher, LABEL, alpha, beta, temperature, reduction="none")
    assert single.tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("gamma", "temperature"), [(1.5, 1), (0, 2), (3, 0.5)])
def test_nkd_by_loops(gamma: float, temperature: float) -> None:
    student, teacher = fill((5, 6), 0.4, 2), fill((5, 6), 2.0, 1)
    expected = slow_nkd(student, teacher, gamma, temperature)
    assert nkd(student, teacher, LABEL, gamma, temperature).item() == pytest.approx(sum(expected) / 5, rel=1e-9)
    single = nkd(student, teacher, LABEL, gamma, temperature, reduction="none")
    assert single.tolist() == pytest.approx(expected, rel=1e-9)


def test_dkd_with_its_natural_weights_is_kd() -> None:
    """KL = KL of the target + (1 − p_t[y]) · KL of the rest, which the weights decouple."""
    student, teacher = fill((1, 6), 0.4, 2), fill((1, 6), 2.0, 1)
    label = torch.tensor([1])
    beta = 1 - (teacher / 3).softmax(1)[0, 1].item()
    assert dkd(student, teacher, label, 1, beta, 3).item() == pytest.approx(logit_kl(student, teacher, 3).item())


def test_nkd_weighs_an_image_by_the_teacher_without_a_gradient() -> None:
    student, teacher = fill((5, 6), 0.4, 2).requires_grad_(), fill((5, 6), 2.0, 1).requires_grad_()
    weight = teacher.detach().softmax(1)

    def with_fixed_weight(student: Tensor, teacher: Tensor) -> Tensor:
        rows = torch.arange(5)
        rest = torch.stack([torch.arange(6)[torch.arange(6) != y] for y in LABEL])
        of_target = -(weight[rows, LABEL] * student.log_softmax(1)[rows, LABEL]).mean()
        s, t = (side.gather(1, rest) / 2 for side in (student, teacher))
        return of_target - 1.5 * 4 * (t.softmax(1) * s.log_softmax(1)).sum(1).mean()

    assert torch.autograd.gradcheck(lambda s: nkd(s, teacher.detach(), LABEL, 1.5, 2.0), (student,))
    assert torch.autograd.gradcheck(with_fixed_weight, (student, teacher))
    found = torch.autograd.grad(nkd(student, teacher, LABEL, 1.5, 2.0), (student, teacher))
    torch.testing.assert_close(
        found, torch.autograd.grad(with_fixed_weight(student, teacher), (student, teacher)), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("name", ["dkd", "nkd"])
@pytest.mark.parametrize("sure", [110.0, 1e4])
@pytest.mark.parametrize("wrong", [False, True])
def test_a_student_that_is_very_sure(name: str, sure: float, wrong: bool) -> None:
    """Probabilities of the others are 0 in float32, and 1 − p is as well: the official DKD divides by them."""
    loss = {"dkd": lambda s, t, y: dkd(s, t, y, 1, 8, 1), "nkd": lambda s, t, y: nkd(s, t, y, 1.5, 1)}[name]
    student, label = torch.tensor([[0.0, sure, 1.0, -2.0]]), torch.tensor([2 if wrong else 1])
    results = []
    for dtype in (torch.float32, torch.float64):
        pair = student.to(dtype).requires_grad_(), torch.tensor([[1.0, 3.0, 0.5, 0.0]], dtype=dtype).requires_grad_()
        value = loss(*pair, label)
        results.append((value, *torch.autograd.grad(value, pair)))
    for single, double in zip(*results, strict=True):
        assert single.isfinite().all()
        torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-6)
    if name == "dkd":
        assert results[1][1].abs().max() > 0.01


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64])
def test_dkd_of_equal_logits_costs_exactly_nothing(dtype: torch.dtype) -> None:
    logits = torch.randn(5, 100).mul(20).to(dtype)
    assert dkd(logits, logits.clone(), LABEL, 1, 8, 4).item() == 0.0


@pytest.mark.parametrize("name", ["dkd", "nkd"])
def test_one_class_has_no_others(name: str) -> None:
    arguments = {"dkd": (1, 8, 4), "nkd": (1.5, 1)}[name]
    with pytest.raises(ValueError, match="1 class has no others to be told from: use at least 2"):
        {"dkd": dkd, "nkd": nkd}[name](torch.zeros(2, 1), torch.zeros(2, 1), torch.tensor([0, 0]), *arguments)
    with pytest.raises(ValueError, match=r"one class for each of 2 images, got shape \(2, 3\)"):
        {"dkd": dkd, "nkd": nkd}[name](torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3), *arguments)


def test_standardised_logits() -> None:
    """Neither an offset nor a scale of a row counts any more; equal logits have no gradient instead of one of 1e7."""
    student, teacher = fill((5, 6), 0.4, 2), fill((5, 6), 2.0, 1)
    rows = [[(value - sum(row) / 6) for value in row] for row in student.tolist()]
    deviations = [math.sqrt(sum(value**2 for value in row) / 5) for row in rows]
    expected = [[value / (1e-7 + size) for value in row] for row, size in zip(rows, deviations, strict=True)]
    torch.testing.assert_close(standardize_logits(student), torch.tensor(expected, dtype=torch.float64))
    moved = 7 * student + torch.arange(5)[:, None]
    for loss in (lambda s: logit_kl(s, teacher, 2, standardize=True), lambda s: dkd(s, teacher, LABEL, 1, 8, 2, True)):
        assert loss(moved).item() == pytest.approx(loss(student).item(), rel=1e-6)
    dead = torch.zeros(2, 6, requires_grad=True)
    logit_kl(dead, torch.randn(2, 6), 2, standardize=True).backward()
    assert dead.grad.equal(torch.zeros(2, 6))


def test_one_class_cannot_be_standardised() -> None:
    with pytest.raises(ValueError, match="logits of one class cannot be standardised: use at least 2"):
        logit_kl(torch.zeros(3, 1), torch.zeros(3, 1), 2, standardize=True)


def test_losses_of_single_images() -> None:
    student, teacher = fill((5, 6), 0.4, 2), fill((5, 6), 2.0, 1)
    single = logit_kl(student, teacher, 3, reduction="none")
    pairs = zip(student.split(1), teacher.split(1), strict=True)
    assert single.tolist() == pytest.approx([logit_kl(*pair, 3).item() for pair in pairs], rel=1e-9)
