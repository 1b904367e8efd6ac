"""Similarities between samples against a value of the official code, and against loops."""

import math
from collections.abc import Callable
from itertools import chain

import pytest
import torch
from torch import Tensor

from helpers.golden_values import check_moderate, check_nothing, fill, gradients
from tmkd_lightning.losses import similarity_preserving

STUDENT, TEACHER = fill((4, 3, 2, 2), 0.3, 1), fill((4, 5, 2, 2), 1.1, 1)


def similarities(maps: Tensor) -> list[list[float]]:
    rows = maps.flatten(1).tolist()
    gram = [[sum(a * b for a, b in zip(one, other, strict=True)) for other in rows] for one in rows]
    return [[value / (math.hypot(*row) or 1.0) for value in row] for row in gram]


def by_loops(student: Tensor, teacher: Tensor) -> float:
    pairs = zip(chain(*similarities(student)), chain(*similarities(teacher)), strict=True)
    return sum((s - t) ** 2 for s, t in pairs) / len(student) ** 2


def test_golden() -> None:
    assert similarity_preserving(STUDENT, TEACHER).item() == pytest.approx(0.2705391111845017, rel=1e-9)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [((2, 3, 2, 2), (2, 3, 2, 2)), ((5, 2, 3, 1), (5, 4, 2, 5)), ((3, 1, 1, 1), (3, 8, 4, 4))],
)
def test_by_loops(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    pair = torch.randn(student).double(), torch.rand(teacher).double()
    assert similarity_preserving(*pair).item() == pytest.approx(by_loops(*pair), rel=1e-9)


EDGES = {
    "two samples": lambda maps: maps[:2],
    "duplicates": lambda maps: maps[[0, 0, 2, 2]],
    "collapsed": lambda maps: maps[[0, 0, 0, 0]],
    "one dead": lambda maps: maps * torch.tensor([1, 0, 1, 1]).view(4, 1, 1, 1),
    "dead": torch.zeros_like,
    "large": lambda maps: 1e4 * maps.clamp(-3, 3),
}


@pytest.mark.parametrize("edge", EDGES.values(), ids=EDGES)
def test_edges(edge: Callable[[Tensor], Tensor]) -> None:
    """A sample whose activations are dead would multiply its gradient by 1e12, were it normalised as the others."""
    student, teacher = edge(torch.randn(4, 4, 3, 3)), edge(torch.randn(4, 5, 3, 3))
    plain = torch.randn(len(student), 2, 3, 3)
    for pair in ((student, plain), (plain, teacher), (student, teacher)):
        check_moderate(similarity_preserving, *pair)
        assert similarity_preserving(*pair).item() == pytest.approx(by_loops(*pair), rel=1e-4, abs=1e-12)
    check_nothing(similarity_preserving, student, student)


def test_a_dead_sample_can_come_back() -> None:
    """It moves towards and away from the others; where all are dead, nothing says where to."""
    for name, moves in (("one dead", True), ("dead", False)):
        student = EDGES[name](torch.randn(4, 4, 3, 3))
        _, student, _ = gradients(similarity_preserving, student, torch.randn(4, 2, 3, 3))
        assert (student[1].norm() > 1e-3).item() is moves
