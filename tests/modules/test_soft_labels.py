"""Labels that are distributions, mixed or missing; students that see views."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import CutMix, MixUp

from helpers.methods import METHODS, NEED_A_CLASS
from helpers.tiny import make_images, sgd, tmkd_module
from tmkd_lightning import ClassifierModule, TMKDModule, View
from tmkd_lightning.callbacks import TeacherCache
from tmkd_lightning.distillers import DKD, KD, NKD, RKD, SDD, WarmUp
from tmkd_lightning.losses import cross_entropy, text_contrast
from tmkd_lightning.modules.metrics import classification_metrics

IMAGES = torch.rand(6, 3, 8, 8)
CLASSES = torch.tensor([0, 1, 2, 0, 1, 2])
ONE_HOT = F.one_hot(CLASSES, 3).float()


def ready(net, **options) -> TMKDModule:
    """A module outside of a trainer, its losses kept in `logged_losses`."""
    torch.manual_seed(1)
    module = tmkd_module(net(16), net(), **{"text_dim": 16, **options})
    module.log = module.log_dict = lambda *args, **kwargs: None
    if module.prompt_bank is not None:
        shape = module.prompt_bank.embeddings.shape
        module.prompt_bank.fill(torch.randn(shape), torch.randn(shape[1:]))
    return module


def step(module: TMKDModule, labels, images=IMAGES) -> dict[str, torch.Tensor]:
    """Loss terms and gradients of one step."""
    torch.manual_seed(2)
    module.logged_losses.clear()
    module.zero_grad()
    before = copy.deepcopy(module.distiller.state_dict())
    module.training_step(images if labels is None else (images, labels), 0).backward()
    module.distiller.load_state_dict(before)  # a queue has moved on
    grads = {name: one.grad.clone() for name, one in module.named_parameters() if one.grad is not None}
    return {**module.logged_losses, **grads}


@pytest.mark.parametrize("classes", [3, 9])  # fewer classes than images, and more
@pytest.mark.parametrize("objective", ["label", "distillation"])
@pytest.mark.parametrize("method", [None, *(name for name in METHODS if name not in NEED_A_CLASS)])
def test_one_hot_rows_are_classes_bit_for_bit(net, method, objective, classes) -> None:
    distiller = None if method is None else METHODS[method]()
    networks = lambda width=8: net(width, classes)  # noqa: E731
    module = ready(networks, distiller=distiller, fusion_objective=objective)
    hard, soft = step(module, CLASSES), step(module, F.one_hot(CLASSES, classes).float())
    assert hard.keys() == soft.keys()
    assert len(hard) > 8
    for name, value in hard.items():
        assert value.equal(soft[name]), name


def test_losses_are_linear_in_the_label_where_they_should_be(net) -> None:
    """CE, text contrast and the label objective of the fusion at fixed view weights."""
    module = ready(net, fusion="mean")
    other = F.one_hot((CLASSES + 1) % 3, 3).float()
    one, two, both = (step(module, labels) for labels in (ONE_HOT, other, 0.3 * ONE_HOT + 0.7 * other))
    for name in ("ce", "text"):
        assert both[name].item() == pytest.approx(0.3 * one[name].item() + 0.7 * two[name].item(), rel=1e-5)


def test_soft_labels_against_a_slow_loop(net) -> None:
    module = ready(net, fusion_objective="label")
    labels = torch.rand(6, 3).softmax(1)
    got = step(module, labels)
    weights_of_class = module.teacher.weight_net(module.prompt_bank.concat_views()).detach()
    views = [module.teacher.frozen(view(IMAGES)).logits for view in module.views.views]
    logits = module.student_extractor(IMAGES).logits.detach()
    ce = fusion = kl = 0.0
    for i in range(6):
        w = sum(labels[i, k] * weights_of_class[k] for k in range(3))
        fused = sum(w[v] * views[v][i] for v in range(3))
        ce -= sum(labels[i, k] * logits[i].log_softmax(0)[k] for k in range(3)).item() / 6
        fusion -= sum(labels[i, k] * fused.log_softmax(0)[k] for k in range(3)).item() / 6
        p, q = (fused / 4).softmax(0), (logits[i] / 4).softmax(0)
        kl += 16 * (p * (p / q).log()).sum().item() / 6
    assert got["ce"].item() == pytest.approx(ce, rel=1e-5)
    assert got["fusion"].item() == pytest.approx(fusion, rel=1e-5)
    assert got["logit"].item() == pytest.approx(kl, rel=1e-4)


@pytest.mark.parametrize("kind", ["none", "some", "rows"])
def test_a_missing_label_is_the_teachers_answer_to_the_plain_image(net, kind) -> None:
    module = ready(net, distiller=KD())
    answer = module.teacher.frozen(IMAGES).logits.softmax(1)
    if kind == "none":
        given, meant = None, answer
    else:
        given = CLASSES.clone() if kind == "some" else ONE_HOT.clone()
        given[[1, 4]] = -1
        meant = ONE_HOT.clone()
        meant[[1, 4]] = answer[[1, 4]]
    got, expected = step(module, given), step(module, meant)
    for name, value in expected.items():
        assert torch.allclose(got[name], value, rtol=1e-5, atol=1e-7), name


def test_sampled_negatives_hide_no_class_that_a_label_has(net) -> None:
    module = ready(lambda width=8: net(width, 9), text_negatives=2)
    hard = step(module, CLASSES)
    soft = step(module, F.one_hot(CLASSES, 9).float())
    assert soft["text"].item() == pytest.approx(hard["text"].item(), rel=1e-6)
    all_classes = ready(lambda width=8: net(width, 9))
    assert step(module, torch.full((6, 9), 1 / 9))["text"].item() == pytest.approx(
        step(all_classes, torch.full((6, 9), 1 / 9))["text"].item(), rel=1e-6
    )


def test_excluded_classes_leave_gradients_finite() -> None:
    student = torch.randn(2, 4, requires_grad=True)
    excluded = torch.tensor([False, False, True])
    text_contrast(student, torch.randn(3, 4), torch.tensor([[0.5, 0.5, 0.0]] * 2), 0.1, excluded).backward()
    assert student.grad.isfinite().all()


class Picky(KD):
    needs_class = True


@pytest.mark.parametrize(
    ("options", "labels", "message"),
    [
        ({"distiller": Picky()}, ONE_HOT, "distributions, but Picky needs one class for each image"),
        ({"distiller": DKD()}, ONE_HOT, "distributions, but DKD needs one class for each image"),
        ({"distiller": [RKD(), WarmUp(SDD(NKD()))]}, ONE_HOT, "distributions, but SDD needs one class"),
        ({"distiller": Picky()}, CLASSES - 1, r"without a label \(None or -1\), but Picky needs one class"),
        ({"views": ["edge"]}, CLASSES - 1, "the view rgb stands in for it, which views leaves out"),
        ({"logit_weight": 0, "feature_weight": 0}, None, "no term of the loss reads a teacher"),
        ({}, torch.full((6, 3), 0.5), "sums to 1.5"),
    ],
)
def test_labels_that_cannot_be_used_are_refused_on_the_host(net, options, labels, message) -> None:
    module = ready(net, **options)
    with pytest.raises(ValueError, match=message):
        module.on_before_batch_transfer(IMAGES if labels is None else (IMAGES, labels), 0)


def test_a_classifier_and_measuring_need_labels(net, fit, loader) -> None:
    unlabelled = [(image, -1) for image, _ in make_images(12)]
    with pytest.raises(
        ValueError, match=r"training batch has images without a label .* a classifier learns from labels"
    ):
        fit(ClassifierModule(net(), optimizer=sgd), train=DataLoader(unlabelled, 6))
    with pytest.raises(ValueError, match=r"validation batch has images without .* measuring needs the label of every"):
        fit(ClassifierModule(net(), optimizer=sgd), val=DataLoader(unlabelled, 6))


def test_mix_is_refused_where_it_cannot_work(net, tmp_path, fit, prompts) -> None:
    with pytest.raises(ValueError, match="mix makes labels that are distributions, but Picky needs one class"):
        tmkd_module(net(), net(), distiller=Picky(), mix=MixUp(num_classes=3))
    with pytest.raises(TypeError, match="mix must be a function"):
        tmkd_module(net(), net(), mix=0.2)
    module = tmkd_module(net(), net(), mix=MixUp(num_classes=3), optimizer=sgd)
    with pytest.raises(ValueError, match="mix makes new ones at every step"):
        fit(module, callbacks=[prompts(), TeacherCache(str(tmp_path))])
    for wrong, message in (
        (lambda images, labels: images, "must return images and labels"),
        (lambda images, labels: (images, labels), r"float labels \(6, 3\), got .* of torch.int64"),
        (lambda images, labels: (images[:1], ONE_HOT), r"must return images \(6, 3, 8, 8\)"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            ready(net, mix=wrong).training_step((IMAGES, CLASSES), 0)


@pytest.mark.parametrize("mix", [MixUp(num_classes=3, alpha=0.4), CutMix(num_classes=3)])
def test_teacher_and_student_see_the_same_mixed_images(net, mix) -> None:
    module = ready(net, mix=mix, distiller=KD(), feature_weight=0)
    got = step(module, CLASSES)
    torch.manual_seed(2)
    images, labels = mix(IMAGES, CLASSES)
    module.mix = None
    expected = step(module, labels, images)
    for name, value in expected.items():
        assert torch.allclose(got[name], value, rtol=1e-4, atol=1e-6), name


def test_mixing_is_seeded_by_the_step_and_completes_missing_labels(net) -> None:
    module = ready(net, mix=MixUp(num_classes=3), distiller=KD(), feature_weight=0)
    missing = CLASSES.clone()
    missing[0] = -1
    assert step(module, missing)["ce"].equal(step(module, missing)["ce"])
    seen = {}
    module.mix = lambda images, labels: seen.setdefault("both", MixUp()(images, labels))
    got = step(module, missing)
    images, labels = seen["both"]
    assert labels.sum(1).min() < 1  # what is missing is not known before the teacher has seen the mixed image
    answer = module.teacher.frozen(images).logits.softmax(1)
    completed = labels + (1 - labels.sum(1, keepdim=True)) * answer
    logits = module.student_extractor(images).logits
    assert got["ce"].item() == pytest.approx(cross_entropy(logits, completed).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (lambda given: given, r"float labels \(6, 3\), got .* of torch.int64"),
        (lambda given: F.one_hot(given, 3) * 3.0, "sum to 1, got sums of 3 to 3"),
        (lambda given: torch.ones(len(given), 1), r"float labels \(6, 3\), got .* and \(6, 1\)"),
    ],
)
def test_what_mix_returns_is_checked_in_a_run(net, fit, labels, message) -> None:
    module = ClassifierModule(net(), mix=lambda images, given: (images, labels(given)), optimizer=sgd)
    with pytest.raises(ValueError, match=message):
        fit(module)
    assert module.trainer.global_step == 0


class OwnTransfer(LightningDataModule):
    """Has a transfer hook of its own, and labels for the first batch alone."""

    def on_before_batch_transfer(self, batch, dataloader_idx):
        return batch

    def train_dataloader(self) -> DataLoader:
        return DataLoader([(image, label if i < 6 else -1) for i, (image, label) in enumerate(make_images(12))], 6)


@pytest.mark.filterwarnings("ignore:You have overridden `on_before_batch_transfer` in both")
def test_missing_labels_behind_a_foreign_hook_are_refused_or_filled(net, fit) -> None:
    module = ClassifierModule(net(), optimizer=sgd)
    with pytest.raises(ValueError, match=r"without a label .* a classifier learns from labels"):
        fit(module, datamodule=OwnTransfer())
    assert module.trainer.global_step == 1
    distilled = tmkd_module(net(16), net(), distiller=KD(), text_weight=0, fusion="mean", optimizer=sgd)
    fit(distilled, datamodule=OwnTransfer())
    assert distilled.trainer.global_step == 4


def test_view_weights_of_soft_labels_are_not_rounded_under_autocast(net) -> None:
    module = ready(net)
    soft = torch.rand(6, 3).softmax(1)
    with torch.autocast("cpu", torch.bfloat16):
        hard, one_hot = module.teacher.view_weights(CLASSES), module.teacher.view_weights(ONE_HOT)
        sums = module.teacher.view_weights(soft).sum(1)
    assert one_hot.equal(hard)
    assert sums.tolist() == pytest.approx([1] * 6, abs=1e-6)


NEGATIVE = View("negative", lambda image: 1 - image, "a negative of a {class}")


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("target", ["fused", "same_view"])
def test_the_student_sees_one_view_and_learns_the_target(net, target, missing) -> None:
    module = ready(
        net, distiller=KD(), views=["rgb", NEGATIVE], fusion="mean", student_views=[NEGATIVE, "rgb"],
        student_view_shares=[0.7, 0.3], student_target=target, feature_weight=0, text_weight=0,
    )  # fmt: skip
    labels, completed = CLASSES.clone(), ONE_HOT.clone()
    if missing:  # then all views are run, and the one that was drawn is picked
        labels[0] = -1
        completed[0] = module.teacher.frozen(IMAGES).logits[0].softmax(0)
    got = step(module, labels)
    torch.manual_seed(2)
    drawn = torch.multinomial(torch.tensor([0.7, 0.3]), 6, replacement=True)
    assert 0 < drawn.sum() < 6
    seen = torch.stack([1 - image if one == 0 else image for image, one in zip(IMAGES, drawn, strict=True)])
    plain, negative = (module.teacher.frozen(images).logits for images in (IMAGES, 1 - IMAGES))
    of_view = torch.stack([negative[i] if one == 0 else plain[i] for i, one in enumerate(drawn)])
    logits = module.student_extractor(seen).logits
    teacher = of_view if target == "same_view" else (plain + negative) / 2
    kd = 16 * F.kl_div((logits / 4).log_softmax(1), (teacher / 4).softmax(1), reduction="batchmean").item()
    assert got["kd"].item() == pytest.approx(kd, rel=1e-4)
    assert got["ce"].item() == pytest.approx(F.cross_entropy(logits, completed).item(), rel=1e-5)


def test_same_view_runs_the_teacher_once_an_image(net) -> None:
    module = ready(net, student_views=["rgb", "edge"], student_target="same_view", feature_weight=0)
    images = []
    module.teacher.extractor.network.register_forward_pre_hook(lambda _, args: images.append(len(args[0])))
    module.teacher.extractor.confirm(IMAGES)
    images.clear()
    step(module, CLASSES)
    assert sum(images) == 6
    assert module.teacher.weight_net is None  # nothing is fused
    step(module, CLASSES - 1)  # one lacks a label, for which the plain image is needed too
    assert sum(images) == 6 + 18


def test_a_view_that_the_teacher_lacks_has_no_answer(net) -> None:
    with pytest.raises(ValueError, match=r"needs the teacher's answer to \['negative'\], which views leaves out"):
        tmkd_module(net(), net(), student_views=["rgb", NEGATIVE], student_target="same_view")
    with pytest.raises(ValueError, match="student_view_shares must be 2 positive numbers"):
        tmkd_module(net(), net(), student_views=["rgb", "edge"], student_view_shares=[1.0, 0.0])


def test_a_missing_label_makes_no_number_where_it_is_measured(net) -> None:
    """Behind a transfer hook of a datamodule; else it is refused on the host."""
    module = ready(net)
    logged = {}
    module.log = lambda name, metric, **_: logged.setdefault(name, metric)
    missing = ONE_HOT.clone()
    missing[2] = -1
    module.val_metrics.log(module, torch.randn(6, 3), missing)
    assert {name: metric.compute().isnan().item() for name, metric in logged.items()} == dict.fromkeys(
        ["val/loss", "val/top1", "val/top5", "val/recall"], True
    )


def test_soft_labels_are_measured_by_their_shares() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 2.0]])
    labels = torch.tensor([[0.6, 0.4, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0]])
    metrics = classification_metrics(3)
    metrics.update(logits, labels)
    got = {name: value.item() for name, value in metrics.compute().items()}
    assert got["top1"] == pytest.approx((0.6 + 1.0 + 0.0) / 3)
    assert got["recall"] == pytest.approx((0.6 / 1.1 + 1.0 / 1.9 + 0) / 3)
    assert got["loss"] == pytest.approx(-(labels * logits.log_softmax(1)).sum().item() / 3)
    hard, soft = classification_metrics(3), classification_metrics(3)
    classes = torch.tensor([2, 1, 0])
    hard.update(logits, classes)
    soft.update(logits, F.one_hot(classes, 3).float())
    assert {name: one.item() for name, one in hard.compute().items()} == {
        name: one.item() for name, one in soft.compute().items()
    }
