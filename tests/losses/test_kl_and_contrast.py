"""Losses against values of the official implementations, and against loops."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from helpers.golden_values import fill
from tmkd_lightning.losses import feature_kl, logit_kl, text_contrast

STUDENT, TEACHER = fill((4, 10), 0.1, 3), fill((4, 10), 1.3, 3)
GOLDEN_KD = [(4.0, 1.4981040912306423), (1.0, 0.9157264054304749)]  # temperature, value of the official code


@pytest.mark.parametrize(("temperature", "value"), GOLDEN_KD)
@pytest.mark.parametrize("loss", [logit_kl, feature_kl])
def test_golden_kd(loss: Callable[..., Tensor], temperature: float, value: float) -> None:
    result = loss(STUDENT, TEACHER, temperature)
    assert result.dtype == torch.float64
    assert result.item() == pytest.approx(value, rel=1e-9)


def softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in row)
    return [math.exp(value) / total for value in row]


@pytest.mark.parametrize("temperature", [0.5, 2.0, 4.0])
@pytest.mark.parametrize("batch", [1, 3])
def test_kl_by_loops(batch: int, temperature: float) -> None:
    student, teacher = fill((batch, 6), 0.4, 2), fill((batch, 6), 2.0, 1)
    expected = 0.0
    for s_row, t_row in zip(student.tolist(), teacher.tolist(), strict=True):
        s, t = (softmax([value / temperature for value in row]) for row in (s_row, t_row))
        expected += sum(p * (math.log(p) - math.log(q)) for p, q in zip(t, s, strict=True))
    expected *= temperature**2 / batch
    assert logit_kl(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-9)
    assert feature_kl(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_contrast_by_loops(temperature: float) -> None:
    student, text, label = fill((5, 4), 0.3, 2), fill((3, 4), 1.0, 0.5), [2, 0, 1, 1, 2]
    expected = 0.0
    for row, y in zip(student.tolist(), label, strict=True):
        cosines = [
            sum(a * b for a, b in zip(row, words, strict=True)) / (math.hypot(*row) * math.hypot(*words))
            for words in text.tolist()
        ]
        expected -= math.log(softmax([cosine / temperature for cosine in cosines])[y]) / len(label)
    assert text_contrast(student, text, torch.tensor(label), temperature).item() == pytest.approx(expected, rel=1e-9)


def test_contrast_of_dead_embeddings() -> None:
    """All texts are as near to zeros as any other; the library's normalisation would give gradients of 1e12."""
    student, text = torch.eye(2), torch.eye(2, 2)
    student[1], text[1] = 0, 0
    student.requires_grad_()
    text.requires_grad_()
    value = text_contrast(student, text, torch.tensor([0, 1]), 1.0)
    assert value.item() == pytest.approx((math.log(1 + math.exp(-1)) + math.log(2)) / 2)
    value.backward()
    for gradient in (student.grad, text.grad):
        assert gradient[1].abs().sum() == 0
        assert gradient.abs().max() < 10


def test_direction_of_the_divergence() -> None:
    """The teacher is the target: where it is sure and the student is not, K - 1 classes cost nothing."""
    sure, unsure = torch.tensor([[40.0, 0.0, 0.0]]), torch.zeros(1, 3)
    assert logit_kl(unsure, sure, 1.0).item() == pytest.approx(math.log(3))
    assert logit_kl(sure, unsure, 1.0).item() == pytest.approx(2 / 3 * 40 - math.log(3), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_equal_logits_cost_exactly_nothing(dtype: torch.dtype) -> None:
    logits = torch.randn(8, 100).mul(20).to(dtype)
    assert logit_kl(logits, logits.clone(), 4.0).item() == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_extreme_logits(dtype: torch.dtype, temperature: float) -> None:
    student = torch.tensor([[1e4, -1e4, 0.0]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[-1e4, 1e4, 0.0]], dtype=dtype, requires_grad=True)
    loss = logit_kl(student, teacher, temperature)
    assert loss.item() == pytest.approx(2e4 * temperature, rel=1e-3)  # T² · 2e4 / T
    loss.backward()
    assert student.grad.isfinite().all()
    assert teacher.grad.isfinite().all()


def test_wrong_widths() -> None:
    with pytest.raises(ValueError, match="student is 10 wide and text 9"):
        text_contrast(STUDENT, torch.zeros(3, 9), torch.zeros(4, dtype=torch.long), 0.07)
