"""A training step asks the device to work and never waits for it: nothing is read back on the host."""

from __future__ import annotations

import collections
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from helpers.methods import METHODS
from helpers.waiting import Reads, Waits
from tmkd_lightning import ClassifierModule, TMKDModule
from tmkd_lightning.distillers import CATKD
from tmkd_lightning.views import edge


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
@pytest.mark.parametrize("method", [None, *METHODS.values()])
def test_no_step_waits(net, prompts, fit, method, objective) -> None:
    module = TMKDModule(
        net(16),
        net(),
        distiller=method and (CATKD(resolution=1) if method is CATKD else method()),
        views=["rgb", edge(rounds=8), "high_frequency"],
        fusion_objective=objective,
        text_negatives=None if method else 1,
        optimizer=sgd,
    )
    assert not waits(module, fit, callbacks=[prompts()])


def test_exact_edges_look_at_the_device_and_nothing_else_does(net, prompts, fit) -> None:
    """Whether edges still grow is known on the device alone; a bounded number of rounds does not ask."""
    seen = waits(TMKDModule(net(16), net(), optimizer=sgd), fit, callbacks=[prompts()])
    assert set(seen) == {"index"}  # by the mask of the images whose edges grow


def test_training_on_views_draws_them_on_the_host(net, fit) -> None:
    """The rows of each view are found on the host's own draw: that waits for nothing, and is all there is."""
    module = ClassifierModule(net(), views=["rgb", edge(rounds=8)], optimizer=sgd)
    assert set(waits(module, fit)) <= {"nonzero"}
