"""Networks for small images against the sizes of the official definitions, at 100 classes."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.models import (
    VGG,
    WideResNet,
    resnet18,
    resnet50,
    shufflenet_v2,
    vgg8,
    vgg13,
    wrn_16_2,
    wrn_40_1,
    wrn_40_2,
)

# network, parameters, FLOPs of 2 images of 32 px, last stage and shape of its map, width of the embedding
OFFICIAL = [
    (vgg8, 3_965_028, 384_770_048, "blocks.4", (512, 4, 4), 512),
    (vgg13, 9_462_180, 1_139_744_768, "blocks.4", (512, 4, 4), 512),
    (resnet18, 11_220_132, 2_221_875_200, "layer4", (512, 4, 4), 512),
    (resnet50, 23_705_252, 5_192_056_832, "layer4", (2048, 4, 4), 2048),
    (shufflenet_v2, 1_355_528, 178_017_792, "stage4", (464, 4, 4), 1024),
    (wrn_40_2, 2_255_156, 1_310_443_520, "relu", (128, 8, 8), 128),
    (wrn_40_1, 569_780, 333_145_088, "relu", (64, 8, 8), 64),
    (wrn_16_2, 703_284, 404_473_856, "relu", (128, 8, 8), 128),
]
Build = Callable[..., nn.Module]


@pytest.mark.parametrize(("build", "parameters", "flops", "stage", "shape", "width"), OFFICIAL)
def test_official_sizes(
    build: Build, parameters: int, flops: int, stage: str, shape: tuple[int, ...], width: int
) -> None:
    network = build().eval()
    maps: list[Tensor] = []
    network.get_submodule(stage).register_forward_hook(lambda module, args, output: maps.append(output))
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        assert network(torch.rand(2, 3, 32, 32)).shape == (2, 100)
    assert counter.get_total_flops() == flops
    assert maps[0].shape == (2, *shape)
    assert Extractor(network).embedding_dim == width


# of each family: side of the map for images of 32, 64 and 224 px
MAPS = [
    (vgg8, "blocks.4", {32: 4, 64: 4, 224: 14}),
    (resnet18, "layer4", {32: 4, 64: 8, 224: 28}),
    (resnet50, "layer4", {32: 4, 64: 8}),
    (shufflenet_v2, "conv5", {32: 4, 64: 8, 224: 28}),
    (wrn_40_1, "relu", {32: 8, 64: 16, 224: 56}),
    (partial(WideResNet, 10, 1), "relu", {8: 2, 33: 9, 40: 10, 64: 16}),
]


@pytest.mark.parametrize(("build", "name", "sides"), MAPS)
@torch.no_grad()
def test_maps_at_all_sizes(build: Build, name: str, sides: dict[int, int]) -> None:
    """The map that is found explains the logits, whatever the size of the images."""
    extractor = Extractor(build(num_classes=7)).eval()
    for side, map_side in sides.items():
        output = extractor(torch.rand(2 if side < 224 else 1, 3, side, side))
        assert extractor.map_name.startswith(name)
        assert output.logits.shape[1:] == (7,)
        assert output.logits.isfinite().all()
        assert output.feature_map.shape[1:] == (extractor.embedding_dim, map_side, map_side)
        assert output.feature_map.min() == 0  # behind the last activation
        torch.testing.assert_close(output.cam.mean((2, 3)) + extractor.head.bias, output.logits, rtol=1e-4, atol=1e-4)


def test_first_layers_keep_the_resolution() -> None:
    """And start as torchvision starts its own: a stem drawn otherwise would train otherwise."""
    for build in (resnet18, resnet50, shufflenet_v2):
        network = build()
        stem = nn.Sequential(network.conv1, network.maxpool).eval()
        assert stem(torch.rand(1, 3, 32, 32)).shape[2:] == (32, 32)
        if build is not shufflenet_v2:
            assert network.conv1.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)


NARROW = [[4], [4], [8], [8], [8]]  # widths of a VGG


@pytest.mark.parametrize(
    ("size", "expected"), [((8, 8), (1, 1)), ((63, 63), (7, 7)), ((64, 63), (8, 7)), ((64, 64), (4, 4))]
)
def test_the_fourth_pooling_is_for_images_of_64_pixels_and_more(size: tuple, expected: tuple) -> None:
    extractor = Extractor(VGG(NARROW, num_classes=5)).eval()
    output = extractor(torch.rand(3, 3, *size))
    assert output.logits.shape == (3, 5)
    assert output.feature_map.shape == (3, 8, *expected)


def test_blocks_of_a_vgg_are_as_long_as_their_widths_and_start_as_described() -> None:
    network = VGG([[2, 3], [4], [5, 6, 7], [8], [9, 10]])
    widths = [module.out_channels for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert widths == [2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert network.fc.in_features == 10
    for wrong in ([], NARROW[:4], [*NARROW, [8]], [[4], [4], [], [8], [8]]):
        with pytest.raises(ValueError, match="widths must be five lists"):
            VGG(wrong)
    network = vgg13()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.std().item() == pytest.approx((2 / (9 * module.out_channels)) ** 0.5, rel=0.05)
            assert not module.bias.any()
    assert network.fc.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not network.fc.bias.any()


def test_a_residual_block_is_its_shortcut_plus_its_convolutions() -> None:
    """With the last convolution at zero the shortcut is left: the input, or a projection of the activated input."""
    network = WideResNet(16, 1).eval()
    x = torch.randn(2, 16, 8, 8)
    same, widening = network.groups[0][1], network.groups[1][0]
    for block in (same, widening):
        nn.init.zeros_(block.conv2.weight)
        nn.init.constant_(block.bn1.bias, 0.3)
    assert same(x).equal(x)
    torch.testing.assert_close(widening(x), widening.shortcut(widening.bn1(x).relu()))
    assert network.groups[0][0].shortcut is None  # 16 channels on both sides
    for depth in (4, 9, 11, 39, 41, 0, -2):
        with pytest.raises(ValueError, match=f"depth must be 6 \\* n \\+ 4 .*got {depth}"):
            WideResNet(depth)
