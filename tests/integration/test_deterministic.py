"""What a step asks of a GPU: no operation that torch refuses with `deterministic=True`, and nothing to wait for."""

import collections
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.golden_values import Operations
from helpers.methods import METHODS
from helpers.tiny import tmkd_module
from helpers.waiting import Reads, Waits
from tmkd_lightning import ClassifierModule, TMKDModule
from tmkd_lightning.distillers import CATKD
from tmkd_lightning.models import resnet18, resnet50, shufflenet_v2, vgg8, wrn_16_2
from tmkd_lightning.views import edge

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
    module = tmkd_module(net(16), net(), distiller=method and method(), **KINDS[kind])
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
        return tmkd_module(net(16), net(), distiller=method and method(), **KINDS[kind])

    check_repeats(make, lambda module: fit(module, callbacks=[prompts()], precision=precision, **ON_GPU))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_teachers_on_views_repeat_on_a_gpu(net, fit) -> None:
    def make() -> ClassifierModule:
        return ClassifierModule(net(), views=["rgb", "edge", "high_frequency"], view_shares=[0.4, 0.3, 0.3])

    check_repeats(make, lambda module: fit(module, **ON_GPU))


# Nothing is read back on the host


class Watch(Callback):
    """Watches every training step, its backward pass and the optimizer's step."""

    def __init__(self) -> None:
        self.steps: list[Waits] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.steps.append(Waits())
        self.modes = self.steps[-1], Reads(self.steps[-1].seen)
        for mode in self.modes:
            mode.__enter__()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        for mode in reversed(self.modes):
            mode.__exit__(None, None, None)


def waits(module: Any, fit: Any, **options: Any) -> collections.Counter[str]:
    watch = Watch()
    fit(module, callbacks=[watch, *options.pop("callbacks", [])], max_epochs=1, **options)
    assert len(watch.steps) > 1
    return sum((step.seen for step in watch.steps[1:]), collections.Counter())  # the first one confirms the networks


sgd = partial(torch.optim.SGD, lr=0.01, momentum=0.9)


def test_what_would_wait_is_seen() -> None:
    with Waits() as watch:
        value = torch.arange(3)
        assert value.max().item() == 2
        value[value > 1] += 1
        assert not value.equal(value + 1)
    assert watch.seen == {"_local_scalar_dense": 1, "index": 1, "index_put_": 1, "equal": 1}
    with Reads(collections.Counter()) as calls:
        assert value.tolist() == value.numpy().tolist() == value.cpu().tolist()
    assert calls.seen == {"tolist": 2, "numpy": 1, "cpu": 1}


@pytest.mark.parametrize("objective", ["label", "distillation"])
@pytest.mark.parametrize("method", WITHOUT_AND_WITH.values())
def test_no_step_waits(net, prompts, fit, method, objective) -> None:
    distiller = method and (CATKD(resolution=1) if method is CATKD else method())
    options = {"views": ["rgb", edge(rounds=8), "high_frequency"], "text_negatives": None if method else 1}
    module = tmkd_module(net(16), net(), distiller=distiller, fusion_objective=objective, optimizer=sgd, **options)
    assert not waits(module, fit, callbacks=[prompts()])


def test_exact_edges_look_at_the_device_and_nothing_else_does(net, prompts, fit) -> None:
    """Whether edges still grow is known on the device alone; a bounded number of rounds does not ask."""
    seen = waits(tmkd_module(net(16), net(), optimizer=sgd), fit, callbacks=[prompts()])
    assert set(seen) == {"index"}  # by the mask of the images whose edges grow


def test_training_on_views_draws_them_on_the_host(net, fit) -> None:
    """The rows of each view are found on the host's own draw: that waits for nothing, and is all there is."""
    module = ClassifierModule(net(), views=["rgb", edge(rounds=8)], optimizer=sgd)
    assert set(waits(module, fit)) <= {"nonzero"}
