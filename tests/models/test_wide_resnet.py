"""Wide residual networks against the sizes of the official definitions, at 100 classes."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.models import WideResNet, wrn_16_2, wrn_40_1, wrn_40_2

# network, parameters, FLOPs of 2 images of 32 px, width of the last map
OFFICIAL = [
    (wrn_40_2, 2_255_156, 1_310_443_520, 128),
    (wrn_40_1, 569_780, 333_145_088, 64),
    (wrn_16_2, 703_284, 404_473_856, 128),
]
Build = Callable[..., WideResNet]


@pytest.mark.parametrize(("build", "parameters", "flops", "width"), OFFICIAL)
def test_official_sizes(build: Build, parameters: int, flops: int, width: int) -> None:
    network = build().eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        assert network(torch.rand(2, 3, 32, 32)).shape == (2, 100)
    assert counter.get_total_flops() == flops


@pytest.mark.parametrize(("build", "width"), [(build, width) for build, _, _, width in OFFICIAL])
def test_map(build: Build, width: int) -> None:
    extractor = Extractor(build(num_classes=7)).eval()
    with torch.no_grad():
        output = extractor(torch.rand(2, 3, 32, 32))
    assert output.feature_map.shape == (2, width, 8, 8)
    assert output.feature_map.min() == 0  # behind the last activation
    torch.testing.assert_close(output.cam.mean((2, 3)) + extractor.head.bias, output.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("side", "map_side"), [(64, 16), (40, 10), (8, 2), (33, 9)])
def test_other_sizes_of_images(side: int, map_side: int) -> None:
    extractor = Extractor(WideResNet(10, 1, num_classes=5)).eval()
    output = extractor(torch.rand(2, 3, side, side))
    assert output.logits.shape == (2, 5)
    assert output.feature_map.shape == (2, 64, map_side, map_side)


def test_a_block_is_its_shortcut_plus_its_convolutions() -> None:
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


@pytest.mark.parametrize("depth", [4, 9, 11, 39, 41, 0, -2])
def test_wrong_depth(depth: int) -> None:
    with pytest.raises(ValueError, match=f"depth must be 6 \\* n \\+ 4 .*got {depth}"):
        WideResNet(depth)
