"""A network that sees images of another size than the data: resized, then normalised, and refused by name if not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision.models as tv
from lightning.pytorch import Trainer
from PIL import Image
from torch import Tensor, nn

from helpers.tiny import Net, sgd, tmkd_module
from tmkd_lightning import ClassifierModule, Extractor
from tmkd_lightning.callbacks import TeacherCache
from tmkd_lightning.data import DigitsDataModule
from tmkd_lightning.distillers import KD
from tmkd_lightning.export import export_student
from tmkd_lightning.feature_extraction.image_size import resize, stated_image_size
from tmkd_lightning.feature_extraction.layer_discovery import trace_layers
from tmkd_lightning.models import load_weights
from tmkd_lightning.modules.loading import network_and_names
from tmkd_lightning.teacher.cache.fingerprint import teacher_fingerprint
from tmkd_lightning.teacher.frozen import FrozenTeacher

KD_ALONE: dict[str, Any] = {"distiller": KD(), "feature_weight": 0, "text_weight": 0, "optimizer": sgd}


def vit(side: int = 32, classes: int = 3) -> nn.Module:
    """timm's ViT, which takes images of one size only."""
    sizes = {"img_size": side, "patch_size": 8, "depth": 1, "embed_dim": 12, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", num_classes=classes, **sizes).eval()


def smooth(side: int) -> np.ndarray:
    """uint8 waves ``(side, side, 3)`` whose interpolation nowhere leaves 0..255."""
    row, column = np.mgrid[:side, :side]
    waves = [np.sin(row * a + column * b) for a, b in ((0.9, 0.1), (0.2, 1.1), (0.7, 0.7))]
    return (127 + 60 * np.stack(waves, axis=2)).round().astype(np.uint8)


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (20, 50)])
def test_resizes_as_pil_does_for_clip_and_timm(size: tuple[int, int]) -> None:
    """PIL rounds to whole grey values after each direction: half a value each, and a little more."""
    array = smooth(40)
    expected = np.asarray(Image.fromarray(array).resize((size[1], size[0]), Image.Resampling.BICUBIC))
    image = torch.from_numpy(array).permute(2, 0, 1).unsqueeze(0) / 255
    found = resize(image, size)[0].permute(1, 2, 0) * 255
    assert (found - torch.from_numpy(expected.copy())).abs().max() < 1.5


def test_what_bicubic_weights_overshoot_is_clipped() -> None:
    image = torch.zeros(1, 3, 8, 8)
    image[..., 4:] = 1
    resized = resize(image, (32, 32))
    assert (resized.min(), resized.max()) == (0, 1)
    assert resize(image.half(), (16, 16)).dtype == torch.float32  # no kernel in half precision


def test_the_network_sees_resized_and_then_normalised_images() -> None:
    seen: list[Tensor] = []
    network = Net().eval()
    network.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    image = torch.rand(2, 3, 12, 12)
    extractor = Extractor(network, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), image_size=(24, 16))
    extractor(image)
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))
    torch.testing.assert_close(seen[-1], (resize(image, (24, 16)) - mean) / std)
    whole = torch.randint(0, 256, (2, 3, 12, 12), dtype=torch.uint8)
    assert extractor(whole).logits.equal(extractor(whole / 255).logits)


def test_images_of_that_size_stay_bit_for_bit() -> None:
    network, image = Net().eval(), torch.rand(2, 3, 16, 16)
    one, other = Extractor(network, image_size=16), Extractor(network)
    assert resize(image, (16, 16)) is image
    assert one(image).logits.equal(other(image).logits)
    assert not one(image[..., :12, :12]).logits.equal(other(image[..., :12, :12]).logits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_resized_too(dtype: torch.dtype) -> None:
    network, image = Net().eval(), torch.rand(2, 3, 8, 8)
    expected = Extractor(network, image_size=16)(image).logits
    found = Extractor(network.to(dtype), image_size=16)(image).logits
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, rtol=2e-2, atol=2e-2)
    assert Extractor(Net(), image_size=16).bfloat16()(image).logits.dtype == torch.bfloat16  # as precision="bf16-true"


