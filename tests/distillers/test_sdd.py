"""SDD: a method on the cells of maps, against values of the official code and against a loop over the cells."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.golden_values import fill
from tmkd_lightning.distillers import DKD, KD, NKD, SDD, SP, WarmUp
from tmkd_lightning.distillers.base import LogitDistiller
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.losses import nkd

SHAPES = [  # maps of student and teacher, classes, labels, grids
    ((3, 6, 8, 8), (3, 8, 8, 8), 5, [0, 4, 2], [1, 2, 4]),
    ((5, 4, 7, 7), (5, 7, 7, 7), 10, [0, 0, 9, 3, 5], [1, 2]),
    ((2, 4, 4, 4), (2, 4, 8, 8), 3, [1, 2], [1, 2, 4]),
]
VALUES = [  # for each of the shapes: method and official value
    [(KD(4.0), 0.0008507273907864253), (DKD(1, 8, 4.0), 0.006994746504209197)],
    [(KD(2.0), 0.03915387760402338), (DKD(1, 8, 2.0), 0.32787755998112655)],
    [(KD(1.0), 0.41594272822661094), (DKD(1, 8, 1.0), 2.6668746765726197)],
]


def output(shape: tuple[int, ...], classes: int, phases: tuple[float, float, float]) -> Output:
    """What a network with this map gives: the head has a bias, which is not a part of an output."""
    maps, head = fill(shape, phases[0], 1), fill((classes, shape[1]), phases[1], 0.5)
    embedding = maps.mean((2, 3))
    return Output(embedding @ head.T + fill((classes,), phases[2], 0.1), embedding, maps, head)


def outputs(index: int) -> tuple[Output, Output, Tensor, list[int]]:
    student, teacher, classes, label, scales = SHAPES[index]
    pair = output(student, classes, (0.2, 0.6, 0.2)), output(teacher, classes, (1.4, 1.2, 0.9))
    return *pair, torch.tensor(label), scales


@pytest.mark.parametrize(("index", "base", "value"), [(i, *one) for i, ones in enumerate(VALUES) for one in ones])
def test_official_values(index: int, base: LogitDistiller, value: float) -> None:
    student, teacher, label, scales = outputs(index)
    assert SDD(base, scales)(student, teacher, label)["sdd"].item() == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("index", [0, 2])  # 8 and 4 pixels, where every grid has whole windows
def test_nkd_by_a_loop_over_the_cells(index: int) -> None:
    """The official code leaves the target class among the others here, unlike its NKD; ours is NKD itself."""
    student, teacher, label, scales = outputs(index)
    total, cells = 0.0, sum(scale**2 for scale in scales)
    for row, y in enumerate(label.tolist()):
        sides = []
        for one in (student, teacher):
            bias = one.logits[row] - one.embedding[row] @ one.head_weight.T
            grids = [F.adaptive_avg_pool2d(one.feature_map[row], scale).flatten(1).T for scale in scales]
            sides.append(torch.cat(grids) @ one.head_weight.T + bias)
        whole = sides[1][0].argmax().item() == y
        for s, t in zip(*sides, strict=True):
            weight = 1 if (t.argmax().item() == y) == whole else 2
            total += weight * nkd(s[None], t[None], label[row, None], 1.5, 2.0).item()
    found = SDD(NKD(1.5, 2.0, weight=0.5), scales)(student, teacher, label)["sdd"].item()
    assert found == pytest.approx(0.5 * total / (cells * len(label)), rel=1e-9)


def test_some_cells_count_twice() -> None:
    """The teacher is right on the image and wrong in one of its cells, whose loss is doubled."""
    maps = torch.zeros(1, 2, 4, 4)
    maps[:, 0] = 1.0
    maps[:, :, 0, 0] = torch.tensor([0.0, 3.0])
    teacher = Output(maps.mean((2, 3)), maps.mean((2, 3)), maps, torch.eye(2))
    student = Output(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2, 4, 4), torch.eye(2))
    terms = KD().loss(torch.zeros(16, 2), maps.flatten(2)[0].T, torch.zeros(16).long(), reduction="none")
    whole = KD().loss(student.logits, teacher.logits, torch.tensor([0]))
    expected = (whole + terms.sum() + terms[0]) / 17
    assert SDD(KD(), [1, 4])(student, teacher, torch.tensor([0]))["sdd"].item() == pytest.approx(expected.item())


def test_trains_head_bias_and_map() -> None:
    maps, head, bias = (torch.randn(shape).requires_grad_() for shape in ((2, 3, 4, 4), (5, 3), (5,)))
    embedding = maps.mean((2, 3))
    teacher = output((2, 6, 4, 4), 5, (1.4, 1.2, 0.9))
    SDD(KD())(Output(embedding @ head.T + bias, embedding, maps, head), teacher, torch.tensor([0, 1]))["sdd"].backward()
    assert all(one.grad.abs().sum() > 0 for one in (maps, head, bias))


@pytest.mark.parametrize("wrong", [SP(), WarmUp(KD()), KD])
def test_base_must_compare_logits(wrong: object) -> None:
    with pytest.raises(TypeError, match="base must be KD, DKD or NKD, got"):
        SDD(wrong)


@pytest.mark.parametrize("scales", [[2, 4], [1, 3], []])
def test_wrong_scales(scales: list[int]) -> None:
    with pytest.raises(ValueError, match="scales must be 1, and 2 or 4 or both, got"):
        SDD(KD(), scales)


def test_maps_that_are_too_small() -> None:
    student, teacher = output((2, 3, 2, 2), 5, (0.1, 0.2, 0.3)), output((2, 3, 4, 4), 5, (0.1, 0.2, 0.3))
    with pytest.raises(ValueError, match="the student's maps of 2x2 cannot be pooled to 4x4"):
        SDD(KD())(student, teacher, torch.tensor([0, 1]))
