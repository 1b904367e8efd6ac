"""FitNet, VID and ReviewKD: their layers, and the values of the official code with given weights."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.golden_values import HALVES, fill
from tmkd_lightning import Extractor
from tmkd_lightning.distillers import VID, FitNet, ReviewKD
from tmkd_lightning.distillers.review_kd import AttentionFusion
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.feature_extraction.spec import Spec
from tmkd_lightning.losses import hcl, hint, vid
from tmkd_lightning.models import wrn_16_2

LABEL = torch.tensor([0, 2, 1])
MAPS = {"student": ((2, 8, 8), (3, 4, 4)), "teacher": ((4, 8, 8), (5, 4, 4))}
SPECS = [Spec(3, dim, MAPS[whose]) for whose, dim in (("student", 6), ("teacher", 7))]


def output(spec: Spec, batch: int = 3, **options) -> Output:
    maps = tuple(torch.randn(batch, *shape, **options) for shape in spec.maps)
    return Output(torch.randn(batch, 3, **options), torch.randn(batch, spec.embedding_dim, **options), maps=maps)


def of_maps(student: Tensor, teacher: Tensor) -> list[Output]:
    return [Output(torch.zeros(len(one), 3, dtype=one.dtype), maps=(one,)) for one in (student, teacher)]


def built_for(method, student: Tensor, teacher: Tensor):
    method.build(*(Spec(3, maps=(tuple(one.shape[1:]),)) for one in (student, teacher)))
    return method.double()


@torch.no_grad()
def give(layer: nn.Module, **weights: tuple[float, float]) -> None:
    """Fills weights by phase and scale, as the official values were computed."""
    for name, (phase, scale) in weights.items():
        parameter = getattr(layer, name)
        parameter.copy_(fill(tuple(parameter.shape), phase, scale))


@pytest.mark.parametrize(
    ("student", "teacher", "weight", "bias", "value"),
    [
        (((2, 3, 8, 8), 0.1), ((2, 5, 4, 4), 0.7), 1.0, 1.4000000000000001, 1.0574914952406504),
        (((3, 4, 4, 4), 0.5), ((3, 2, 8, 8), 1.1), 1.4, 1.8, 0.9754606222578955),
        (((2, 3, 5, 5), 1.4), ((2, 4, 5, 5), 2.0), 2.3, 2.7, 0.9965846136791546),
    ],
)
def test_official_values_of_fitnet(student, teacher, weight, bias, value) -> None:
    """A regressor that halves the map, one that doubles it and one that keeps its size."""
    pair = fill(*student, 1), fill(*teacher, 1)
    method = built_for(FitNet(weight=2.0, place=1), *pair)
    give(method.regressor[0], weight=(weight, 0.3), bias=(bias, 0.1))
    term = method(*of_maps(*pair), LABEL)["fitnet"]
    assert term.item() == pytest.approx(2 * value, rel=1e-9)


@pytest.mark.parametrize(
    ("student", "teacher", "weights", "log_scale", "value"),
    [
        (((2, 5, 4, 4), 0.1, 2), ((2, 7, 8, 8), 1.1, 2), (0.1, 0.5, 0.9), (1.1, 5), 4.369620289614363),
        (((3, 4, 7, 7), 0.4, 1), ((3, 6, 4, 4), 1.9, 3), (0.6, 1.0, 1.4), (1.6, 1), 2.5164168379687286),
        (((1, 3, 5, 5), 0.9, 1), ((1, 8, 5, 5), 0.2, 1), (1.2, 1.6, 2.0), (2.2, 3), 1.6655958719261528),
    ],
)
def test_official_values_of_vid(student, teacher, weights, log_scale, value) -> None:
    pair = fill(*student), fill(*teacher)
    method = built_for(VID(weight=2.0), *pair)
    layer = method.regressor[0]
    for place, phase in zip((0, 2, 4), weights, strict=True):
        give(layer.mean[place], weight=(phase, 0.6))
    give(layer, log_scale=log_scale)
    term = method(*of_maps(*pair), LABEL)["vid"]
    assert term.item() == pytest.approx(2 * value, rel=1e-9)


@pytest.mark.parametrize(
    ("student", "residual", "out", "phases", "size", "value"),
    [
        (((2, 3, 8, 8), 0.1), ((2, 4, 4, 4), 0.5), 5, (0.9, 1.2, 1.6, 2.0), 8, (6.051897885655213, 45.99016472532062)),
        (((3, 5, 4, 4), 0.8), ((3, 4, 1, 1), 1.2), 3, (1.6, 1.9, 2.3, 2.7), 8, (7.854070940595157, 2.412411347237245)),
        (((2, 3, 6, 6), 1.7), ((2, 6, 4, 4), 2.1), 2, (2.5, 2.8, 3.2, 3.6), 6, (-2.61044912924023, -11.4645078443384)),
    ],
)  # fmt: skip
def test_official_values_of_the_fusion(student, residual, out, phases, size, value) -> None:
    own, deeper = fill(*student, 1), fill(*residual, 1)
    fusion = AttentionFusion(own.shape[1], deeper.shape[1], out, fuses=True).double()
    give(fusion.conv1[0], weight=(phases[0], 0.5))
    give(fusion.conv2[0], weight=(phases[1], 0.3))
    give(fusion.attention, weight=(phases[2], 0.5), bias=(phases[3], 0.3))
    for found, expected in zip(fusion(own, deeper, (size, size)), value, strict=True):
        assert (found * fill(tuple(found.shape), 0.3, 1)).sum().item() == pytest.approx(expected, rel=1e-9)


def test_review_kd_goes_from_the_embedding_up() -> None:
    """Written out: the deepest map first, and each fusion is given what the last one returned."""
    method = ReviewKD(weight=2.0, width=4)
    method.build(*SPECS)
    student, teacher = map(output, SPECS)
    embeddings = [one.embedding[..., None, None] for one in (student, teacher)]
    first, second, third = method.regressor
    assert third.attention is None
    predicted, reviewed = third(embeddings[0], None, (1, 1))
    total = hcl(predicted, embeddings[1])
    predicted, reviewed = second(student.maps[1], reviewed, (4, 4))
    total += hcl(predicted, teacher.maps[1])
    predicted, _ = first(student.maps[0], reviewed, (8, 8))
    total += hcl(predicted, teacher.maps[0])
    torch.testing.assert_close(method(student, teacher, LABEL)["review_kd"], 2 * total)


@pytest.mark.parametrize(("wanted", "width"), [(512, 64), (513, 512)])
def test_width_of_the_fusion(wanted: int, width: int) -> None:
    method = ReviewKD()
    method.build(Spec(3, 2, ((2, 4, 4),)), Spec(3, 2, ((wanted, 4, 4),)))
    assert method.regressor[0].conv1[0].out_channels == width


def test_which_maps() -> None:
    student, teacher = map(output, SPECS)
    for place in (1, 2):
        method = FitNet(place=place)
        method.build(*SPECS)
        expected = 100 * hint(method.regressor(student.maps[-place]), teacher.maps[-place])
        torch.testing.assert_close(method(student, teacher, LABEL)["fitnet"], expected)
    with pytest.raises(ValueError, match=r"FitNet\(place=3\) compares the maps at place 3 from the last, .* have 2 in"):
        FitNet(place=3).build(*SPECS)
    method = VID(last=1)
    method.build(*SPECS)
    (layer,) = method.regressor
    assert layer.mean[0].in_channels == 3
    assert F.softplus(layer.log_scale).add(1e-5).allclose(torch.tensor(5.0))  # the first variance
    expected = vid(layer.mean(student.maps[1]), teacher.maps[1], layer.log_scale)
    torch.testing.assert_close(method(student, teacher, LABEL)["vid"], expected)


@pytest.mark.parametrize("method", [FitNet(place=1), VID(), ReviewKD()])
def test_layers_stay(method) -> None:
    with pytest.raises(RuntimeError, match=r"has no layers yet: call .*\.build\(student, teacher\)"):
        deepcopy(method)(*map(output, SPECS), LABEL)
    method.build(*SPECS)
    before = deepcopy(method.state_dict())
    method.build(*SPECS)
    assert all(value.equal(before[name]) for name, value in method.state_dict().items())
    with pytest.raises(ValueError, match=r"was built for maps of \[.*\] channels, .* make a new"):
        method.build(SPECS[0], Spec(3, 7, ((4, 8, 8), (6, 4, 4))))
    with pytest.raises(ValueError, match=r"reads (maps|embeddings), which one of the two networks does not have"):
        type(method)().build(SPECS[0], Spec(3))


@pytest.mark.parametrize("method", [FitNet(place=1), VID(), ReviewKD()])
@pytest.mark.parametrize("half", HALVES)
def test_everything_trains_also_in_half_precision(method, half) -> None:
    method = deepcopy(method)
    method.build(*SPECS)
    student, teacher = map(output, SPECS)
    with torch.autocast("cpu", half):
        (term,) = method(student, teacher, LABEL).values()
    term.backward()
    assert term.dtype == torch.float32
    assert all(parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0 for parameter in method.parameters())


@pytest.mark.parametrize("method", [FitNet(place=1), VID(), ReviewKD()])
def test_layers_in_half_precision(method) -> None:
    """As with ``precision="bf16-true"``, beside a teacher whose views are fused in float32."""
    method = deepcopy(method)
    method.build(*SPECS)
    student, teacher = map(output, SPECS)
    (expected,) = method(student, teacher, LABEL).values()
    (term,) = method.bfloat16()(student.map(Tensor.bfloat16), teacher, LABEL).values()
    assert term.dtype == torch.float32
    assert term.item() == pytest.approx(expected.item(), rel=0.02)


@pytest.mark.parametrize("method", [FitNet(place=1), ReviewKD()])
def test_of_one_image_there_is_nothing_to_normalise(method) -> None:
    method = deepcopy(method)
    method.build(*SPECS)
    (term,) = method(*(output(spec, 1) for spec in SPECS), LABEL[:1]).values()
    term.backward()
    assert term.item() == 0
    assert all(parameter.grad.abs().sum() == 0 for parameter in method.parameters())


def test_sizes_of_both_networks_are_those_of_one_image() -> None:
    """One was found on 32 pixels, the other on 224, where its last map has more than a pixel."""
    small, large = (
        Extractor(wrn_16_2(3)),
        Extractor(nn.Sequential(*(nn.Conv2d(3, 3, 3, 2, 1) for _ in range(5)), Head())),
    )
    for one in (small, large):
        one.keep_maps = True
    small.match_maps(large)
    large.match_maps(small)
    assert [shape[1] for shape in small.spec.maps] == [224, 112, 56]
    assert [shape[1] for shape in large.spec.maps] == [112, 56, 28, 14, 7]


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, maps: Tensor) -> Tensor:
        return self.fc(maps.mean((2, 3)))