def test_compiled_and_channels_last() -> None:
    network, image = Net().eval(), torch.rand(2, 3, 8, 8)
    extractor = Extractor(network, image_size=16)
    expected = extractor(image).logits
    network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(extractor(image.to(memory_format=torch.channels_last)).logits, expected)
    compiled = torch.compile(extractor, backend="eager")
    torch.testing.assert_close(compiled(image, checked=True).logits, expected)


@pytest.mark.parametrize("size", [0, (16,), (8, 8, 8), 16.0, True, (16, -1)])
def test_what_is_no_size(size: Any) -> None:
    with pytest.raises(ValueError, match="image_size must be"):
        Extractor(Net(), image_size=size)


# Where sizes are read off networks, and what is said where they do not fit


def test_sizes_that_networks_state() -> None:
    assert stated_image_size(vit(48)) == (48, 48)  # and not the 224 of its pretrained_cfg
    assert stated_image_size(nn.Sequential(vit(48))) == (48, 48)
    assert stated_image_size(timm.create_model("resnet18")) == (224, 224)
    assert stated_image_size(tv.VisionTransformer(16, 8, 1, 2, 16, 32)) == (16, 16)
    assert stated_image_size(Net()) is None


class Clip(nn.Module):
    """States its size as open_clip's do, on the tower."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 24, 3))
        self.visual.image_size = (24, 24)

    def forward(self, image: Tensor) -> Tensor:
        return self.visual(image)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            lambda: vit(32),
            r"VisionTransformer does not take images of 16x16 pixels, but of 32x32, for which it was built: pass "
            r"Extractor\(network, image_size=32\), and images are resized for it \(Input height \(16\)",
        ),
        (lambda: tv.VisionTransformer(48, 8, 1, 2, 16, 32, num_classes=3), r"of 48x48, for .*image_size=48"),
        (Clip, r"Clip does not take images of 16x16 pixels, but of 24x24, for which it was built"),
        (
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 3)),  # states nothing, so sizes are tried
            r"Sequential does not take images of 16x16 pixels, but of 64x64: pass .*image_size=64",
        ),
    ],
)
def test_a_size_that_a_network_does_not_take(network: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Extractor(network()).confirm(torch.rand(2, 3, 16, 16))


def test_what_fails_at_every_size_keeps_its_own_error() -> None:
    class Broken(Net):
        def forward(self, image: Tensor) -> Tensor:
            raise KeyError("of its own")

    with pytest.raises(KeyError, match="of its own"):
        Extractor(Broken()).confirm(torch.rand(2, 3, 16, 16))


def test_a_wrong_teacher_is_refused_before_anything_is_trained(fit: Any, loader: Any) -> None:
    module = tmkd_module(vit(32), Net(), views=["rgb"], **KD_ALONE)
    with pytest.raises(ValueError, match=r"VisionTransformer does not take images of 8x8.*image_size=32\)"):
        fit(module, train=loader())
    assert module.trainer.global_step == 0


# In training, in the cache and in exported files


def test_a_large_vit_teaches_a_student_of_small_images(fit: Any, loader: Any) -> None:
    """The views are made of the data's images, and resized after."""
    teacher, seen = vit(32), []
    module = tmkd_module(Extractor(teacher, image_size=32), Net(), views=["rgb", "edge"], fusion="mean", **KD_ALONE)
    module.teacher.frozen.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    trainer: Trainer = fit(module, train=loader(), val=loader(), max_epochs=1)
    assert trainer.global_step == 4
    image = next(iter(loader()))[0] / 255
    edges = module.views.views[1](image)
    assert seen[-1].shape[-2:] == (8, 8)
    extractor = Extractor(teacher)
    expected = [extractor(resize(view, (32, 32)).clamp(0, 1)).logits for view in (image, edges)]
    torch.testing.assert_close(module.teacher.forward_views(image).logits, torch.cat(expected))


