"""Networks for small images against the sizes of the official definitions, at 100 classes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.models import resnet18, resnet50, shufflenet_v2, vgg8, vgg13, wrn_16_2, wrn_40_1, wrn_40_2

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


@pytest.mark.parametrize("build", [resnet18, resnet50, shufflenet_v2])
def test_first_layers_keep_the_resolution(build: Build) -> None:
    """And start as torchvision starts its own: a stem drawn otherwise would train otherwise."""
    torch.manual_seed(0)
    network = build()
    stem = nn.Sequential(network.conv1, network.maxpool).eval()
    assert stem(torch.rand(1, 3, 32, 32)).shape[2:] == (32, 32)
    if build is not shufflenet_v2:
        assert network.conv1.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)
