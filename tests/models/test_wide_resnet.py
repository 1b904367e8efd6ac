"""Wide residual networks: their blocks, and maps of any size."""

import pytest
import torch
from torch import nn

from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.models import WideResNet


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
