"""Similarities to a queue, against a loop over images and queue."""

from __future__ import annotations

import math

import pytest
import torch

from helpers.golden_values import fill
from tmkd_lightning.losses import queue_kl

STUDENT, TEACHER = fill((3, 4), 0.2, 1), fill((3, 4), 0.9, 2)
QUEUE = torch.nn.functional.normalize(fill((5, 4), 2.1, 1))


def by_loops(temperature: float, teacher_temperature: float) -> float:
    total = 0.0
    for student, teacher in zip(STUDENT.tolist(), TEACHER.tolist(), strict=True):
        shares = []
        for row, divisor in ((student, temperature), (teacher, teacher_temperature)):
            length = math.sqrt(sum(value**2 for value in row))
            similar = [sum(a * b for a, b in zip(row, entry, strict=True)) / length for entry in QUEUE.tolist()]
            powers = [math.exp(value / divisor) for value in similar]
            shares.append([power / sum(powers) for power in powers])
        total += sum(q * (math.log(q) - math.log(p)) for p, q in zip(*shares, strict=True))
    return total / len(STUDENT)


@pytest.mark.parametrize(("temperature", "teacher_temperature"), [(0.07, 0.07), (0.1, 0.05)])
def test_against_loops(temperature: float, teacher_temperature: float) -> None:
    value = queue_kl(STUDENT, TEACHER, QUEUE, temperature, teacher_temperature).item()
    assert value == pytest.approx(by_loops(temperature, teacher_temperature), rel=1e-9)
    assert value > 0.1


def test_only_directions_count_and_none_is_zero() -> None:
    assert queue_kl(7 * TEACHER, TEACHER, QUEUE, 0.07).item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(queue_kl(3 * STUDENT, 5 * TEACHER, QUEUE, 0.07), queue_kl(STUDENT, TEACHER, QUEUE, 0.07))


@pytest.mark.parametrize("queue", [torch.zeros(5, 3), torch.zeros(4), torch.zeros(0, 4)])
def test_queues_of_another_shape_are_refused(queue: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"queue must be \(Q, 4\), as wide as the teacher"):
        queue_kl(STUDENT, TEACHER, queue, 0.07)
