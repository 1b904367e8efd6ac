"""Class activation maps against values of the official code, and against explicit windows."""

from collections.abc import Callable
from functools import partial
from math import ceil, floor

import pytest
import torch
from torch import Tensor

from helpers.golden_values import Loss, Operations, check_moderate, check_nothing, fill, gradients
from tmkd_lightning.losses import class_attention

STUDENT, TEACHER = fill((2, 5, 4, 4), 0.1, 2), fill((2, 5, 8, 8), 1.1, 2)


@pytest.mark.parametrize(
    ("resolution", "plain", "normalized"),  # values of the official code
    [(2, 1.148627911650225, 0.4891686745949445), (4, 2.0298327590136305, 0.1252890759876272)],
)
def test_golden(resolution: int, plain: float, normalized: float) -> None:
    for normalize, value in ((False, plain), (True, normalized)):
        loss = class_attention(STUDENT, TEACHER, resolution, normalize)
        assert loss.item() == pytest.approx(value, rel=1e-9)


NORMALIZE = pytest.mark.parametrize("normalize", [False, True])


def at_2x2(normalize: bool) -> Loss:
    return partial(class_attention, resolution=2, normalize=normalize)


def window(index: int, size: int, count: int) -> slice:
    return slice(floor(index * size / count), ceil((index + 1) * size / count))


def pooled(cam: Tensor, resolution: int, normalize: bool) -> Tensor:
    rows, columns = ([window(i, size, resolution) for i in range(resolution)] for size in cam.shape[2:])
    means = [torch.stack([cam[:, :, row, column].mean((2, 3)) for column in columns], 2) for row in rows]
    result = torch.stack(means, 2)
    return result / result.square().sum((2, 3), keepdim=True).sqrt() if normalize else result


@NORMALIZE
@pytest.mark.parametrize(
    ("student", "teacher", "resolution"),
    [((7, 7), (2, 2), 2), ((5, 5), (3, 3), 3), ((8, 3), (3, 7), 3), ((4, 4), (7, 2), 1), ((4, 6), (6, 5), 4)],
)
def test_by_windows(student: tuple[int, int], teacher: tuple[int, int], resolution: int, normalize: bool) -> None:
    cams = torch.randn(2, 3, *student).double(), torch.randn(2, 3, *teacher).double()
    expected = sum(sign * pooled(cam, resolution, normalize) for sign, cam in zip((1, -1), cams, strict=True))
    value = class_attention(*cams, resolution, normalize)
    assert value.item() == pytest.approx(expected.square().mean().item(), rel=1e-9)


@NORMALIZE
def test_gradient_repeats_exactly_on_gpus(normalize: bool) -> None:
    """Adaptive pooling has no deterministic gradient there, so it may not be asked for one."""
    with Operations() as operations:
        gradients(at_2x2(normalize), torch.randn(2, 3, 7, 7), torch.randn(2, 3, 4, 4))
    assert operations.names
    assert not any("pool" in name and "backward" in name for name in operations.names)


def test_scale_counts_unless_normalised() -> None:
    plain, scaled = (at_2x2(False)(factor * STUDENT, factor * TEACHER).item() for factor in (1, 10))
    assert scaled == pytest.approx(100 * plain, rel=1e-9)
    assert at_2x2(False)(2 * STUDENT, TEACHER).item() != pytest.approx(plain, rel=0.1)
    plain, scaled = (at_2x2(True)(factor * STUDENT, TEACHER / factor).item() for factor in (1, 10))
    assert scaled == pytest.approx(plain, rel=1e-9)


EDGES = {
    "duplicates": lambda cam: cam[[0, 0, 2]],
    "two samples": lambda cam: cam[:2],
    "one sample": lambda cam: cam[:1],
    "dead class": lambda cam: cam * torch.tensor([1, 0, 1, 1]).view(1, 4, 1, 1),
    "dead": torch.zeros_like,
}


@NORMALIZE
@pytest.mark.parametrize("edge", EDGES.values(), ids=EDGES)
def test_edges(normalize: bool, edge: Callable[[Tensor], Tensor]) -> None:
    """A map of zeros would multiply its gradient by 1e12, were it normalised as the others; equal maps cost nothing."""
    student, teacher = edge(torch.randn(3, 4, 4, 4)), edge(torch.randn(3, 4, 6, 6))
    plain = torch.randn(len(student), 4, 5, 5)
    for pair in ((student, plain), (plain, teacher), (student, teacher)):
        check_moderate(at_2x2(normalize), *pair)
    check_nothing(at_2x2(normalize), student, student)


@NORMALIZE
def test_large_maps(normalize: bool) -> None:
    student, teacher = torch.full((1, 2, 4, 4), 1e4), torch.full((1, 2, 4, 4), -1e4)
    check_moderate(at_2x2(normalize), student, teacher, limit=5e8)
    assert at_2x2(normalize)(student, teacher).item() == pytest.approx(1.0 if normalize else 4e8)  # 1/2 against -1/2


@pytest.mark.parametrize("shape", [(3, 5, 4, 4), (2, 6, 4, 4), (1, 5, 4, 4), (2, 1, 4, 4)])  # the last two broadcast
def test_different_samples_or_classes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"student \(2, 5, 4, 4\) and teacher .* differ in samples or classes"):
        class_attention(STUDENT, torch.zeros(shape), 2, False)


@NORMALIZE
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (4, 1)])
def test_maps_smaller_than_the_resolution(normalize: bool, size: tuple[int, int]) -> None:
    small, large = torch.zeros(2, 5, *size), torch.zeros(2, 5, 4, 4)
    for whose, pair in {"student": (small, large), "teacher": (large, small)}.items():
        message = f"the {whose}'s maps of {size[0]}x{size[1]} cannot be pooled to 2x2: use larger images, .* resolution"
        with pytest.raises(ValueError, match=message):
            at_2x2(normalize)(*pair)