def test_a_cpu_takes_as_many_images_as_fit_at_the_size_of_the_network() -> None:
    sizes: list[int] = []
    network = Net()
    network.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    teacher = FrozenTeacher(Extractor(network, image_size=512))
    teacher(torch.rand(4, 3, 8, 8))
    assert sizes[1:] == [2, 2]  # the first call also takes a look


def test_another_size_is_another_fingerprint() -> None:
    found = [teacher_fingerprint(Extractor(Net(), image_size=size), None) for size in (None, 16, 32)]
    assert [one["image_size"] for one in found] == [None, (16, 16), (32, 32)]
    torch.manual_seed(0)
    network = Net()
    answers = {teacher_fingerprint(Extractor(network, image_size=size), None)["network"][1] for size in (None, 16, 32)}
    assert len(answers) == 3


def test_a_cache_of_resized_images_equals_a_run_without(fit: Any, tmp_path: Path) -> None:
    def train(*callbacks: TeacherCache) -> dict[str, Tensor]:
        torch.manual_seed(0)
        data = DigitsDataModule(train_samples=20, batch_size=8, image_size=8, augmentation_replicas=1)
        module = tmkd_module(Extractor(vit(32, 10), image_size=32), Net(num_classes=10), views=["rgb"], **KD_ALONE)
        fit(module, datamodule=data, max_epochs=2, callbacks=list(callbacks), limit_val_batches=0)
        return module.student.state_dict()

    live = train()
    for _ in ("filled", "read"):
        cached = train(TeacherCache(str(tmp_path / "cache"), "float32"))
        assert all(value.equal(cached[key]) for key, value in live.items())
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize("format", ["onnx", "torch_export", "state_dict"])
def test_an_exported_file_resizes_inside(tmp_path: Path, format: Any) -> None:
    onnxruntime = pytest.importorskip("onnxruntime") if format == "onnx" else None
    suffix = {"onnx": ".onnx", "torch_export": ".pt2", "state_dict": ".safetensors"}[format]
    path, extractor = tmp_path / f"student{suffix}", Extractor(Net().eval(), image_size=32)
    metadata = export_student(extractor, path, format=format, image_size=12)
    assert metadata["image_size"] == ("32" if format == "state_dict" else "12")
    image = torch.rand(3, 3, 12, 12)
    expected = extractor(image).logits
    if format == "torch_export":
        torch.testing.assert_close(torch.export.load(path).module()(image), expected)
    if format == "onnx":
        (logits,) = onnxruntime.InferenceSession(path).run(["logits"], {"image": image.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), expected, atol=1e-4, rtol=1e-4)


def test_classes_are_measured_at_that_size() -> None:
    network = nn.Sequential(vit(40), nn.Softplus())  # states 40, which is no customary size
    assert Extractor(network, image_size=40).num_classes == 3
    extractor = Extractor(vit(40), image_size=40)
    extractor.measure_classes()
    extractor.reorder_classes([2, 0, 1])
    assert trace_layers(extractor.network, torch.zeros(1, 3, 40, 40)).heads


def test_the_size_comes_with_a_teachers_file(fit: Any, tmp_path: Path) -> None:
    module = ClassifierModule(Extractor(Net(), image_size=(16, 12)), optimizer=sgd)
    fit(module, max_epochs=1).save_checkpoint(tmp_path / "teacher.ckpt")
    loaded, given = Extractor(Net()), Extractor(Net(), image_size=8)
    load_weights(loaded, tmp_path / "teacher.ckpt")
    assert loaded.image_size == (16, 12)
    with pytest.warns(UserWarning, match=r"images resized to \(16, 12\) for it, but the Extractor of Net was given"):
        load_weights(given, tmp_path / "teacher.ckpt")
    assert given.image_size == (8, 8)
    image = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(loaded.eval()(image).logits, module.extractor.eval()(image).logits)


def test_class_names_of_an_extractor_are_those_of_its_module(tmp_path: Path) -> None:
    names = ["red", "green", "blue"]
    network = Extractor(Net(), class_names=names)
    assert network_and_names(network, None)[1] == names
    assert ClassifierModule(network).class_names == names
