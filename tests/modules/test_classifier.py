"""Training one classifier: on which view each image is seen, what is measured, what is saved."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from sklearn.metrics import recall_score, top_k_accuracy_score
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from helpers.tiny import make_images, tmkd_module
from tmkd_lightning import ClassifierModule, View
from tmkd_lightning.models import load_weights
from tmkd_lightning.modules.optimizers import learning_rate_factor

NEGATIVE = View("negative", lambda image: 1 - image, "a negative of a {class}")


def shade(value: float) -> View:
    return View(f"shade{round(value * 10)}", lambda image: torch.full_like(image, value), "a shade of {class}")


def test_each_image_is_seen_in_one_view_by_its_share(net) -> None:
    module = ClassifierModule(net(), views=[shade(0.1), shade(0.9)], view_shares=[0.25, 0.75])
    seen = module.random_view(torch.rand(4000, 3, 2, 2))[0]
    assert all(len(image.unique()) == 1 for image in seen[:50])  # one view an image, never a mixture
    assert (seen[:, 0, 0, 0] > 0.5).float().mean().item() == pytest.approx(0.75, abs=0.03)


def test_views_land_on_the_images_they_were_made_from(net) -> None:
    module = ClassifierModule(net(), views=["rgb", NEGATIVE])
    image = torch.rand(32, 3, 4, 4)
    kinds = set()
    for one, other in zip(module.random_view(image)[0], image, strict=True):
        assert one.equal(other) or one.equal(1 - other)
        kinds.add(one.equal(other))
    assert kinds == {True, False}  # both views were drawn


@pytest.mark.parametrize("shares", [[1.0], [0.5, 0.0], [0.5, -0.5], [float("nan"), 1.0], [float("inf"), 1.0]])
def test_shares_that_do_not_fit_are_refused(net, shares) -> None:
    with pytest.raises(ValueError, match="view_shares must be 2 positive numbers"):
        ClassifierModule(net(), views=["rgb", "edge"], view_shares=shares)


@pytest.mark.filterwarnings("ignore:Total length of .* across ranks is zero")
def test_batches_that_cannot_be_trained_on(net, fit, loader) -> None:
    message = "there is no training batch: the training set is empty, or limit_train_batches"
    with pytest.raises(ValueError, match=message):
        fit(ClassifierModule(net()), train=DataLoader([], batch_size=4))
    with pytest.raises(TypeError, match=r"expected a batch .* override unpack"):
        fit(ClassifierModule(net()), train=CombinedLoader([loader(), loader()], "min_size"))


def test_metrics_are_those_of_scikit_learn(fit, loader) -> None:
    """Eight classes, so that top-5 says something; labels 0..2 only, so that recall must skip absent classes."""
    network = nn.Sequential(OrderedDict(flat=nn.Flatten(), fc=nn.Linear(192, 8)))
    module = ClassifierModule(network, class_names=range(8))
    assert module.class_names == list("01234567")
    trainer = fit(module, val=loader(seed=1), max_epochs=1)
    image, label = next(iter(loader(seed=1, batch_size=24)))
    scores = module.eval()(image).detach().numpy()
    got = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert got["val/top1"] == pytest.approx((scores.argmax(1) == label.numpy()).mean())
    assert got["val/top5"] == pytest.approx(top_k_accuracy_score(label, scores, k=5, labels=range(8)))
    recall = recall_score(label, scores.argmax(1), average="macro", zero_division=0)
    assert got["val/recall"] == pytest.approx(recall)
    assert got["val/loss"] == pytest.approx(nn.functional.cross_entropy(module(image), label).item(), rel=1e-5)


def test_the_step_is_the_cross_entropy_of_what_is_seen(net) -> None:
    module = ClassifierModule(net(), views=[NEGATIVE])
    module.log = module.log_dict = lambda *args, **kwargs: None  # no trainer to log to
    image, label = torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    probability = module.extractor(1 - image).logits.softmax(1)[torch.arange(6), label]
    expected = -probability.log().mean().item()
    assert module.training_step((image, label), 0).item() == pytest.approx(expected, rel=1e-5)


def test_its_checkpoint_is_a_teacher(net, fit, tmp_path) -> None:
    module = ClassifierModule(net(16))
    fit(module, max_epochs=1).save_checkpoint(tmp_path / "teacher.ckpt")
    state = torch.load(tmp_path / "teacher.ckpt", weights_only=True)["state_dict"]
    assert {key.split(".")[0] for key in state} == {"network", "extractor"}  # weights, and the statistics

    again = net(16)
    load_weights(again, tmp_path / "teacher.ckpt")
    taught = tmkd_module(
        net(16), net(), views=["rgb"], text_weight=0, teacher_checkpoint=str(tmp_path / "teacher.ckpt")
    )
    fit(taught, max_steps=1)
    for network in (again, taught.teacher.extractor.network):
        pairs = zip(network.state_dict().values(), module.network.state_dict().values(), strict=True)
        assert all(one.equal(other) for one, other in pairs)


def test_default_schedule_warms_up_and_decays() -> None:
    """At 12 steps for the paper's 120 epochs: half a step of warm-up; at 240: ten steps."""
    rates = [learning_rate_factor(step, 240) for step in (0, 4, 9, 10, 149, 150, 180, 210, 239)]
    assert rates == pytest.approx([0.1, 0.5, 1, 1, 1, 0.1, 0.01, 0.001, 0.001])
    assert [learning_rate_factor(step, 12) for step in (0, 7, 8)] == pytest.approx([1, 1, 0.1])


class Stream(IterableDataset):
    def __iter__(self):
        return iter(make_images(12))


class Stop(Callback):
    def on_train_batch_end(self, trainer, *_) -> None:
        trainer.should_stop = trainer.global_step >= 6


def test_runs_of_unknown_length_keep_the_rate(net, fit) -> None:
    """Lightning counts -1 steps there, of which a schedule would make rates below 0."""
    endless, streamed = ClassifierModule(net()), ClassifierModule(net())
    fit(endless, max_epochs=-1, callbacks=[Stop()])
    with pytest.warns(UserWarning, match="have no length, so the learning rate stays as it is"):
        fit(streamed, train=DataLoader(Stream(), batch_size=6))
    assert endless.lr_schedulers().get_last_lr() == streamed.lr_schedulers().get_last_lr() == [0.001]
