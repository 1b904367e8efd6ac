"""Networks whose logits are not those of one linear layer: methods that read logits train with them, others say so."""

import copy
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.tiny import Net, sgd, tmkd_module
from tmkd_lightning import ClassifierModule, Extractor
from tmkd_lightning.callbacks import TeacherCache
from tmkd_lightning.data import DigitsDataModule
from tmkd_lightning.distillers import CATKD, KD, RKD, SP, TeKAP
from tmkd_lightning.feature_extraction.output import MissingPartError
from tmkd_lightning.teacher.frozen import FrozenTeacher
from tmkd_lightning.teacher.fusion import fuse

ALONE = {"views": ["rgb"], "feature_weight": 0, "text_weight": 0}


class Ensemble(nn.Module):
    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.all = nn.ModuleList(Net(num_classes=num_classes) for _ in range(2))

    def forward(self, image: Tensor) -> Tensor:
        return sum(one(image) for one in self.all) / len(self.all)


class Convolutional(nn.Module):
    """CAT-KD's own ending."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.body(image).relu()).mean((2, 3))


class ZeroShot(nn.Module):
    """CLIP: cosines with the texts; its last linear layer is as wide as the texts, not as there are classes."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 16))
        self.register_buffer("texts", F.normalize(torch.randn(3, 16), dim=1))

    def forward(self, image: Tensor) -> Tensor:
        return 100 * F.normalize(self.tower(image), dim=1) @ self.texts.T


def distilled() -> nn.Module:
    sizes = {"img_size": 16, "patch_size": 8, "depth": 1, "embed_dim": 12, "num_heads": 2}
    return timm.create_model("deit_tiny_distilled_patch16_224", num_classes=3, **sizes)


NETWORKS = {"ensemble": Ensemble, "convolution": Convolutional, "zero-shot": ZeroShot, "distilled": distilled}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("teaches", [True, False])
def test_such_a_network_teaches_and_learns_and_the_target_is_what_the_teacher_says(fit, loader, name, teaches) -> None:
    teacher, student = (NETWORKS[name](), Net()) if teaches else (Net(16), NETWORKS[name]())
    module, seen = tmkd_module(teacher, student, distiller=KD(), optimizer=sgd, **ALONE), []
    module.distiller.register_forward_pre_hook(lambda _, args: seen.append(args[1].logits))
    before = copy.deepcopy(module.student.state_dict())
    trainer = fit(module, train=loader(size=16), val=loader(size=16), max_epochs=1)
    image, _ = next(iter(loader(size=16)))
    extractor = Extractor(copy.deepcopy(teacher).eval())
    with torch.no_grad():
        torch.testing.assert_close(seen[0], extractor.network(extractor.normalize(image)))
    assert module.teacher.extractor.num_classes == 3
    assert {"val/top1", "train/kd"} <= trainer.callback_metrics.keys()
    assert any(not value.equal(before[key]) for key, value in module.student.state_dict().items())


def test_views_are_fused_without_embeddings(fit, loader) -> None:
    module = tmkd_module(Ensemble(), Net(), distiller=KD(), fusion="mean", feature_weight=0, text_weight=0)
    fit(module, train=loader(size=16), max_epochs=1)
    image, label = (part[:2] for part in next(iter(loader(size=16))))
    image = image / 255
    fused = fuse(module.teacher.forward_views(image), module.teacher.view_weights(label))
    per_view = torch.stack([module.teacher.extractor(view(image)).logits for view in module.views.views])
    torch.testing.assert_close(fused.logits, per_view.mean(0))
    assert fused.embedding is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distiller": RKD()}, "RKD reads embedding, which Ensemble does not have: 'all.1.fc' was taken for the head"),
        ({"distiller": CATKD()}, "CATKD reads feature_map, which Ensemble does not have"),
        ({"distiller": SP()}, "SP reads feature_map, which Ensemble does not have"),
        ({"feature_weight": 1.0}, "FeatureKL reads embedding, which Ensemble does not have.*feature_weight=0"),
    ],
)
def test_what_reads_more_than_logits_says_what_it_lacks(fit, options, message) -> None:
    module = tmkd_module(Ensemble(), Net(), **{**ALONE, **options})
    with pytest.raises(MissingPartError, match=message):
        fit(module)


@pytest.mark.parametrize("name", NETWORKS)
def test_classes_of_such_a_network_are_not_put_in_order_by_halves(name) -> None:
    """The last linear layer of an ensemble is that of one of its networks."""
    extractor = Extractor(NETWORKS[name]())
    before = copy.deepcopy(extractor.state_dict())
    with pytest.raises(ValueError, match="cannot be put into another order"):
        extractor.reorder_classes([2, 0, 1])
    assert all(value.equal(before[key]) for key, value in extractor.state_dict().items())


def test_classes_are_put_in_order() -> None:
    extractor, image = Extractor(Net()).eval(), torch.rand(2, 3, 8, 8)
    before = extractor(image).logits
    extractor.reorder_classes([2, 0, 1])
    assert extractor(image).logits.equal(before[:, [2, 0, 1]])


