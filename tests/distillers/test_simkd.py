"""SimKD through the Trainer: the head is the teacher's and stays, and all that reads the student takes its path."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from helpers.tiny import CLASSES, Net, make_images, tmkd_module
from tmkd_lightning import Extractor, TMKDModule
from tmkd_lightning.callbacks import TeacherAccuracyCheck, TeacherCache
from tmkd_lightning.cli.main import main as tmkd
from tmkd_lightning.data import DigitsDataModule
from tmkd_lightning.distillers import KD, Distiller, SimKD, Sum, WarmUp
from tmkd_lightning.models import Probe, WideResNet
from tmkd_lightning.models.reused_head import ReusedHead
from tmkd_lightning.modules.loading import load_module, load_student

ALONE: dict[str, Any] = {"views": ["rgb"], "ce_weight": 0, "feature_weight": 0, "logit_weight": 0, "text_weight": 0}
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.1)


def make(teacher: nn.Module | None = None, distiller: Distiller | None = None, **options: Any) -> TMKDModule:
    method = SimKD() if distiller is None else distiller
    options = {**ALONE, **options}
    return tmkd_module(Net(16) if teacher is None else teacher, Net(), distiller=method, optimizer=SGD, **options)


def head_of(module: TMKDModule) -> nn.Linear:
    assert isinstance(module.student, ReusedHead)
    return module.student.reused_head


def same(one: nn.Linear, other: nn.Linear) -> bool:
    return one.weight.equal(other.weight) and one.bias.equal(other.bias)


@pytest.mark.parametrize("distiller", [SimKD(), WarmUp(SimKD(), epochs=2), Sum(KD(), SimKD())])
def test_all_but_the_head_learns(fit, distiller) -> None:
    """Though the weight decay is large."""
    teacher = Net(16)
    expected, module = copy.deepcopy(teacher.fc), make(teacher, copy.deepcopy(distiller))
    before = {name: value.clone() for name, value in module.student.named_parameters()}
    trainer = fit(module)
    assert same(head_of(module), expected)
    moved = {name for name, value in module.student.named_parameters() if not value.equal(before[name])}
    assert moved == before.keys() - {"reused_head.weight", "reused_head.bias"}
    optimized = {id(value) for group in trainer.optimizers[0].param_groups for value in group["params"]}
    assert not optimized & {id(value) for value in head_of(module).parameters()}
    assert module.teacher.extractor.network is teacher


def test_with_tmkd_on_top_every_term_reads_the_projected_embedding(fit, prompts) -> None:
    module = make(views=["rgb", "edge"], feature_weight=1, logit_weight=1, text_weight=0.8)
    assert (module.student_extractor.embedding_dim, module.student_extractor.num_classes) == (16, 3)
    fit(module, callbacks=[prompts()])
    assert same(head_of(module), module.teacher.extractor.network.fc)


def test_accuracy_is_that_through_projector_and_teachers_head(fit, loader) -> None:
    module = make()
    trainer = fit(module, val=loader(seed=1))
    images, labels = (torch.stack([torch.as_tensor(one[place]) for one in make_images(24, seed=1)]) for place in (0, 1))
    student, teacher = module.student.eval(), module.teacher.extractor.network
    with torch.no_grad():
        normalized = module.student_extractor.normalize(images)
        maps = student.network.relu(student.network.bn(student.network.conv(normalized)))
        logits = student.projector(maps).mean((2, 3)) @ teacher.fc.weight.T + teacher.fc.bias
    assert trainer.callback_metrics["val/top1"].item() == pytest.approx((logits.argmax(1) == labels).double().mean())
    torch.testing.assert_close(module.eval()(images), logits)


def test_the_heads_weights_are_those_of_the_file_in_the_datas_order(fit, tmp_path, loader) -> None:
    """Among the teacher's classes are others, which the student does not learn."""
    trained = Net(16, num_classes=4)
    torch.save(trained.state_dict(), tmp_path / "teacher.pt")
    teacher = Extractor(Net(16, num_classes=4), class_names=["blue", "pink", "red", "green"])
    module = make(teacher, teacher_checkpoint=str(tmp_path / "teacher.pt"), class_names=CLASSES)
    with pytest.warns(UserWarning, match="knows 4 classes"):
        fit(module)
    rows = [2, 3, 0]
    assert head_of(module).weight.equal(trained.fc.weight[rows])
    assert head_of(module).bias.equal(trained.fc.bias[rows])


