"""A teacher without a fitted head: embeddings are read, and what would read its logits is refused."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from helpers.tiny import Net, make_images, sgd, tmkd_module
from tmkd_lightning.distillers import AT, CATKD, KD, NST, PKT, RKD, SP, Distiller, QueueKL, Sum, VkD, WarmUp
from tmkd_lightning.models import Probe

EMBEDDINGS_ALONE: dict[str, Any] = {"fusion": "mean", "logit_weight": 0, "text_weight": 0}


def headless(width: int = 16) -> Probe:
    network = Net(width)
    network.fc = nn.Identity()
    return Probe(network)


@pytest.mark.parametrize("method", [RKD, SP, QueueKL])
def test_methods_that_read_embeddings_train(net, fit, loader, caplog, method) -> None:
    """Beside L_feat, on the mean of the views; nobody measures a teacher that knows no classes."""
    caplog.set_level(logging.INFO)
    module = tmkd_module(headless(), net(), distiller=method(), optimizer=sgd, **EMBEDDINGS_ALONE)
    assert module.teacher.extractor.num_classes == 3  # the student's
    trainer = fit(module, val=loader(), max_epochs=1)
    name = {RKD: "rkd", SP: "sp", QueueKL: "queue_kl"}[method]
    assert trainer.logged_metrics[f"train/{name}"] > 0
    assert trainer.logged_metrics["train/feature"] > 0
    assert "Teacher Probe(Net) was not measured: it has no fitted head" in caplog.text


@pytest.mark.parametrize("method", [PKT(), AT(), NST(), VkD(), WarmUp(RKD()), WarmUp(Sum(QueueKL(), RKD()))])
def test_more_methods_that_read_no_logits_train(net, fit, method) -> None:
    module = tmkd_module(headless(), net(), distiller=method, optimizer=sgd, **EMBEDDINGS_ALONE)
    logged = fit(module, max_epochs=1).logged_metrics
    terms = {"PKT": ["pkt"], "AT": ["at"], "NST": ["nst"], "VkD": ["vkd"], "RKD": ["rkd"]}
    for name in terms.get(method.method_name, ["queue_kl", "rkd"]):
        assert logged[f"train/{name}"] > 0


class ReadsBoth(Distiller):
    """Of somebody who knows nothing of heads that are not fitted."""

    reads = frozenset({"embedding"})

    def forward(self, student: Any, teacher: Any, label: Tensor) -> dict[str, Tensor]:
        return {"both": (student.logits - teacher.logits).square().mean()}


@pytest.mark.parametrize(
    ("options", "readers"),
    [
        ({"distiller": RKD(), "logit_weight": None}, "KD"),
        ({"distiller": [RKD(), KD()]}, "KD"),
        ({"distiller": CATKD()}, "CATKD"),
        ({"distiller": ReadsBoth()}, "ReadsBoth"),
        ({"distiller": [RKD(), WarmUp(KD())]}, "KD"),
        ({"distiller": RKD(), "fusion": "text"}, "fusion='text'"),
    ],
)
def test_readers_of_logits_are_refused(net, fit, prompts, options, readers) -> None:
    module = tmkd_module(headless(), net(), optimizer=sgd, **{**EMBEDDINGS_ALONE, **options})
    before = [parameter.clone() for parameter in module.student.parameters()]
    with pytest.raises(
        ValueError, match=rf"^{readers} would read the logits of Probe\(Net\), which has no fitted head"
    ):
        fit(module, callbacks=[prompts()])
    assert all(old.equal(new) for old, new in zip(before, module.student.parameters(), strict=True))


def test_a_head_that_is_fitted_may_be_read(net, fit) -> None:
    teacher = headless()
    module = tmkd_module(teacher, net(), distiller=KD(), optimizer=sgd, **EMBEDDINGS_ALONE)
    nn.init.normal_(teacher.head.weight)
    assert fit(module, max_epochs=1).logged_metrics["train/kd"] > 0


def unlabelled(images: int = 12) -> DataLoader[Any]:
    return DataLoader([(image, -1) for image, _ in make_images(images)], batch_size=6)


def test_images_without_labels(net, fit) -> None:
    """Nothing stands in for a label, unless nothing asks for one."""
    alone = {**EMBEDDINGS_ALONE, "distiller": QueueKL(), "optimizer": sgd}
    with pytest.raises(ValueError, match="but the teacher has no fitted head whose answer could stand in for it"):
        fit(tmkd_module(headless(), net(), **alone), train=unlabelled())
    trainer = fit(tmkd_module(headless(), net(), ce_weight=0, **alone), train=unlabelled(), max_epochs=1)
    assert trainer.logged_metrics["train/ce"] == 0
    assert trainer.logged_metrics["train/queue_kl"] > 0


class Five(LightningDataModule):
    num_classes = 5

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(make_images(12), batch_size=6)


def test_classes_of_the_data(net, fit) -> None:
    module = tmkd_module(headless(), net(), distiller=RKD(), num_classes="data", optimizer=sgd, **EMBEDDINGS_ALONE)
    fit(module, datamodule=Five(), max_epochs=1)
    assert module.teacher.extractor.num_classes == module.num_classes == 5
    assert not torch.any(module.teacher.extractor.head.weight)
