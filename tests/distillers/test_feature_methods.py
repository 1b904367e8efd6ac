"""Methods that read embeddings and maps: their losses, weights and projectors."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from helpers.golden_values import HALVES, fill
from helpers.methods import built
from tmkd_lightning.distillers import AT, NST, PKT, SRRL, FeatureKL, QueueKL, VkD
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.feature_extraction.spec import Spec
from tmkd_lightning.losses import attention_transfer, nst, pkt, vkd

LABEL = torch.tensor([0, 2, 1])


def pair(size: int = 4) -> tuple[Output, Output]:
    shapes = ((3, 2, size, size), (3, 5, 4, 4))
    maps = [torch.randn(shape) for shape in shapes]
    more = [torch.randn(3, 4, 2 * size, 2 * size), torch.randn(3, 2, 8, 8)]
    return tuple(
        Output(torch.randn(3, 3), one.mean((2, 3)), one, torch.randn(3, one.shape[1]), (other, one))
        for one, other in zip(maps, more, strict=True)
    )


def test_losses_and_weights() -> None:
    student, teacher = pair(8)
    large, small = zip(student.maps, teacher.maps, strict=True)
    embeddings = student.embedding, teacher.embedding
    for method, expected in (
        (PKT(), 30000 * pkt(*embeddings)),
        (PKT(2.0), 2 * pkt(*embeddings)),
        (AT(), 1000 * (attention_transfer(*large) + attention_transfer(*small))),
        (AT(2.0, 4.0, last=1), 2 * attention_transfer(*small, 4)),
        (NST(), 50 * (nst(*large) + nst(*small))),
        (NST(2.0, last=1), 2 * nst(*small)),
    ):
        (term,) = method(student, teacher, LABEL).values()
        torch.testing.assert_close(term, expected)


@pytest.mark.parametrize("kind", [AT, NST])
def test_of_unequal_numbers_of_maps_the_last_are_compared(kind) -> None:
    student, teacher = pair()
    expected = kind(last=1)(student, teacher, LABEL)
    fewer = replace(teacher, maps=teacher.maps[1:])
    assert kind()(student, fewer, LABEL) == expected
    assert kind(last=2)(replace(student, maps=student.maps[1:]), teacher, LABEL) == expected


@pytest.mark.parametrize(("student_dim", "teacher_dim"), [(2, 5), (5, 5), (5, 2)])
def test_vkd(student_dim: int, teacher_dim: int) -> None:
    student, teacher = (Output(torch.randn(3, 3), torch.randn(3, dim)) for dim in (student_dim, teacher_dim))
    method = built(VkD(weight=0.5), student_dim, teacher_dim)
    weight = method.projection.detach()
    gram = weight.T @ weight if student_dim <= teacher_dim else weight @ weight.T
    torch.testing.assert_close(gram, torch.eye(min(student_dim, teacher_dim)), atol=1e-5, rtol=0)
    expected = 0.5 * vkd(student.embedding, teacher.embedding, weight)
    torch.testing.assert_close(method(student, teacher, LABEL)["vkd"], expected)


@pytest.mark.parametrize(("student_dim", "teacher_dim"), [(2, 5), (5, 5)])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_vkd_stays_orthogonal_through_training_copies_and_state_dicts(optimizer, student_dim, teacher_dim) -> None:
    """Weight decay, which undoes torch's own parametrization by Householder reflections, is on."""
    student, teacher = (Output(torch.randn(3, 3), torch.randn(3, dim)) for dim in (student_dim, teacher_dim))
    method = built(VkD(), student_dim, teacher_dim)
    before = method.projection.detach()
    optimizer = optimizer(method.parameters(), lr=0.1, weight_decay=0.05)
    for _ in range(20):
        optimizer.zero_grad()
        method(student, teacher, LABEL)["vkd"].backward()
        optimizer.step()
    weight = method.projection.detach()
    assert not weight.allclose(before, atol=1e-2)
    torch.testing.assert_close(weight.T @ weight, torch.eye(student_dim), atol=1e-5, rtol=0)
    restored = built(VkD(), student_dim, teacher_dim)
    restored.load_state_dict(method.state_dict())
    for other in (deepcopy(method), restored):
        assert other.projection.equal(weight)
        other(student, teacher, LABEL)["vkd"].backward()
        assert all(parameter.grad is not None for parameter in other.parameters())


