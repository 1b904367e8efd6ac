"""Heads and maps found in one forward, which leaves the network as it was."""

import pytest
import torch
import torchvision.models as tv
from torch import Tensor, nn

from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.feature_extraction.layer_discovery import trace_layers


def test_every_layer_that_gives_the_map_is_named() -> None:
    trace = trace_layers(tv.resnet18(num_classes=5), torch.rand(2, 3, 64, 64))
    assert list(trace.heads) == ["fc"]
    assert trace.maps("fc") == ["layer4.1.relu", "layer4.1", "layer4"]  # not avgpool, which only pools it
    trace = trace_layers(tv.resnet18(num_classes=3), torch.rand(2, 3, 32, 32))
    assert trace.maps("fc")[-1] == "layer4"  # one pixel is a map where nothing was pooled


@pytest.mark.parametrize(
    ("layers", "map_name"),
    [
        ([nn.Dropout2d(0.5), nn.Identity(), nn.AdaptiveAvgPool2d(2)], "0"),  # these only pass it on
        ([nn.ReLU(inplace=True)], "1"),  # the convolution's output averages to the same once it is overwritten
    ],
)
def test_layers_behind_the_map(layers: list[nn.Module], map_name: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    assert trace_layers(network, torch.rand(2, 3, 18, 18)).maps(str(len(network) - 1)) == [map_name]


def test_a_failing_network_is_left_as_it_was() -> None:
    class Failing(nn.Sequential):
        def forward(self, image: Tensor) -> Tensor:
            super().forward(image + torch.rand(1))
            raise RuntimeError("broken inside")

    network = Failing(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).train()
    image, state = torch.rand(2, 3, 8, 8), torch.get_rng_state()
    with pytest.raises(RuntimeError, match="broken inside"):
        trace_layers(network, image)
    assert all(module.training for module in network.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert network[1].num_batches_tracked == 0
    assert torch.get_rng_state().equal(state)


def last_layers(*layers: nn.Module) -> Extractor:
    return Extractor(nn.Sequential(nn.Conv2d(3, 8, 3), *layers, nn.Linear(8, 2)))


def test_an_untrained_norm_is_not_taken_for_one_that_passes_on() -> None:
    """In evaluation it changes nothing yet, but the first training batch is normalised."""
    pooling = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    before = last_layers(nn.BatchNorm2d(8), nn.Identity(), *pooling)
    output = before(torch.rand(4, 3, 16, 16))
    assert before.map_name == "1"
    torch.testing.assert_close(output.feature_map.mean((2, 3)), output.embedding)
    for behind in ((*pooling, nn.BatchNorm1d(8)), (pooling[0], nn.BatchNorm2d(8), pooling[1])):
        output = last_layers(*behind)(torch.rand(4, 3, 16, 16))
        assert output.feature_map is None
        assert output.embedding.mean(0).abs().max() < 1e-5  # normalised, as no map's mean is
