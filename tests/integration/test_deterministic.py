"""`deterministic=True` on a GPU: no step needs an operation that torch refuses there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.golden_values import Operations
from helpers.methods import METHODS
from tmkd_lightning import ClassifierModule, TMKDModule
from tmkd_lightning.models import resnet18, resnet50, shufflenet_v2, vgg8, wrn_16_2

WITHOUT_AND_WITH = {"none": None, **METHODS}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"views": ["rgb"], "feature_weight": 0, "logit_weight": 1, "text_weight": 0},
    "label": {"fusion_objective": "label"},
    "distillation": {"fusion_objective": "distillation"},
}
# What torch.use_deterministic_algorithms says of CUDA: these raise. NLLLoss does for maps of labels alone.
BACKWARD = """
    adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d avg_pool3d fractional_max_pool2d
    fractional_max_pool3d grid_sampler_2d grid_sampler_3d reflection_pad1d reflection_pad2d reflection_pad3d
    upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_trilinear3d
"""
REFUSED = {"bincount", "histc", "max_unpool2d", "max_unpool3d", "median.dim", "nll_loss2d_forward", "put_"}
REFUSED |= {f"{name}_backward" for name in BACKWARD.split()}


def refused(step: Callable[[], Any]) -> set[str]:
    """Names of the operations of a step that torch would refuse."""
    with Operations() as operations:
        step()
    names = {name.removeprefix("aten::") for name in operations.names}
    assert any(name.endswith("_backward") for name in names)
    return names & REFUSED


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", WITHOUT_AND_WITH)
def test_no_method_needs_what_torch_refuses(net, fit, prompts, name: str, kind: str) -> None:
    method = WITHOUT_AND_WITH[name]
    module = TMKDModule(net(16), net(), distiller=method and method(), **KINDS[kind])
    assert refused(lambda: fit(module, callbacks=[prompts()], max_epochs=1, limit_train_batches=1)) == set()


@pytest.mark.parametrize("build", [resnet18, resnet50, shufflenet_v2, vgg8, wrn_16_2])
@pytest.mark.parametrize("size", [32, 64])
def test_no_network_needs_what_torch_refuses(build: Callable[..., nn.Module], size: int) -> None:
    network = build(num_classes=3)
    image, label = torch.rand(2, 3, size, size), torch.tensor([0, 2])
    assert refused(lambda: F.cross_entropy(network(image), label).backward()) == set()


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (lambda image: F.adaptive_avg_pool2d(image, 2), "_adaptive_avg_pool2d_backward"),
        (lambda image: F.interpolate(image, scale_factor=2, mode="bilinear"), "upsample_bilinear2d_backward"),
        (lambda image: F.pad(image, (1, 1, 1, 1), "reflect"), "reflection_pad2d_backward"),
    ],
)
def test_what_torch_refuses_is_noticed(operation: Callable[[Tensor], Tensor], expected: str) -> None:
    image = torch.rand(1, 3, 8, 8, requires_grad=True)
    assert refused(lambda: operation(image).sum().backward()) == {expected}


ON_GPU = {"accelerator": "gpu", "devices": 1, "deterministic": True}


def check_repeats(make: Callable[[], nn.Module], train: Callable[[nn.Module], Any]) -> None:
    ends = []
    for _ in range(2):
        torch.manual_seed(0)
        module = make()
        train(module)
        ends.append(module.state_dict())
    assert [name for name, tensor in ends[0].items() if not tensor.equal(ends[1][name])] == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", WITHOUT_AND_WITH)
def test_runs_repeat_on_a_gpu(net, fit, prompts, name: str, kind: str, precision: str) -> None:
    method = WITHOUT_AND_WITH[name]

    def make() -> TMKDModule:
        return TMKDModule(net(16), net(), distiller=method and method(), **KINDS[kind])

    check_repeats(make, lambda module: fit(module, callbacks=[prompts()], precision=precision, **ON_GPU))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_teachers_on_views_repeat_on_a_gpu(net, fit) -> None:
    def make() -> ClassifierModule:
        return ClassifierModule(net(), views=["rgb", "edge", "high_frequency"], view_shares=[0.4, 0.3, 0.3])

    check_repeats(make, lambda module: fit(module, **ON_GPU))
