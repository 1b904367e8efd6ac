"""The maps of a network: the last of each resolution, the tokens of a ViT, and those that are named."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torchvision.models as tv
from torch import Tensor, nn

from helpers.tiny import Net, tmkd_module
from tmkd_lightning import Ensemble, Extractor, Spec
from tmkd_lightning.distillers import AT, KD
from tmkd_lightning.feature_extraction.output import MissingPartError
from tmkd_lightning.models import Pretrained, wrn_16_2


def extractor(network: nn.Module, **options) -> Extractor:
    one = Extractor(network, **options).eval()
    one.keep_maps = True
    return one


@pytest.mark.parametrize(
    ("network", "names", "shapes"),
    [
        (
            partial(tv.resnet18, num_classes=3),
            ["relu", "layer1", "layer2", "layer3", "layer4"],
            [(64, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)],
        ),
        (
            partial(tv.mobilenet_v3_small, num_classes=3),  # not the wide convolutions within its blocks
            ["features.0", "features.1", "features.3", "features.8", "features"],
            [(16, 32, 32), (16, 16, 16), (24, 8, 8), (48, 4, 4), (576, 2, 2)],
        ),
        (
            partial(wrn_16_2, num_classes=3),
            ["groups.0", "groups.1", "relu"],
            [(32, 64, 64), (64, 32, 32), (128, 16, 16)],
        ),
    ],
)
def test_the_last_map_of_each_resolution(network, names, shapes) -> None:
    one = extractor(network())
    output = one(torch.rand(2, 3, 64, 64))
    assert [layer.name for layer in one.map_layers] == names
    assert [tuple(each.shape[1:]) for each in output.maps] == shapes
    assert [shape[0] for shape in one.spec.maps] == [shape[0] for shape in shapes]  # sizes are those of a small image
    if output.feature_map is not None:
        assert output.maps[-1].equal(output.feature_map)


def small_vit(**options) -> nn.Module:
    sizes = {"image_size": 32, "patch_size": 8, "num_layers": 6, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 8}
    return tv.VisionTransformer(**sizes, num_classes=3, **options)


def test_a_vit_gives_the_tokens_of_blocks_at_quarters_of_its_depth() -> None:
    network = small_vit()
    one, seen = extractor(network), {}
    for place in range(6):
        network.encoder.layers[place].register_forward_hook(lambda *args, place=place: seen.update({place: args[2]}))
    output = one(torch.rand(2, 3, 32, 32))
    assert [layer.name[-1] for layer in one.map_layers] == ["1", "2", "4", "5"]  # of six: 1.5, 3, 4.5 and 6, rounded up
    for place, given in zip((1, 2, 4, 5), output.maps, strict=True):
        assert given.shape == (2, 8, 4, 4)
        assert given[:, :, 2, 1].equal(seen[place][:, 1 + 2 * 4 + 1])  # behind the class token, row by row


def test_tokens_of_images_that_are_not_square() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 4, 4, stride=4)
            self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
            self.fc = nn.Linear(4, 3)

        def forward(self, image: Tensor) -> Tensor:
            tokens = self.patches(image).flatten(2).mT
            for block in self.blocks:
                tokens = block(tokens)
            return self.fc(tokens.mean(1))

    assert [each.shape for each in extractor(Wide())(torch.rand(1, 3, 8, 24)).maps] == [(1, 4, 2, 6)] * 2


def test_names() -> None:
    one = Extractor(tv.resnet18(num_classes=3), maps=["layer1", "layer3"])
    assert one.spec.maps == ((64, 8, 8), (256, 2, 2))
    assert [tuple(each.shape) for each in one(torch.rand(2, 3, 64, 64)).maps] == [(2, 64, 16, 16), (2, 256, 4, 4)]
    for name in ("layer9", "layer1.0.relu"):  # which is called twice
        with pytest.raises(ValueError, match=f"maps names '{name}', but that layer of ResNet gives no map .* layer1"):
            _ = Extractor(tv.resnet18(num_classes=3), maps=[name]).map_layers
    blocks = Extractor(small_vit(), maps=["encoder.layers.encoder_layer_3"])
    assert blocks.spec.maps == ((8, 4, 4),)


def test_the_network_is_left_as_it_was() -> None:
    network = Pretrained("resnet18", num_classes=3).train()
    before, random = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    assert len(extractor(network).map_layers) == 5
    assert network.pending  # its weights are still to be read
    assert torch.get_rng_state().equal(random)
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_of_an_ensemble_those_of_the_first_member() -> None:
    members = [Net(4), Net(8)]
    ensemble = Ensemble([copy.deepcopy(member) for member in members])
    ensemble.keep_maps = True
    image = torch.rand(2, 3, 8, 8)
    assert ensemble.spec == Spec(3, 4, ((4, 32, 32),))
    torch.testing.assert_close(ensemble.eval()(image).maps, extractor(members[0])(image).maps)


def test_sizes_of_an_ensemble_are_those_of_one_image() -> None:
    """A ResNet's maps are found on 224 pixels, a WideResNet's on 32."""
    small, large = extractor(wrn_16_2(3)), extractor(tv.resnet18(num_classes=3))
    alone = copy.deepcopy(small)
    alone.match_maps(large)
    of_small, of_large = Ensemble([copy.deepcopy(small)]), Ensemble([copy.deepcopy(large)])
    for ensemble in (of_small, of_large):
        ensemble.keep_maps = True
    of_small.match_maps(large)
    small.match_maps(of_large)
    assert of_small.spec.maps == small.spec.maps == alone.spec.maps == ((32, 224, 224), (64, 112, 112), (128, 56, 56))


def test_maps_are_kept_only_where_they_are_read() -> None:
    for method, count in ((KD(), 0), (AT(), 1)):
        module = tmkd_module(Net(16), Net(), distiller=method, text_weight=0)
        outputs = module.teacher(torch.rand(2, 3, 8, 8), torch.tensor([0, 1])), module.extractor(torch.rand(2, 3, 8, 8))
        assert [len(output.maps) for output in outputs] == [count, count]
        assert len(module.extractor.spec.maps) == count


def test_a_network_without_maps_is_refused_at_once() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    with pytest.raises(MissingPartError, match=r"^AT reads maps, but Sequential gives none on noise"):
        tmkd_module(Net(), flat, distiller=AT(), views=["rgb"], text_weight=0, feature_weight=0)
