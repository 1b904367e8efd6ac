"""Neighbourhoods of samples against loops."""

import math

import pytest
import torch
from torch import Tensor

from helpers.golden_values import check_moderate, check_nothing, gradients
from tmkd_lightning.losses import pkt


def neighbourhoods(x: Tensor) -> list[list[float]]:
    rows = x.tolist()
    unit = [[value / (math.hypot(*row) + 1e-7) for value in row] for row in rows]
    near = [[(sum(a * b for a, b in zip(one, other, strict=True)) + 1) / 2 for other in unit] for one in unit]
    return [[value / sum(row) for value in row] for row in near]


def by_loops(student: Tensor, teacher: Tensor) -> float:
    total = 0.0
    for s_row, t_row in zip(neighbourhoods(student), neighbourhoods(teacher), strict=True):
        total += sum(t * math.log((t + 1e-7) / (s + 1e-7)) for s, t in zip(s_row, t_row, strict=True))
    return total / len(student) ** 2


@pytest.mark.parametrize(("batch", "width", "other"), [(2, 3, 5), (7, 6, 4), (5, 1, 3)])  # 1 wide: cosines of ±1
def test_by_loops(batch: int, width: int, other: int) -> None:
    pair = torch.randn(batch, width).double(), torch.randn(batch, other).double()
    assert pkt(*pair).item() == pytest.approx(by_loops(*pair), rel=1e-9)


def edge(name: str, width: int) -> Tensor:
    x = torch.randn(5, width)
    return {
        "collapsed": x[:1].expand(5, width),
        "opposite": x * torch.tensor([1, -1, 1, -1, 1])[:, None],
        "one dead": x * torch.tensor([1, 1, 0, 1, 1])[:, None],
        "dead": torch.zeros(5, width),
        "large": 1e4 * x.clamp(-3, 3),
    }[name]


@pytest.mark.parametrize("name", ["collapsed", "opposite", "one dead", "dead", "large"])
def test_edges(name: str) -> None:
    """A dead embedding has a cosine of 0 with all, and would multiply its gradient by 1e7."""
    student, plain = edge(name, 4), torch.randn(5, 6)
    for pair in ((student, plain), (plain, student)):
        check_moderate(pkt, *pair)
        assert pkt(*pair).item() == pytest.approx(by_loops(*pair), rel=1e-3, abs=1e-7)
    if "dead" in name:
        _, gradient, _ = gradients(pkt, student, plain)
        assert gradient[2].equal(torch.zeros(4))


def test_one_sample_has_no_neighbours() -> None:
    check_nothing(pkt, torch.zeros(1, 5), torch.zeros(1, 4))
    assert pkt(torch.randn(1, 5), torch.randn(1, 4)).abs() < 1e-6


def test_different_numbers_of_samples() -> None:
    with pytest.raises(ValueError, match="student has 3 samples and teacher 4: relations need the same ones"):
        pkt(torch.zeros(3, 5), torch.zeros(4, 5))
