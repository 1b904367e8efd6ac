"""TMKD in somebody else's project: dict batches, plain DataLoaders, normalised images, own networks, no CLI."""

import copy
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from helpers.tiny import TMKD, make_images, tmkd_module
from tmkd_lightning import Extractor, TMKDModule
from tmkd_lightning.cli.figures import collect
from tmkd_lightning.distillers import KD
from tmkd_lightning.modules.loading import network_and_names

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


class Pyramid(nn.Module):
    """A network that names its parts as it likes, and uses its head among other linear layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.predict = nn.Linear(width, 3)
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.GELU())
        self.squeeze = nn.Linear(width, width)  # registered after the head: the head is not the last linear layer

    def forward(self, pixels: Tensor) -> Tensor:
        feature_map = self.stem(pixels)
        gate = self.squeeze(feature_map.mean((2, 3))).sigmoid()
        return self.predict((feature_map * gate[:, :, None, None]).mean((2, 3)))


class TheirModule(TMKDModule):
    def unpack(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return batch["pixels"], batch["class_id"]


def their_loader(batch_size: int = 6) -> DataLoader[Any]:
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (MEAN, STD))
    rows = [{"pixels": (image / 255 - mean) / std, "class_id": label} for image, label in make_images(24)]
    return DataLoader(rows, batch_size=batch_size)


def their_module(**options: Any) -> TheirModule:
    networks = [Extractor(Pyramid(width), MEAN, STD, head="predict") for width in (16, 8)]
    options = TMKD | {"normalized_with": (MEAN, STD), "class_names": ["r", "g", "b"]} | options
    return TheirModule(*networks, distiller=KD(), **options)


def test_their_batches_networks_and_statistics_train(fit, prompts) -> None:
    module = their_module()
    trainer = fit(module, train=their_loader(), val=their_loader(), callbacks=[prompts(class_names=None)])
    assert trainer.global_step == 8
    assert {"train/ce", "train/kd", "train/feature", "train/text", "train/loss"} <= set(trainer.callback_metrics)
    # the student sees the very pixels that they normalised, not ours normalised again
    seen = {}
    module.student.stem.register_forward_pre_hook(lambda _, args: seen.update(pixels=args[0]))
    batch = next(iter(their_loader()))
    module.eval()
    module(module.preprocess(batch)[0])
    assert seen["pixels"].allclose(batch["pixels"], atol=1e-5)


def test_normalised_images_are_not_normalised_again_by_a_call() -> None:
    """A metric of one's own in a subclass: the images of the batch are normalised already."""
    module, batch = their_module().eval(), next(iter(their_loader()))
    with pytest.raises(
        ValueError, match=r"must lie in \[0, 1\] but .* called on images in \[0, 1\], as self.preprocess"
    ):
        module(batch["pixels"])
    image, _ = module.preprocess(batch)
    assert module(image).equal(module.extractor(image).logits)
    for call in (module.extractor, module.teacher.frozen):  # each of which would normalise once more
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
            call(batch["pixels"])
    for bad in (torch.full((2, 3, 8, 8), float("nan")), 255 * image, image[0]):
        with pytest.raises(ValueError, match=r"not a number|must lie in|must be"):
            module(bad)


def test_head_that_is_not_the_last_linear_layer_is_found_and_named(fit) -> None:
    module = TheirModule(Pyramid(3), Pyramid(3), views=["rgb"], normalized_with=(MEAN, STD), text_weight=0)
    with pytest.raises(ValueError, match=r"(?s)'squeeze' was taken for the head.*'predict'.*head="):
        fit(module, train=their_loader())


class TheirData(LightningDataModule):
    """Has a hook of its own, which must not turn the checks off."""

    def train_dataloader(self) -> DataLoader[Any]:
        return their_loader()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch


@pytest.mark.filterwarnings("ignore:You have overridden `on_before_batch_transfer` in both")
@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        (TMKDModule, TypeError, r"a dict with the keys \['pixels', 'class_id'\].*override unpack"),
        (TheirModule, ValueError, r"must lie in \[0, 1\].*normalized_with"),
    ],
)
@pytest.mark.parametrize("data", [{"train": their_loader()}, {"datamodule": TheirData()}], ids=["loader", "hook"])
def test_their_batches_as_they_are_stop_before_the_first_step(fit, kind, error, message, data) -> None:
    module = kind(Pyramid(3), Pyramid(3), views=["rgb"], text_weight=0)
    with pytest.raises(error, match=message):
        fit(module, **data)
    assert module.trainer.global_step == 0


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        (torch.rand(4, 1, 8, 8), [0] * 4, r"RGB\(\)"),
        (torch.rand(4, 8, 8), [0] * 4, "batch, 3, height, width"),
        (torch.rand(4, 3, 8, 8), [0, 1, 2, 3], r"label 3 is outside 0\.\.2"),
        (torch.rand(4, 3, 8, 8), [0, 1, -2, 2], r"label -2 is outside 0\.\.2"),
        (torch.rand(4, 3, 8, 8), [0.5] * 4, "must be 4 classes"),
        (torch.rand(4, 3, 8, 8) * 255, [0] * 4, "as uint8"),
    ],
)
def test_wrong_batches_are_named_on_the_host(net, fit, image, label, message) -> None:
    module = tmkd_module(net(16), net(), views=["rgb"], text_weight=0)
    with pytest.raises(ValueError, match=message):
        fit(module, train=DataLoader(list(zip(image, torch.tensor(label), strict=True)), batch_size=4))
    assert module.trainer.global_step == 0


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_last_batch_of_one_is_passed_over_and_batches_of_one_are_refused(net, fit, loader) -> None:
    options = {"views": ["rgb"], "text_weight": 0, "noise_scale": 0}
    options["lr_scheduler"] = lambda optimizer: torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    with_seventh = tmkd_module(net(16), net(), **options)
    without = copy.deepcopy(with_seventh)
    with pytest.warns(UserWarning, match="skipping a training batch of one image"):
        fit(with_seventh, train=loader(count=7, batch_size=3), max_epochs=1)
    fit(without, train=loader(count=6, batch_size=3), max_epochs=1)
    for one, other in zip(with_seventh.student.parameters(), without.student.parameters(), strict=True):
        assert one.equal(other)
    with pytest.raises(ValueError, match="training batches hold one image"):
        fit(tmkd_module(net(16), net(), views=["rgb"], text_weight=0), train=loader(count=4, batch_size=1))


def test_networks_that_do_not_return_logits_are_refused_before_the_first_step(net, fit) -> None:
    module = tmkd_module(net(), nn.Sequential(net(), nn.Softmax(1)), views=["rgb"], text_weight=0)
    with pytest.raises(ValueError, match="looks like a softmax"):
        fit(module)
    assert module.trainer.global_step == 0


class TheirNumbers(LightningDataModule):
    """Has names of more things than there are classes."""

    class_names = ("1", "2", "3", "4", "5", "6", "7")

    def val_dataloader(self) -> DataLoader[Any]:
        return their_loader()


def test_names_that_do_not_fit_are_passed_over_by_figures_and_export_alike() -> None:
    module = their_module(text_weight=0, views=["rgb"])
    module.class_names = None
    for saved, expected in ((["red", "green", "blue"], ["red", "green", "blue"]), (None, ["0", "1", "2"])):
        module.saved_class_names = saved
        collected = collect(module, {"student": module.extractor}, TheirNumbers(), accelerator="cpu")
        assert collected.class_names == network_and_names(module, None)[1] == expected
