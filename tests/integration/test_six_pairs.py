"""Each base method with six families of networks, alone and with TMKD: it trains a step, or says why it cannot."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import nn
from torchvision.models import ConvNeXt, ResNet, VisionTransformer, mobilenet_v3_small
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.resnet import BasicBlock
from torchvision.models.vgg import VGG, make_layers

from helpers.methods import METHODS, NEED_A_MAP, PAPER
from helpers.tiny import tmkd_module
from tmkd_lightning import TMKDModule
from tmkd_lightning.models import WideResNet

IMAGE, LABEL = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0])
KINDS = {
    "alone": {"views": ["rgb"], "feature_weight": 0, "logit_weight": 0, "text_weight": 0},
    "with TMKD": {"fusion_objective": "distillation"},
}
WITHOUT_MAP = {"MobileNetV3", "VGG", "ViT", "ConvNeXt"}  # torchvision's: something is between pooling and head
TOO_SMALL = {("ResNet", "cat_kd"): "2x2", ("ResNet", "sdd"): "4x4"}  # its last map has one pixel


def vgg(width: int) -> nn.Module:
    network = VGG(make_layers([8, "M", width, "M"]), num_classes=3, init_weights=False)
    network.classifier = nn.Sequential(nn.Linear(width * 7 * 7, width), nn.ReLU(), nn.Dropout(), nn.Linear(width, 3))
    return network


def vit(width: int) -> nn.Module:
    network = VisionTransformer(32, 8, num_layers=4, num_heads=2, hidden_dim=width, mlp_dim=width, num_classes=3)
    nn.init.normal_(network.heads.head.weight)  # else zeros, behind which nothing learns in the first step
    return network


def convnext(width: int) -> nn.Module:
    return ConvNeXt([CNBlockConfig(8, width, 1), CNBlockConfig(width, None, 1)], num_classes=3)


FAMILIES: dict[str, Callable[[int], nn.Module]] = {  # of a width, which two of them take from torchvision
    "ResNet": lambda width: ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3),
    "MobileNetV3": lambda width: mobilenet_v3_small(num_classes=3, width_mult=width / 64),
    "VGG": vgg,
    "ViT": vit,
    "ConvNeXt": convnext,
    "WRN": lambda width: WideResNet(10, width // 16, num_classes=3),
}


@pytest.fixture(scope="module")
def pairs() -> Callable[[str], tuple[nn.Module, nn.Module]]:
    """Makes a teacher and a student of a family; each network is drawn once."""
    torch.manual_seed(0)
    made = {name: (family(32), family(16)) for name, family in FAMILIES.items()}
    return lambda name: copy.deepcopy(made[name])


def is_quick(name: str, kind: str, family: str) -> bool:
    """The paper's methods everywhere; the others alone, with a family of each kind of last layers."""
    return name in PAPER or (kind == "alone" and family in ("ResNet", "ViT", "WRN"))


@pytest.mark.parametrize(
    ("name", "kind", "family"),
    [
        pytest.param(*each, marks=[] if is_quick(*each) else [pytest.mark.slow])
        for each in product(METHODS, KINDS, FAMILIES)
    ],
)
def test_it_trains_or_is_refused(pairs, name, kind, family) -> None:
    teacher, student = pairs(family)
    state = copy.deepcopy(student.state_dict())
    method = METHODS[name]()

    def attempt() -> dict[str, torch.Tensor]:
        return gradients(tmkd_module(teacher, student, distiller=method, **KINDS[kind]))

    if name in NEED_A_MAP and family in WITHOUT_MAP:
        why = f"{type(method).__name__} reads feature_map, but"
    elif (family, name) in TOO_SMALL:
        why = f"maps of 1x1 cannot be pooled to {TOO_SMALL[family, name]}"
    else:
        found = attempt()
        assert all(gradient.isfinite().all() for gradient in found.values()), name
        within = "extractor.network.network." if name == "simkd" else "extractor.network."
        assert found[within + next(iter(dict(student.named_parameters())))].abs().sum() > 0
        return
    with pytest.raises(ValueError, match=why) as caught:
        attempt()
    assert "\n" not in str(caught.value)
    weights = dict(student.named_parameters())
    assert all(value.equal(state[key]) for key, value in weights.items())


def gradients(module: TMKDModule) -> dict[str, torch.Tensor]:
    """Of the first training step, by parameter."""
    module.log = module.log_dict = lambda *args, **kwargs: None
    if module.prompt_bank is not None:
        module.prompt_bank.fill(
            *(torch.randn_like(part) for part in (module.prompt_bank.embeddings, module.prompt_bank.anchors))
        )
    module.verify_networks(IMAGE)
    module.training_step((IMAGE, LABEL), 0).backward()
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert all(parameter.grad is not None for parameter in trained.values())
    return {name: parameter.grad for name, parameter in trained.items()}