def test_without_a_linear_layer_it_is_known_at_once() -> None:
    def network(classes: int = 3) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    with pytest.raises(MissingPartError, match="FeatureKL reads embedding, which Sequential does not have"):
        tmkd_module(network(), Net(), views=["rgb"], text_weight=0)
    with pytest.raises(MissingPartError, match="L_text reads embedding, which Sequential does not have"):
        tmkd_module(Net(), network(), views=["rgb"], feature_weight=0)
    assert ClassifierModule(network()).num_classes == 3
    for teacher in (Ensemble(4), network(4)):
        with pytest.raises(ValueError, match=r"has 4 classes, student Net has 3"):
            tmkd_module(teacher, Net(), distiller=KD(), **ALONE)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("method", [RKD, CATKD, TeKAP, None])
def test_a_teacher_of_another_precision_teaches(fit, loader, prompts, kind, method) -> None:
    """What it says differs from the same teacher's in float32 by rounding alone."""
    networks, losses = (Net(16), Net()), []
    for precision in (torch.float32, kind):
        torch.manual_seed(0)
        teacher, student = copy.deepcopy(networks)
        module = tmkd_module(teacher.to(precision), student, distiller=method and method(), optimizer=sgd)
        trainer = fit(module, train=loader(6), max_epochs=1, callbacks=[prompts()], log_every_n_steps=1)
        losses.append(trainer.logged_metrics["train/loss"].item())
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_cache_keeps_logits_where_there_is_no_head(fit, tmp_path, monkeypatch, dtype) -> None:
    """Filled, then read by a run in which the teacher does not run; in float32 as a run without a cache."""

    def train(*callbacks: Any) -> dict[str, Tensor]:
        torch.manual_seed(0)
        data = DigitsDataModule(train_samples=20, batch_size=8, image_size=16, augmentation_replicas=1)
        options = {**ALONE, "views": ["rgb", "edge"], "fusion": "mean", "optimizer": sgd}
        module = tmkd_module(Ensemble(10), Net(num_classes=10), distiller=KD(), **options)
        fit(module, datamodule=data, max_epochs=2, callbacks=list(callbacks), limit_val_batches=0)
        return module.student.state_dict()

    cache = tmp_path / "cache"
    runs = [train(TeacherCache(str(cache), dtype))] + ([train()] if dtype == "float32" else [])
    monkeypatch.setattr(FrozenTeacher, "forward", None)  # the teacher must not run
    read = train(TeacherCache(str(cache), dtype))
    assert all(value.equal(read[key]) for run in runs for key, value in run.items())
    assert list(cache.glob("*/logits.*.npy"))
    assert not list(cache.glob("*/head.npz"))


def test_a_scripted_teacher_teaches(fit, loader) -> None:
    """Its layers take no hooks, so it has logits alone."""
    teacher = torch.jit.trace(Net(16).eval(), torch.rand(2, 3, 16, 16))
    module = tmkd_module(teacher, Net(), distiller=KD(), optimizer=sgd, **ALONE)
    assert fit(module, train=loader(size=16), max_epochs=1).global_step == 4
    image = torch.rand(2, 3, 16, 16)
    output = module.teacher.frozen(image)
    torch.testing.assert_close(output.logits, teacher(module.teacher.extractor.normalize(image)))
    assert output.embedding is None


@pytest.mark.parametrize("method", [KD, CATKD])
def test_a_teacher_in_half_precision_beside_a_trainer_in_another(fit, loader, method) -> None:
    """Autocast would cast its images to bfloat16, which its weights in float16 do not take."""
    module = tmkd_module(Net(16).half(), Net(), distiller=method(), optimizer=sgd, **ALONE)
    fit(module, train=loader(), max_epochs=1, precision="bf16-mixed")
    assert module.teacher.frozen(torch.rand(2, 3, 8, 8)).logits.dtype == torch.float16
    network = Net().half()
    network.scale = nn.Parameter(torch.ones(()))  # wider than its layers, and the first of its parameters
    assert next(network.parameters()).dtype == torch.float32
    assert Extractor(network)(torch.rand(2, 3, 8, 8)).logits.dtype == torch.float16


def test_a_network_of_other_classes_than_it_seemed_is_refused_in_training(fit) -> None:
    class Fewer(Net):
        def forward(self, image: Tensor) -> Tensor:
            return super().forward(image)[:, :2]

    with pytest.raises(ValueError, match=r"Fewer gives 2 logits, but the module is one for 3 classes: .*num_classes=2"):
        fit(ClassifierModule(Fewer()))
    with pytest.raises(ValueError, match=r"Fewer gives 2 logits, but was taken for .* 3 classes: .*num_classes=2"):
        Extractor(Fewer(), num_classes=3)(torch.rand(2, 3, 8, 8))
    assert ClassifierModule(Fewer(), class_names=["a", "b"]).num_classes == 2
