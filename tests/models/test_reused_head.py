"""A student behind a projector and its teacher's head: the official values, the sizes, and what must not change."""

from __future__ import annotations

import copy
import pickle
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import ResNet, get_model
from torchvision.models.resnet import BasicBlock

from helpers.golden_values import fill
from helpers.tiny import Net
from tmkd_lightning import Extractor
from tmkd_lightning.distillers import SimKD
from tmkd_lightning.export import export_student
from tmkd_lightning.feature_extraction.output import MissingPartError, Output
from tmkd_lightning.models import Pretrained, WideResNet, pretrained
from tmkd_lightning.models.reused_head import ReusedHead, make_projector, restore_reused_head, reuse_head


class Given(nn.Module):
    """A network whose image is its map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.map = nn.Identity()
        self.fc = nn.Linear(channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(self.map(image).mean((2, 3)))


def resnet() -> nn.Module:
    """Its map has a 32nd of the image's side."""
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3)


def pair(student: nn.Module, teacher: nn.Module, factor: int = 2) -> tuple[Extractor, Extractor]:
    extractors = Extractor(student), Extractor(teacher)
    reuse_head(*extractors, factor, "SimKD")
    return extractors


@pytest.mark.parametrize(
    ("student", "teacher", "weights", "head", "factor", "values"),
    [
        (
            *(((2, 3, 8, 8), 0.1), ((2, 6, 4, 4), 0.7), (1.0, 1.3, 1.6), (5, 1.9, 2.1), 2),
            (1.0243905828748798, -0.2805215335360574),
        ),
        (
            *(((3, 4, 4, 4), 0.7), ((3, 8, 8, 8), 1.3), (1.6, 1.9, 2.2), (3, 2.5, 2.7), 4),
            (0.48624517047386484, -0.7383772176757832),
        ),
        (
            *(((2, 5, 5, 5), 1.6), ((2, 4, 5, 5), 2.2), (2.5, 2.8, 3.1), (7, 3.4, 3.6), 2),
            (0.8827172692559015, -0.34169495290640683),
        ),
    ],
)
@torch.no_grad()
def test_official_values(student, teacher, weights, head, factor, values) -> None:
    """The student's larger map is pooled before the projector, so its logits depend on the teacher's size too."""
    own, wanted = fill(*student, 1), fill(*teacher, 1)
    classes, phase, bias = head
    width = wanted.shape[1]
    reused = nn.Linear(width, classes).double()
    reused.weight.copy_(fill((classes, width), phase, 0.5))
    reused.bias.copy_(fill((classes,), bias, 0.1))
    projector = make_projector(own.shape[1], width // factor, width).double()
    for place, start, scale in zip((0, 3, 6), weights, (0.5, 0.3, 0.5), strict=True):
        projector[place].weight.copy_(fill(tuple(projector[place].weight.shape), start, scale))
    shrink = min(Fraction(wanted.shape[2], own.shape[2]), Fraction(1))
    network = ReusedHead(Given(own.shape[1]).double(), "fc", "map", projector, reused, shrink)
    seen = []
    network.projector.register_forward_hook(lambda *args: seen.append(args[2]))
    found = network(own)
    assert (found * fill(tuple(found.shape), 0.3, 1)).sum().item() == pytest.approx(values[1], rel=1e-9)
    outputs = (Output(found, feature_map=maps) for maps in (seen[0], wanted))
    assert SimKD(weight=2.0)(*outputs, torch.zeros(2))["simkd"].item() == pytest.approx(2 * values[0], rel=1e-9)


@pytest.mark.parametrize(
    ("student", "teacher", "shrink", "widths"),
    [
        (lambda: WideResNet(10, 1, 3), lambda: WideResNet(10, 2, 3), 1, (64, 64, 128)),
        (lambda: WideResNet(10, 1, 3), resnet, Fraction(1, 8), (64, 256, 512)),  # a quarter and a 32nd of the image
        (resnet, lambda: WideResNet(10, 1, 3), 1, (512, 32, 64)),
    ],
)
def test_sizes(student, teacher, shrink, widths) -> None:
    """Of networks that have never seen an image."""
    extractor, _ = pair(student(), teacher())
    network = extractor.network
    assert network.shrink == shrink
    convs = network.projector[::3]
    assert (convs[0].in_channels, convs[0].out_channels, convs[2].out_channels) == widths
    assert [conv.kernel_size for conv in convs] == [(1, 1), (3, 3), (1, 1)]
    output = extractor(torch.rand(2, 3, 64, 64))
    side = {64: 16, 512: 2}[widths[0]] * Fraction(shrink)
    assert output.feature_map.shape == (2, widths[2], side, side)
    torch.testing.assert_close(output.embedding, output.feature_map.mean((2, 3)))


def test_a_map_of_one_pixel_is_the_projected_one() -> None:
    """There the search for maps takes the first to be a pooling, and those behind it to be of no use."""
    extractor, _ = pair(WideResNet(10, 1, 3), resnet())
    output = extractor.eval()(torch.rand(2, 3, 32, 32))
    assert output.feature_map.shape == (2, 512, 1, 1)
    torch.testing.assert_close(output.logits, extractor.network.reused_head(output.feature_map[:, :, 0, 0]))


def test_sides_are_rounded_up() -> None:
    network = ReusedHead(Given(2), "fc", "map", make_projector(2, 2, 2), nn.Linear(2, 3), Fraction(1, 2))
    assert network.pool(torch.rand(1, 2, 9, 4)).shape == (1, 2, 5, 2)
    assert network.pool(torch.rand(1, 2, 4, 4).bfloat16()).dtype == torch.bfloat16


def test_what_an_extractor_was_told_stays() -> None:
    student = Extractor(Net(), (0.5, 0.4, 0.3), (0.1, 0.2, 0.3), maps=["relu"], image_size=16, class_names=list("abc"))
    reuse_head(student, Extractor(Net(16)), 2, "SimKD")
    assert (student.image_size, student.class_names, student.num_classes) == ((16, 16), ["a", "b", "c"], 3)
    assert student.mean.flatten().tolist() == pytest.approx([0.5, 0.4, 0.3])
    output = student(torch.rand(2, 3, 8, 8))
    assert [one.shape for one in output.maps] == [(2, 8, 16, 16)]
    assert output.feature_map.shape == (2, 16, 16, 16)


def test_copies_are_of_their_own() -> None:
    """A hook that stayed with the original would give a copy the map of another image."""
    extractor, _ = pair(Net(), Net(16))
    network, image = extractor.network.eval(), torch.rand(2, 3, 8, 8)
    expected = network(image)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        network(torch.rand(2, 3, 8, 8))
        assert other(image).equal(expected)
        with torch.no_grad():
            other.projector[0].weight.zero_()
        assert network(image).equal(expected)


def test_a_state_dict_brings_its_sizes() -> None:
    extractor, _ = pair(WideResNet(10, 1, 3), resnet(), factor=4)
    state = {key: value.clone() for key, value in extractor.network.state_dict().items()}
    other = Extractor(WideResNet(10, 1, 3))
    restore_reused_head(other, state, "")
    other.network.load_state_dict(state)
    image = torch.rand(2, 3, 64, 64)
    assert other.network.shrink == Fraction(1, 8)
    assert other.eval()(image).logits.equal(extractor.eval()(image).logits)
    plain = Extractor(Net())
    restore_reused_head(plain, Net().state_dict(), "")
    assert isinstance(plain.network, Net)


class Strided(Net):
    """Its map has half the side of the image, rounded up."""

    def __init__(self) -> None:
        super().__init__(12)
        self.conv.stride = (2, 2)


@pytest.mark.parametrize(
    ("sizes", "shrink"),
    [
        ((None, None), Fraction(1, 2)),
        ((16, None), 1),
        ((None, 64), 1),
        ((None, 16), Fraction(1, 4)),
        ((32, 32), Fraction(1, 2)),
    ],
)
def test_sizes_where_images_are_resized(sizes, shrink) -> None:
    """Small images have 32 pixels, which the first network's map keeps and the second's halves."""
    student, teacher = (Extractor(one, image_size=size) for one, size in zip((Net(), Strided()), sizes, strict=True))
    reuse_head(student, teacher, 2, "SimKD")
    assert student.network.shrink == shrink


@pytest.mark.parametrize("format", ["torch_export", "onnx", "state_dict"])
def test_exported_logits_are_its_own(tmp_path, format) -> None:
    """The export compares them itself; maps of 9 pixels are pooled to 5."""
    extractor, _ = pair(Net(), Strided())
    assert extractor.network.shrink == Fraction(1, 2)
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    suffix = {"torch_export": ".pt2", "onnx": ".onnx", "state_dict": ".safetensors"}[format]
    metadata = export_student(extractor.eval(), tmp_path / f"student{suffix}", format=format, image_size=9)
    assert metadata["network"] == "ReusedHead(Net)"
    if format == "torch_export":
        image = torch.rand(3, 3, 9, 9)
        found = torch.export.load(tmp_path / "student.pt2").module()(image)
        torch.testing.assert_close(found, extractor(image).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_compiled_equals_eager() -> None:
    eager, _ = pair(Net(), Net(16))
    image = torch.rand(4, 3, 8, 8)
    eager.eval().confirm(image)
    compiled = copy.deepcopy(eager)
    compiled.compile_network(whole=True)
    for seen in (image, torch.rand(4, 3, 8, 8)):
        for name in ("logits", "feature_map"):
            torch.testing.assert_close(getattr(compiled(seen), name), getattr(eager(seen), name), rtol=1e-4, atol=1e-5)


def test_pretrained_weights_are_read_without_their_head(monkeypatch) -> None:
    there = get_model("resnet18", weights=None, num_classes=1000)
    monkeypatch.setattr(pretrained, "_build_with_weights", lambda *_: there)
    extractor, _ = pair(Pretrained("resnet18", num_classes=3), resnet())
    assert extractor.network.network.pending
    pretrained.load_pretrained(extractor.network)
    assert extractor.network.network.network.conv1.weight.equal(there.conv1.weight)


class Headless(nn.Module):
    """Its logits are those of no linear layer, but it has one."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image).exp()


def test_networks_without_a_map_are_refused() -> None:
    flat = nn.Sequential(nn.Conv2d(3, 2, 3, 2, 1), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(32, 3))
    only_7 = nn.Sequential(nn.Flatten(), nn.Linear(147, 3))
    for network, message in (
        (flat, "SimKD reads feature_map, but Sequential has no 4-D map"),
        (Headless(), "SimKD reads feature_map, but Headless has no 4-D map"),
        (only_7, "SimKD looks for the feature map of Sequential before training, but it takes no noise"),
        (nn.Conv2d(3, 3, 3), "SimKD reads feature_map, which Conv2d does not have: Conv2d has no linear layer"),
    ):
        for networks in ((network, Net()), (Net(), network)):
            extractors = [Extractor(copy.deepcopy(one), num_classes=3) for one in networks]
            with pytest.raises(MissingPartError, match=message):
                reuse_head(*extractors, 2, "SimKD")
            assert not isinstance(extractors[0].network, ReusedHead)
