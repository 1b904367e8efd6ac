"""Distances and angles between samples against values of the official code, and against loops."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.golden_values import Loss, Operations, check_moderate, check_nothing, fill, gradients
from tmkd_lightning.losses import rkd_angle, rkd_distance

BOTH = pytest.mark.parametrize("loss", [rkd_distance, rkd_angle])


def smooth_l1(difference: Tensor) -> Tensor:
    size = difference.abs()
    return torch.where(size < 1, size**2 / 2, size - 0.5).mean()


def relative_distances(x: Tensor) -> Tensor:
    rows = [torch.stack([(one - other).square().sum().clamp(min=1e-12).sqrt() for other in x]) for one in x]
    distances = torch.stack(rows) * (1 - torch.eye(len(x)))
    return distances / distances[distances > 0].mean()


def cosines(x: Tensor) -> Tensor:
    directions = [F.normalize(x - corner, dim=1) for corner in x]
    return torch.stack([direction @ direction.T for direction in directions])


SLOW = {
    rkd_distance: lambda one, other: smooth_l1(relative_distances(one.double()) - relative_distances(other.double())),
    rkd_angle: lambda one, other: smooth_l1(cosines(one.double()) - cosines(other.double())),
}


def test_golden() -> None:
    student, teacher = fill((4, 6), 0.2, 1), fill((4, 8), 0.9, 1)
    distance, angle = rkd_distance(student, teacher).item(), rkd_angle(student, teacher).item()
    assert distance == pytest.approx(0.20026079571630828, rel=1e-9)
    assert angle == pytest.approx(0.04934782830584672, rel=1e-9)
    assert 25 * distance + 50 * angle == pytest.approx(7.473911308200043, rel=1e-9)


@BOTH
@pytest.mark.parametrize(("batch", "width", "other"), [(3, 2, 5), (7, 6, 4), (5, 1, 3)])  # 1 wide: cosines of ±1
def test_by_loops(loss: Loss, batch: int, width: int, other: int) -> None:
    student, teacher = torch.randn(batch, width).double(), torch.randn(batch, other).double().exp()
    assert loss(student, teacher).item() == pytest.approx(SLOW[loss](student, teacher).item(), rel=1e-9)


def test_angles_of_batches_that_are_taken_in_pieces() -> None:
    student, teacher = torch.randn(70, 5).double(), torch.randn(70, 3).double()
    found, expected = (gradients(loss, student, teacher) for loss in (rkd_angle, SLOW[rkd_angle]))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@BOTH
def test_without_gradients(loss: Loss) -> None:
    """As in validation: nothing is there to compute once more."""
    student, teacher = torch.randn(6, 5), torch.randn(6, 7)
    with torch.inference_mode():
        value = loss(student, teacher)
    assert value.equal(loss(student.requires_grad_(), teacher).detach())


CHANGES = {
    "translation": lambda x: x + 10 * torch.randn(5),
    "rotation": lambda x: x @ torch.linalg.qr(torch.randn(5, 5).double()).Q,
    "scale": lambda x: 1e3 * x,
    "small scale": lambda x: 1e-3 * x,
}


@BOTH
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_invariances(loss: Loss, change: Callable[[Tensor], Tensor]) -> None:
    student, teacher = torch.randn(6, 5).double(), torch.randn(6, 5).double()
    for pair in ((change(student), teacher), (student, change(teacher))):
        assert loss(*pair).item() == pytest.approx(loss(student, teacher).item(), rel=1e-9)


@BOTH
@pytest.mark.parametrize("width", [5, 2048])
@pytest.mark.parametrize("seed", range(3))
def test_near_samples_in_float32(loss: Loss, width: int, seed: int) -> None:
    """Late in training the samples of a class are near; in float32 their squared distances would be noise."""
    torch.manual_seed(seed)
    student, teacher = torch.randn(8, width), torch.randn(8, width)
    for x in (student, teacher):
        x[1::2] = x[::2] + 1e-4 * torch.randn(4, width)
    found, expected = (gradients(each, student, teacher) for each in (loss, SLOW[loss]))
    assert found[0].item() == pytest.approx(expected[0].item(), rel=1e-3)
    for gradient, exact in zip(found[1:], expected[1:], strict=True):
        assert (gradient - exact).norm() < 1e-3 * exact.norm()


@BOTH
@pytest.mark.parametrize(("dtype", "offset"), [(torch.float32, 1e3), (torch.float64, 1e7)])
def test_large_common_offset(loss: Loss, dtype: torch.dtype, offset: float) -> None:
    student, teacher = torch.randn(8, 16, dtype=dtype), torch.randn(8, 16, dtype=dtype)
    exact = SLOW[loss](student, teacher).item()
    assert loss(student + offset, teacher - offset).item() == pytest.approx(exact, rel=1e-3)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [5, 2048])  # the wider, the more rounding between equal samples
def test_duplicates_as_in_the_official_code(loss: Loss, dtype: torch.dtype, width: int) -> None:
    """Between equal samples there is no direction, and every cosine with it is 0; distances are 1e-6, not 0."""
    student, teacher = torch.randn(8, width, dtype=dtype), torch.randn(8, 4, dtype=dtype)
    student[1], student[5], teacher[2] = student[0], student[4], teacher[0]
    rel = 1e-9 if dtype == torch.float64 else 1e-5
    assert loss(student, teacher).item() == pytest.approx(SLOW[loss](student, teacher).item(), rel=rel)
    collapsed = student[:1].expand(8, width)
    assert loss(collapsed, teacher).item() == pytest.approx(SLOW[loss](collapsed, teacher).item(), rel=rel)


EDGES = {
    "duplicates": lambda x: x[[0, 0, 2, 3, 3, 3]],
    "collapsed": lambda x: x[[0] * 6],
    "dead": torch.zeros_like,
    "one dead": lambda x: x * torch.tensor([1, 1, 0, 1, 1, 1])[:, None],
    "large": lambda x: 1e4 * x.clamp(-3, 3),
    "tiny": lambda x: 1e-20 * x,  # squared, it is below what float32 resolves
    "two samples": lambda x: x[:2],
    "three samples": lambda x: x[:3],
}


@BOTH
@pytest.mark.parametrize("name", EDGES)
def test_edges(loss: Loss, name: str) -> None:
    student, teacher = EDGES[name](torch.randn(6, 4)), EDGES[name](torch.randn(6, 3))
    plain = torch.randn(len(student), 5)
    for pair in ((student, plain), (plain, student), (student, teacher)):
        check_moderate(loss, *pair)
    if name != "one dead":  # rounding between the others differs there
        check_nothing(loss, student, student)
    if "samples" in name:
        assert loss(student, plain).item() == pytest.approx(SLOW[loss](student, plain).item(), rel=1e-4, abs=1e-12)


def test_memory_of_angles() -> None:
    """Written out, the directions have B²·D elements, here 33 million, and the cosines B³, here 2 million."""
    batch, width = 128, 2048
    pair = torch.randn(batch, width, requires_grad=True), torch.randn(batch, width, requires_grad=True)
    saved: dict[int, Tensor] = {}

    def note(value: Tensor) -> Tensor:
        saved[value.untyped_storage().data_ptr()] = value
        return value

    with Operations() as operations:
        with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
            loss = rkd_angle(*pair)
        forward = operations.elements
        loss.backward()
    embeddings, relations = 2 * batch * width * 8, batch**2 * 8
    total = sum(value.untyped_storage().nbytes() for value in saved.values())
    assert embeddings <= total < embeddings + 8 * relations
    assert batch * width <= forward <= operations.elements < batch**3 / 4
