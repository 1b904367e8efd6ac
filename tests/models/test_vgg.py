"""VGG: where it halves images, and how it starts."""

import pytest
import torch
from torch import nn

from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.models import VGG, vgg13

SMALL = [[4], [4], [8], [8], [8]]


@pytest.mark.parametrize(
    ("size", "expected"), [((8, 8), (1, 1)), ((63, 63), (7, 7)), ((64, 63), (8, 7)), ((64, 64), (4, 4))]
)
def test_the_fourth_pooling_is_for_images_of_64_pixels_and_more(size: tuple, expected: tuple) -> None:
    extractor = Extractor(VGG(SMALL, num_classes=5)).eval()
    output = extractor(torch.rand(3, 3, *size))
    assert output.logits.shape == (3, 5)
    assert output.feature_map.shape == (3, 8, *expected)


def test_blocks_are_as_long_as_their_widths() -> None:
    network = VGG([[2, 3], [4], [5, 6, 7], [8], [9, 10]])
    widths = [module.out_channels for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert widths == [2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert network.fc.in_features == 10


def test_start() -> None:
    network = vgg13()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.std().item() == pytest.approx((2 / (9 * module.out_channels)) ** 0.5, rel=0.05)
            assert not module.bias.any()
    assert network.fc.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not network.fc.bias.any()


@pytest.mark.parametrize("widths", [[], SMALL[:4], [*SMALL, [8]], [[4], [4], [], [8], [8]]])
def test_not_five_blocks(widths: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="widths must be five lists"):
        VGG(widths)
