"""Correlations and transformed teachers against loops and numbers worked out by hand."""

import math
import statistics

import pytest
import torch
from torch import Tensor

from helpers.golden_values import check_moderate, fill
from tmkd_lightning.losses import dist, logit_kl, ttm, wttm


def probabilities(logits: Tensor, temperature: float) -> list[list[float]]:
    rows = [[math.exp(value / temperature) for value in row] for row in logits.tolist()]
    return [[value / sum(row) for value in row] for row in rows]


@pytest.mark.parametrize(("beta", "gamma", "temperature"), [(1, 1, 1), (2, 0.5, 4), (0, 1, 2)])
def test_dist_by_loops(beta: float, gamma: float, temperature: float) -> None:
    student, teacher = fill((5, 4), 0.4, 2), fill((5, 4), 2.0, 1)
    s, t = probabilities(student, temperature), probabilities(teacher, temperature)
    rows = [statistics.correlation(*pair) for pair in zip(s, t, strict=True)]
    columns = [statistics.correlation(*pair) for pair in zip(zip(*s, strict=True), zip(*t, strict=True), strict=True)]
    expected = beta * (1 - statistics.mean(rows)) + gamma * (1 - statistics.mean(columns))
    found = dist(student, teacher, beta, gamma, temperature).item()
    assert found == pytest.approx(temperature**2 * expected, rel=1e-6)  # 1e-8 is added to the norms


def test_dist_of_one_image() -> None:
    """A class has no spread over one image: its correlation is 0, and the second part is gamma."""
    student = torch.randn(1, 5).double()
    assert dist(student, student, beta=1.0, gamma=0.7, temperature=2.0).item() == pytest.approx(4 * 0.7, rel=1e-6)


def test_dist_with_networks_that_are_very_sure() -> None:
    student, teacher = torch.zeros(4, 5), torch.zeros(4, 5)
    student[:, 0], teacher[:, 1] = 200.0, 200.0
    for pair in ((student, teacher), (student, student), (student, torch.randn(4, 5)), (torch.randn(4, 5), student)):
        check_moderate(lambda s, t: dist(s, t, 1, 1, 1), *pair)


@pytest.mark.parametrize("power", [0.1, 0.5, 1.0, 2.0])
def test_ttm_by_loops(power: float) -> None:
    student, teacher = fill((3, 4), 0.4, 2), fill((3, 4), 2.0, 1)
    plain = weighted = 0.0
    for p, t in zip(probabilities(student, 1), probabilities(teacher, 1), strict=True):
        total = sum(value**power for value in t)
        q = [value**power / total for value in t]
        divergence = sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
        plain, weighted = plain + divergence / 3, weighted + total * divergence / 3
    assert ttm(student, teacher, power).item() == pytest.approx(plain, rel=1e-9)
    assert wttm(student, teacher, power).item() == pytest.approx(weighted, rel=1e-9)


def test_ttm_at_power_1_is_kd_at_temperature_1() -> None:
    student, teacher = fill((3, 4), 0.4, 2), fill((3, 4), 2.0, 1)
    for loss in (ttm, wttm):
        assert loss(student, teacher, 1.0).item() == pytest.approx(logit_kl(student, teacher, 1.0).item(), rel=1e-9)


def test_wttm_weighs_flat_answers_more() -> None:
    """Σ p^½ is 1 for a teacher that is sure, and √K for one that knows nothing."""
    sure, flat = torch.tensor([[200.0, 0.0, 0.0, 0.0]]), torch.zeros(1, 4)
    assert wttm(flat, sure, 0.5).item() == pytest.approx(math.log(4), rel=1e-6)
    student = torch.randn(1, 4)
    assert wttm(student, flat, 0.5).item() == pytest.approx(2 * ttm(student, flat, 0.5).item(), rel=1e-6)


@pytest.mark.parametrize("loss", [ttm, wttm])
def test_extreme_logits(loss) -> None:
    student, teacher = torch.tensor([[1e4, -1e4, 0.0]]), torch.tensor([[-1e4, 1e4, 0.0]])
    pair = student.requires_grad_(), teacher.requires_grad_()
    value = loss(*pair, 0.1)
    assert value.item() == pytest.approx(2e4, rel=1e-3)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, pair))


@pytest.mark.parametrize("loss", [ttm, wttm])
@pytest.mark.parametrize("power", [0.0, -1.0, float("nan")])
def test_wrong_power(loss, power: float) -> None:
    with pytest.raises(ValueError, match="power must be above 0"):
        loss(torch.zeros(2, 3), torch.zeros(2, 3), power)
