"""Where the number of classes comes from: the networks, a number, or the data."""

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging

from helpers.tiny import make_images, sgd, tmkd_module
from tmkd_lightning import ClassifierModule, Extractor, TMKDModule
from tmkd_lightning.distillers import CATKD


class Three(LightningDataModule):
    """Three classes, and says so."""

    num_classes = 3
    class_names = ("red", "green", "blue")

    def train_dataloader(self):
        return torch.utils.data.DataLoader(make_images(12), batch_size=6)

    val_dataloader = test_dataloader = train_dataloader


@pytest.mark.parametrize("given", [None, 7])
def test_a_fresh_head_is_captured_like_the_old_one(net, given) -> None:
    extractor = Extractor(net(8, num_classes=7), num_classes=given)
    image = torch.rand(4, 3, 8, 8)
    extractor(image)
    extractor.resize_head(3)
    output = extractor(image)
    assert (output.logits.shape, output.head_weight.shape, extractor.num_classes) == ((4, 3), (3, 8), 3)
    torch.testing.assert_close(output.embedding @ output.head_weight.T + extractor.head.bias, output.logits)
    torch.testing.assert_close(output.cam.mean((2, 3)) + extractor.head.bias, output.logits)
    head = extractor.head
    extractor.resize_head(3)
    assert extractor.head is head


def test_a_number_replaces_heads_made_for_others(net) -> None:
    module = tmkd_module(net(16, num_classes=10), net(num_classes=7), num_classes=3, teacher_checkpoint="teacher.ckpt")
    assert (module.num_classes, module.student.fc.out_features) == (3, 3)
    assert module.teacher.extractor.head.out_features == 3
    assert not module.teacher.extractor.head.weight.requires_grad
    assert module.prompt_bank.anchors.shape == (3, 512)


def test_data_decide_before_callbacks_look(net, fit, prompts, tmp_path) -> None:
    """The averaging callback copies the module, and the prompts fill its bank, before the module's own setup."""
    module = tmkd_module(net(16), net(num_classes=7), num_classes="data", distiller=CATKD(), optimizer=sgd)
    callbacks = [prompts(class_names=None), WeightAveraging()]
    trainer = fit(module, datamodule=Three(), max_epochs=1, callbacks=callbacks)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert module.student.fc.weight.shape == (3, 8)
    assert module.prompt_bank.embeddings.shape == (3, 3, 512)
    assert module.prompt_bank.filled
    assert "val/top1" in trainer.callback_metrics

    options = {"teacher": net(16), "student": net(num_classes=7), "distiller": CATKD(), "weights_only": True}
    loaded = TMKDModule.load_from_checkpoint(tmp_path / "last.ckpt", **options)
    assert loaded.student.fc.weight.equal(module.student.fc.weight)
    assert loaded.num_classes == 3
    scores = Trainer(logger=False, accelerator="cpu", enable_progress_bar=False).test(loaded, datamodule=Three())
    assert scores[0]["test/top5"] == 1.0  # three classes


def test_training_again_keeps_the_head_and_data_that_do_not_say_are_asked_for_the_number(net, fit) -> None:
    module = ClassifierModule(net(num_classes=7), num_classes="data", optimizer=sgd)
    with pytest.raises(ValueError, match=r"num_classes='data' needs a datamodule .* give the number"):
        fit(module)
    fit(module, datamodule=Three(), max_epochs=1)
    head = module.network.fc
    fit(module, datamodule=Three(), max_epochs=1)
    assert module.network.fc is head


@pytest.mark.parametrize("count", [0, -1, "all", 2.5, True])
def test_what_is_no_number_of_classes(net, count) -> None:
    with pytest.raises(ValueError, match="num_classes must be"):
        ClassifierModule(net(), num_classes=count)


def test_a_checkpoint_for_other_classes_does_not_resume(net, fit, tmp_path) -> None:
    fit(ClassifierModule(net(), optimizer=sgd), max_epochs=0).save_checkpoint(tmp_path / "last.ckpt")
    four = type("Four", (Three,), {"num_classes": 4})()
    with pytest.raises(ValueError, match="made for 3 classes, but the data have 4"):
        fit(ClassifierModule(net(), num_classes="data"), datamodule=four, ckpt_path=tmp_path / "last.ckpt")


def test_a_trained_teacher_is_not_given_a_random_head(net, fit, tmp_path) -> None:
    with pytest.raises(ValueError, match="teacher Net has 10 classes"):
        tmkd_module(net(16, num_classes=10), net(), num_classes=3)
    with pytest.raises(ValueError, match="teacher Net has 10 classes"):
        fit(tmkd_module(net(16, num_classes=10), net(), num_classes="data"), datamodule=Three())
    path = str(tmp_path / "teacher.pt")
    torch.save(net(16, num_classes=10).state_dict(), path)
    with pytest.raises(ValueError, match="does not fit Net: other shapes"):
        fit(tmkd_module(net(16), net(), teacher_checkpoint=path, text_weight=0, fusion="mean"))