def test_resuming_is_exact(fit, tmp_path) -> None:
    """The checkpoint holds the head; the teacher's is the same in every run."""
    teacher, student = Net(16), Net()

    def run(epochs: int, resume: str | None = None) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        options = {"distiller": SimKD(), "optimizer": SGD, "lr_scheduler": constant, **ALONE}
        module = tmkd_module(copy.deepcopy(teacher), copy.deepcopy(student), **options)
        saver = ModelCheckpoint(tmp_path, filename=f"{epochs}", enable_version_counter=False)
        fit(module, callbacks=[saver], enable_checkpointing=True, max_epochs=epochs, ckpt_path=resume)
        return module.state_dict()

    run(1)
    whole, resumed = run(2), run(2, str(tmp_path / "1.ckpt"))
    assert whole.keys() == resumed.keys()
    assert all(value.equal(resumed[name]) for name, value in whole.items())
    saved = torch.load(tmp_path / "2.ckpt", weights_only=True)["state_dict"]
    assert saved["student.reused_head.weight"].equal(teacher.fc.weight)
    restored = TMKDModule.load_from_checkpoint(
        tmp_path / "2.ckpt", teacher=Net(16), student=Net(), distiller=SimKD(), weights_only=True
    )
    assert all(value.equal(whole[name]) for name, value in restored.state_dict().items())


def constant(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)


def test_a_complete_cache_has_the_head(fit, tmp_path) -> None:
    """The teacher's file is not read then."""
    trained = WideResNet(10, 2, 10)
    torch.save(trained.state_dict(), tmp_path / "teacher.pt")
    losses = []
    for _ in range(2):
        torch.manual_seed(2)
        teacher, student = WideResNet(10, 2, 10), WideResNet(10, 1, 10)
        options = {"teacher_checkpoint": str(tmp_path / "teacher.pt"), "optimizer": SGD, **ALONE}
        module = tmkd_module(teacher, student, distiller=SimKD(), **options)
        data = DigitsDataModule(train_samples=24, batch_size=12, image_size=16, augmentation_replicas=1)
        callbacks = [TeacherCache(str(tmp_path / "cache"), "float32"), TeacherAccuracyCheck(0)]
        trainer = fit(module, datamodule=data, callbacks=callbacks, max_epochs=1, limit_val_batches=0)
        losses.append(trainer.callback_metrics["train/loss"].item())
        assert same(head_of(module), trained.fc)
    first = next(iter(trained.state_dict()))
    assert not teacher.state_dict()[first].equal(trained.state_dict()[first])
    assert losses[0] == losses[1]


RUN = """
seed_everything: 0
trainer:
  max_epochs: 1
  limit_train_batches: 2
  limit_val_batches: 1.0
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
  logger: false
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {dirpath: runs, filename: last, enable_version_counter: false}
data:
  class_path: tmkd_lightning.data.DigitsDataModule
  init_args: {image_size: 16, train_samples: 100}
model:
  class_path: tmkd_lightning.TMKDModule
  init_args:
    num_classes: data
    teacher: {class_path: tmkd_lightning.models.WideResNet, init_args: {depth: 10, widen_factor: 2, num_classes: 10}}
    student: {class_path: tmkd_lightning.models.WideResNet, init_args: {depth: 10, num_classes: 4}}
    distiller: {class_path: tmkd_lightning.distillers.SimKD, init_args: {factor: 4}}
"""


def test_the_command_lines_checkpoint_is_the_whole_student(tmp_path, monkeypatch) -> None:
    """`load_student` serves export, predict and report; `load_module` figures."""
    settings = yaml.safe_load(RUN)
    settings["model"]["init_args"] |= ALONE
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(tmp_path)
    tmkd(["fit", "--config", "run.yaml"])
    path = Path("runs", "last.ckpt")
    state = torch.load(path, weights_only=True)["state_dict"]
    student, module = load_student(path).extractor, load_module(path)
    for network in (student.network, module.student):
        assert isinstance(network, ReusedHead)
        assert network.projector[0].out_channels == 32
        own = network.state_dict()
        assert own.keys() == {key.removeprefix("student.") for key in state if key.startswith("student.")}
        assert all(value.equal(state[f"student.{key}"]) for key, value in own.items())
    image = torch.rand(3, 3, 16, 16)
    assert student(image).logits.equal(module.eval()(image))
    tmkd(["export", "--checkpoint", str(path), "--output", "student.pt2", "--format", "torch_export"])
    found = torch.export.load("student.pt2").module()(image)
    torch.testing.assert_close(found, student(image).logits, rtol=1e-4, atol=1e-5)


def test_an_unfitted_head_is_no_head_to_reuse(fit) -> None:
    embeddings = Net(16)
    embeddings.fc = nn.Identity()
    module = make(Probe(embeddings, num_classes=3))
    with pytest.raises(ValueError, match=r"SimKD would read the logits of .*, which has no fitted head"):
        fit(module)