@pytest.mark.parametrize("kind", [VkD, SRRL, FeatureKL, QueueKL])
def test_layers_are_made_once_for_two_widths(kind) -> None:
    """Again for another number of classes, they stay; other networks want another method."""
    method = kind()
    with pytest.raises(RuntimeError, match=rf"call {kind.__name__}.build\(student, teacher\) with"):
        method(*pair(), LABEL)
    method.build(Spec(3, 2), Spec(3, 5))
    weights = deepcopy(method.state_dict())
    assert weights["projector.0.weight" if kind is SRRL else "projector.weight"].shape == (5, 2)
    method.build(Spec(7, 2), Spec(7, 5))
    assert all(value.equal(weights[name]) for name, value in method.state_dict().items())
    with pytest.raises(ValueError, match=r"was built for embeddings \(2, 5\) wide, .* but they are \(4, 5\)"):
        method.build(Spec(3, 4), Spec(3, 5))
    with pytest.raises(ValueError, match="reads embeddings, which one of the two networks does not have"):
        kind().build(Spec(3, 4), Spec(3))


def test_gradients_of_the_projection() -> None:
    """Through the QR decomposition, of a wide and of a tall matrix."""
    for dims in ((2, 4), (4, 2)):
        method = built(VkD(), *dims).double()
        sides = torch.randn(3, dims[0]).double(), torch.randn(3, dims[1]).double()

        def loss(weight: torch.Tensor) -> torch.Tensor:
            student, teacher = (Output(torch.zeros(3, 3), side) for side in sides)  # noqa: B023
            return torch.func.functional_call(method, {"projector.weight": weight}, (student, teacher, LABEL))["vkd"]  # noqa: B023

        assert torch.autograd.gradcheck(loss, (method.projector.weight.detach().requires_grad_(),))


@pytest.mark.parametrize("half", HALVES)
def test_vkd_projects_in_float32_under_autocast(half: torch.dtype) -> None:
    student, teacher = pair()
    method = built(VkD(), 2, 5)
    expected = method(student, teacher, LABEL)["vkd"]
    with torch.autocast("cpu", half):
        assert method(student, teacher, LABEL)["vkd"].equal(expected)


@pytest.mark.parametrize(
    ("student", "teacher", "weight", "head", "value"),
    [
        ((4, 6, 0.2, 1), (4, 8, 0.9, 1), 0.2, (5, 0.6), 1.0671720730576277 + 4.861929628137007),
        ((7, 12, 1.2, 3), (7, 5, 0.3, 0.2), 0.8, (9, 1.2), 0.5056657712637436 + 0.5654670634353444),
        ((2, 3, 0.2, 1), (2, 4, 2.9, 10), 1.5, (3, 1.9), 60.05733166744212 + 87.17569983382293),
    ],
)
def test_official_values_of_srrl(student, teacher, weight, head, value) -> None:
    """Values of SimKD's code, embeddings and logits added up, with the projector's weight given."""
    method = built(SRRL(weight=2.0), student[1], teacher[1]).double()
    with torch.no_grad():
        method.projector[0].weight.copy_(fill((teacher[1], student[1]), weight, 0.5))
    embeddings = (fill((batch, dim), phase, scale) for batch, dim, phase, scale in (student, teacher))
    of_student, of_teacher = (Output(torch.zeros(student[0], 2), one) for one in embeddings)
    target = Output(of_teacher.logits, of_teacher.embedding, None, fill((head[0], teacher[1]), head[1], 0.5))
    term = method(of_student, target, torch.zeros(student[0]).long())["srrl"]
    assert term.item() == pytest.approx(2 * value, rel=1e-9)


def test_srrl_of_one_image() -> None:
    """Its BatchNorm has no statistics; other processes still wait for gradients of the projector."""
    method = built(SRRL(), 2, 5)
    student, teacher = (one.map(lambda part: part[:1]) for one in pair())
    student.logits.requires_grad_()
    term = method(student, teacher, LABEL[:1])["srrl"]
    term.backward()
    assert term.item() == 0
    assert all(one.grad.abs().sum() == 0 for one in (student.logits, *method.parameters()))
