"""A teacher in a dtype of its own keeps it and computes in it, whatever is around it."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from helpers.tiny import Net, sgd, tmkd_module
from tmkd_lightning import Ensemble, Extractor, TMKDModule
from tmkd_lightning.callbacks import TeacherCache
from tmkd_lightning.data import DigitsDataModule
from tmkd_lightning.distillers import CATKD, KD
from tmkd_lightning.teacher.cache.fingerprint import teacher_fingerprint
from tmkd_lightning.utils.images import IMAGENET_MEAN, IMAGENET_STD

HALVES = ["float16", "bfloat16"]
ALONE: dict[str, Any] = {"views": ["rgb"], "feature_weight": 0, "text_weight": 0, "optimizer": sgd}


def trained_net(classes: int = 3) -> Net:
    """Statistics that no half precision holds, and that are not those of a fresh BatchNorm."""
    network = Net(16, classes).eval()
    network.bn.running_mean.uniform_(1.0, 1.1)
    network.bn.running_var.fill_(1e5)  # infinite in float16
    network.bn.weight.data.fill_(300.1)
    return network


def by_hand(network: nn.Module, images: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights and images in the dtype, BatchNorm and normalisation in float32."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    half = copy.deepcopy(network).to(dtype)
    if isinstance(network, Net):
        half.bn = network.bn
    with torch.no_grad():
        return half(((images - mean) / std).to(dtype))


@pytest.mark.parametrize("dtype", [*HALVES, "float32"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "64-true"])
def test_it_computes_in_its_dtype_beside_a_student_in_any(fit, loader, dtype, precision) -> None:
    torch.manual_seed(0)
    network, images, kind = trained_net(), torch.rand(4, 3, 8, 8), getattr(torch, dtype)
    expected = by_hand(network, images, kind)
    module = tmkd_module(network, Net(), distiller=CATKD(), teacher_dtype=dtype, teacher_device="cpu", **ALONE)
    seen: set[tuple[torch.dtype, torch.dtype]] = set()
    network.register_forward_hook(lambda _, given, logits: seen.add((given[0].dtype, logits.dtype)))
    fit(module, train=loader(), val=loader(), max_epochs=1, precision=precision)
    assert seen == {(kind, kind)}
    assert module.teacher.frozen(images).logits.equal(expected)
    for around in (torch.bfloat16, torch.float16):  # as bf16-mixed and 16-mixed
        with torch.autocast("cpu", around):
            assert module.teacher.frozen(images).logits.equal(expected)
            assert module.teacher.frozen(images).embedding.dtype == kind
    student = {"bf16-true": torch.bfloat16, "64-true": torch.float64}.get(precision, torch.float32)
    assert {part.dtype for part in module.student.parameters()} == {student}


@pytest.mark.parametrize("dtype", HALVES)
def test_without_a_batch_norm_it_is_the_network_made_half(dtype) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LayerNorm(144), nn.Linear(144, 3)).eval()
    images, kind = torch.rand(5, 3, 8, 8), getattr(torch, dtype)
    expected = by_hand(network, images, kind)
    before = sum(part.numel() * part.element_size() for part in network.parameters())
    teacher = tmkd_module(network, Net(), distiller=KD(), teacher_dtype=dtype, **ALONE).teacher.frozen
    assert sum(part.numel() * part.element_size() for part in teacher.parameters()) * 2 == before
    assert teacher(images).logits.equal(expected)
    assert not teacher(images).logits.requires_grad


def test_a_half_network_may_be_made_float32_and_none_leaves_it() -> None:
    for dtype, kind in (("float32", torch.float32), (None, torch.float16)):
        module = tmkd_module(Net(16).half(), Net(), distiller=KD(), teacher_dtype=dtype, **ALONE)
        assert module.teacher.frozen(torch.rand(2, 3, 8, 8)).logits.dtype == kind
        assert {part.dtype for part in module.teacher.frozen.parameters()} == {kind}


@pytest.mark.parametrize("dtype", HALVES)
def test_a_checkpoint_in_float32_is_read_into_half_weights(fit, loader, tmp_path, dtype) -> None:
    """They are half before it is read, so that float32 weights stand in memory once, as they are read."""
    file, kind, trained = tmp_path / "teacher.pt", getattr(torch, dtype), trained_net()
    torch.save(trained.state_dict(), file)
    network = Net(16)
    module = tmkd_module(network, Net(), distiller=KD(), teacher_dtype=dtype, teacher_checkpoint=str(file), **ALONE)
    assert {network.conv.weight.dtype, network.fc.weight.dtype, network.fc.bias.dtype} == {kind}
    trainer = fit(module, train=loader(), max_epochs=1)
    assert network.fc.weight.equal(trained.fc.weight.to(kind))
    assert network.bn.running_mean.equal(trained.bn.running_mean)
    assert network.bn.running_var.equal(trained.bn.running_var)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    saved = torch.load(tmp_path / "run.ckpt", weights_only=True)
    assert {value.dtype for key, value in saved["state_dict"].items() if "conv" in key} == {torch.float32}
    assert not any("teacher" in key for key in saved["state_dict"])
    parts = {"teacher": Net(16), "student": Net(), "distiller": KD(), "optimizer": sgd}
    again = TMKDModule.load_from_checkpoint(tmp_path / "run.ckpt", weights_only=True, **parts)
    assert again.teacher.frozen.dtype == kind
    assert again.student.fc.weight.equal(module.student.fc.weight)


def test_members_of_an_ensemble_are_half_and_their_average_is_not() -> None:
    members, images = [trained_net(), trained_net()], torch.rand(4, 3, 8, 8)
    answers = [by_hand(each, images, torch.bfloat16).float().softmax(1) for each in members]
    module = tmkd_module(Ensemble(members), Net(), distiller=KD(), teacher_dtype="bfloat16", **ALONE)
    logits = module.teacher.frozen(images).logits
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.exp(), torch.stack(answers).mean(0))
    assert {each.network.conv.weight.dtype for each in members_of(module)} == {torch.bfloat16}


def members_of(module: TMKDModule) -> list[Extractor]:
    return module.teacher.extractor.members


@pytest.mark.parametrize("from_file", [False, True])
def test_each_dtype_has_a_cache_and_a_weight_net_trains_on_it(fit, prompts, tmp_path, from_file) -> None:
    """A second run of the same dtype reads it; beside bf16-mixed, a float32 that is named is not one that follows."""
    torch.save(trained_net(10).state_dict(), tmp_path / "teacher.pt")
    file = str(tmp_path / "teacher.pt") if from_file else None

    def train(dtype: str | None, precision: str = "32-true") -> tuple[dict[str, Tensor], int]:
        torch.manual_seed(0)
        data = DigitsDataModule(train_samples=20, batch_size=10, image_size=16, augmentation_replicas=1)
        options = {"views": ["rgb", "edge"], "optimizer": sgd, "teacher_checkpoint": file}
        module = tmkd_module(trained_net(10), Net(num_classes=10), distiller=KD(), teacher_dtype=dtype, **options)
        fresh = [value.clone() for value in module.teacher.weight_net.parameters()]
        callbacks = [prompts(class_names=None), TeacherCache(str(tmp_path / "cache"), "float32")]
        fit(module, datamodule=data, max_epochs=2, callbacks=callbacks, limit_val_batches=0, precision=precision)
        trained = list(module.teacher.weight_net.parameters())
        assert any(not value.equal(old) for value, old in zip(trained, fresh, strict=True))
        assert {value.dtype for value in trained} == {torch.float32}
        return module.student.state_dict(), len(list((tmp_path / "cache").glob("*/head.npz")))

    computed, count = train("bfloat16")
    read, again = train("bfloat16")
    assert (count, again) == (1, 1)
    assert all(value.equal(read[key]) for key, value in computed.items())
    assert [train(dtype)[1] for dtype in (None, "float16")] == [2, 3]
    assert [train(dtype, "bf16-mixed")[1] for dtype in (None, "float32")] == [4, 5]


def test_a_network_made_half_has_another_cache_where_a_file_brings_its_weights(tmp_path) -> None:
    torch.save(Net().state_dict(), tmp_path / "teacher.pt")
    networks = [Net(), Net().half(), Net().bfloat16(), Net()]
    found = [teacher_fingerprint(Extractor(each), str(tmp_path / "teacher.pt")) for each in networks]
    assert found[0] == found[3]
    assert found[0] != found[1] != found[2] != found[0]


def test_a_network_that_float16_cannot_hold_is_told_what_can(fit, loader) -> None:
    network = Net(16)
    network.fc.bias.data.fill_(65000)
    network.fc.weight.data.fill_(1e4)
    with pytest.raises(ValueError, match="not finite on the first batch, in float16, which ends at 65504: take bfl"):
        fit(tmkd_module(network, Net(), distiller=KD(), teacher_dtype="float16", **ALONE), train=loader())


@pytest.mark.parametrize("from_file", [False, True])
def test_a_statistic_that_becomes_infinite_is_named(fit, loader, tmp_path, from_file: bool) -> None:
    """A frozen norm divides by it, so its channel would silently be 0; a mask may well hold infinities."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), FrozenBatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    network[0].register_buffer("mask", torch.tensor([-torch.inf, 0.0]))
    large = copy.deepcopy(network)
    large[1].running_var[2] = 1e5
    torch.save(large.state_dict(), tmp_path / "large.pt")
    options = ALONE | ({"teacher_checkpoint": str(tmp_path / "large.pt")} if from_file else {})
    held = network if from_file else large
    with pytest.raises(ValueError, match=r"network\.1\.running_var is beyond 65504, where float16 ends: take bfloat16"):
        fit(tmkd_module(copy.deepcopy(held), Net(), distiller=KD(), teacher_dtype="float16", **options), train=loader())
    fit(tmkd_module(held, Net(), distiller=KD(), teacher_dtype="bfloat16", **options), train=loader(), max_epochs=1)


@pytest.mark.parametrize("wrong", ["half", "fp16", torch.float16, ""])
def test_a_wrong_name(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"teacher_dtype must be one of \['float32', 'float16', 'bfloat16'\], got "):
        tmkd_module(Net(16), Net(), distiller=KD(), teacher_dtype=wrong, **ALONE)
