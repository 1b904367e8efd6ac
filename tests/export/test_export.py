"""The student alone in a file: the same logits as the module's, in code that does not know this library."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet18 as torchvision_resnet18

from helpers.tiny import CLASSES, Net, make_images, tmkd_module
from tmkd_lightning import ClassifierModule, Extractor, models
from tmkd_lightning.export import export_student, student

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

SUFFIX = {"onnx": ".onnx", "torch_export": ".pt2", "state_dict": ".safetensors"}
ZOO = ("vgg8", "vgg13", "wrn_40_2", "wrn_40_1", "wrn_16_2", "resnet18", "resnet50", "shufflenet_v2")
TIMM = ("vit_tiny_patch16_224", "mobilenetv3_small_050", "convnext_atto")


def build(name: str, depth: int = 12) -> nn.Module:
    """A network with statistics and a head that are not those of a fresh one, which are zeros and ones in places."""
    if name in ZOO:
        network = getattr(models, name)(num_classes=7)
    else:
        options = {"img_size": 32, "depth": depth} if name.startswith("vit") else {}
        network = timm.create_model(name, num_classes=7, **options)
    network.train()
    with torch.no_grad():
        for _ in range(2):
            network(torch.rand(8, 3, 32, 32))
    return network


def images(count: int, kind: str, size: int = 32) -> Tensor:
    """Not those that the export itself compares on."""
    values = torch.randint(256, (count, 3, size, size), generator=torch.Generator().manual_seed(100 + count))
    return values.to(torch.uint8) if kind == "uint8" else values / 255


def run(path: Path, image: Tensor) -> Tensor:
    if path.suffix == ".onnx":
        (logits,) = onnxruntime.InferenceSession(path).run(None, {"image": image.numpy()})
        return torch.from_numpy(logits)
    return torch.export.load(path).module()(image)


def check(network: nn.Module, format: str, kind: str, folder: Path) -> None:
    path = folder / f"student{SUFFIX[format]}"
    module = ClassifierModule(Extractor(network, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))).eval()
    export_student(module, path, format=format, input=kind, image_size=32)
    for count in (1, 3, 5):
        image = images(count, kind)
        with torch.no_grad():
            expected = module(image)
        found = run(path, image)
        assert found.shape == (count, 7)
        assert (found - expected).abs().max() <= 1e-4
        assert expected.std() > 1e-3  # else anything would agree


@pytest.mark.parametrize(
    ("name", "format", "kind"),
    [
        ("wrn_16_2", "onnx", "uint8"),
        ("vit_tiny_patch16_224", "torch_export", "float"),
        pytest.param("wrn_16_2", "onnx", "float", marks=pytest.mark.slow),
        pytest.param("vit_tiny_patch16_224", "torch_export", "uint8", marks=pytest.mark.slow),
    ],
)
def test_logits_are_the_modules(tmp_path, name, format, kind) -> None:
    check(build(name, depth=2), format, kind, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO + TIMM)
@pytest.mark.parametrize("format", ["onnx", "torch_export"])
@pytest.mark.parametrize("kind", ["float", "uint8"])
def test_logits_of_every_network(tmp_path, name, format, kind) -> None:
    check(build(name), format, kind, tmp_path)


ELSEWHERE = """
import json, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tmkd_lightning", "lightning", "pytorch_lightning"):
            raise ImportError(name)

sys.meta_path.insert(0, Block())
import numpy as np, onnxruntime, torch
from safetensors import safe_open
from safetensors.torch import load_file
from torchvision.models import resnet18

image = np.load("image.npy")
session = onnxruntime.InferenceSession("student.onnx")
metadata = {"onnx": session.get_modelmeta().custom_metadata_map}
logits = {"onnx": session.run(None, {"image": image})[0]}

extra = {"metadata.json": ""}
program = torch.export.load("student.pt2", extra_files=extra)
metadata["torch_export"] = json.loads(extra["metadata.json"])
logits["torch_export"] = program.module()(torch.from_numpy(image)).detach().numpy()

metadata["state_dict"] = safe_open("student.safetensors", "pt").metadata()
network = resnet18(num_classes=3).eval()
network.load_state_dict(load_file("student.safetensors"))
mean, std = (torch.tensor(json.loads(metadata["state_dict"][key])).view(3, 1, 1) for key in ("mean", "std"))
logits["state_dict"] = network((torch.from_numpy(image) - mean) / std).detach().numpy()
np.savez("logits.npz", **logits)
print(json.dumps(metadata))
"""


def test_files_open_where_this_library_is_not_installed(tmp_path) -> None:
    small = tmkd_module(Net(16), Net(), class_names=CLASSES)
    theirs = ClassifierModule(torchvision_resnet18(num_classes=3), class_names=CLASSES)  # the code to load weights into
    modules = {"onnx": small.eval(), "torch_export": small.eval(), "state_dict": theirs.eval()}
    for format, module in modules.items():
        export_student(module, tmp_path / f"student{SUFFIX[format]}", format=format, image_size=32)
    image = images(3, "float")
    np.save(tmp_path / "image.npy", image.numpy())
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", ELSEWHERE]
    printed = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    metadata = json.loads(printed.splitlines()[-1])
    found = np.load(tmp_path / "logits.npz")
    for format, module in modules.items():
        np.testing.assert_allclose(found[format], module(image).detach().numpy(), rtol=0, atol=1e-4)
        assert json.loads(metadata[format]["class_names"]) == CLASSES
        assert json.loads(metadata[format]["std"]) == [0.229, 0.224, 0.225]
        assert metadata[format]["image_size"] == "32"
    assert metadata["onnx"]["input"] == "float32 in [0, 1]"
    assert metadata["state_dict"]["input"] == "float32, normalised with mean and std"


def test_files_name_their_ends_and_say_nothing_of_this_machine(tmp_path) -> None:
    for format, suffix in SUFFIX.items():
        path = tmp_path / f"student{suffix}"
        export_student(Extractor(Net()), path, format=format, image_size=8)
        assert Path(student.__file__).parent.as_posix().encode() not in path.read_bytes()
        assert b"tiny.py" not in path.read_bytes()
    export_student(Extractor(Net()), tmp_path / "student.onnx", input="uint8", image_size=8)
    session = onnxruntime.InferenceSession(tmp_path / "student.onnx")
    (image,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", ["batch", 3, 8, 8])
    assert (logits.name, logits.shape) == ("logits", ["batch", 3])
    onnx.checker.check_model(tmp_path / "student.onnx", full_check=True)


def test_the_module_is_left_as_it_is(tmp_path) -> None:
    module = ClassifierModule(Net()).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    export_student(module, tmp_path / "student.safetensors", format="state_dict", image_size=8)
    (tmp_path / "a.safetensors").mkdir()
    for name, message in {"student.safetensors/a": "cannot be written", "a": "is a folder: give the name of a"}.items():
        with pytest.raises(OSError, match=message):
            export_student(module, tmp_path / f"{name}.safetensors", format="state_dict", image_size=8)
    assert all(part.training for part in module.network.modules())
    assert all(parameter.requires_grad for parameter in module.network.parameters())
    assert all(value.equal(before[name]) for name, value in module.state_dict().items())
    assert module.extractor.keep_map


def test_networks_out_of_the_ordinary(tmp_path) -> None:
    """Half precision becomes float32, and what is to be compiled is written as it was."""
    path, image = tmp_path / "student.pt2", images(3, "float", 8)
    module = ClassifierModule(Net()).to(torch.bfloat16).eval()
    export_student(module, path, format="torch_export", image_size=8)
    found = run(path, image)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, module(image).float(), atol=0.05, rtol=0.05)
    network = Net()
    network.compile()
    export_student(Extractor(network), path, format="torch_export", image_size=8)
    expected = Extractor(network.eval()).normalize(image)
    network._compiled_call_impl = None
    torch.testing.assert_close(run(path, image), network(expected))


class Named(LightningDataModule):
    class_names = ("cat", "dog", "crow")

    def train_dataloader(self):
        return torch.utils.data.DataLoader(make_images(6), batch_size=3)


def exported_names(network, folder: Path, **options) -> list[str]:
    path = folder / "student.safetensors"
    written = export_student(network, path, format="state_dict", image_size=8, **options)
    return json.loads(written["class_names"])


def test_names_come_from_whoever_knows_them(tmp_path, fit, monkeypatch) -> None:
    module = ClassifierModule(Net())
    assert exported_names(module, tmp_path) == ["0", "1", "2"]
    trainer = fit(module, datamodule=Named(), max_epochs=1)
    assert exported_names(module, tmp_path) == ["cat", "dog", "crow"]
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = ClassifierModule.load_from_checkpoint(tmp_path / "last.ckpt", network=Net(), weights_only=True)
    assert exported_names(loaded, tmp_path) == ["cat", "dog", "crow"]
    assert loaded.class_names is None  # prompts still ask the data first
    assert exported_names(loaded, tmp_path, class_names=["a", "b", "c"]) == ["a", "b", "c"]
    assert exported_names(ClassifierModule(Net(), class_names=CLASSES), tmp_path) == CLASSES
    monkeypatch.setattr(Named, "class_names", ("cat", "dog"))  # of other data
    module = ClassifierModule(Net())
    fit(module, datamodule=Named(), max_epochs=1)
    assert exported_names(module, tmp_path) == ["0", "1", "2"]


class Restless(Net):
    def forward(self, image: Tensor) -> Tensor:  # drops out while it evaluates
        return self.fc(F.dropout(self.relu(self.bn(self.conv(image))).mean((2, 3)), training=True))


class Pairs(Net):
    def forward(self, image: Tensor) -> Tensor:  # takes two images, no more and no fewer
        maps = self.relu(self.bn(self.conv(image)))
        return self.fc(maps.reshape(2 if len(image) == 2 else len(image), -1, *maps.shape[2:]).mean((2, 3)))


@pytest.fixture
def refused(tmp_path) -> Callable[..., None]:
    """Asks for an export that must fail, and leave an older file alone and nothing else behind."""

    def ask(network, message: str, format: str = "torch_export", name: str | None = None, **options) -> None:
        path = tmp_path / (name or f"student{SUFFIX.get(format, '.x')}")
        path.write_bytes(b"old")
        with pytest.raises((ValueError, ImportError, TypeError), match=message):
            export_student(network, path, format=format, **{"image_size": 8, **options})
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == [path.name]
        path.unlink()

    return ask


def test_the_tolerance_is_one_ten_thousandth(refused, tmp_path, monkeypatch) -> None:
    off = 9e-5
    plain = student.FORMATS["torch_export"]
    monkeypatch.setitem(student.FORMATS, "torch_export", plain._replace(run=lambda *args: plain.run(*args) + off))
    export_student(Extractor(Net()), tmp_path / "student.pt2", format="torch_export", image_size=8)
    off = 1.2e-4
    refused(Extractor(Net()), r"gives other logits than the module, by up to 0\.00012")
    off = float("nan")
    refused(Extractor(Net()), "gives other logits")


def test_networks_that_cannot_be_written(refused, monkeypatch) -> None:
    refused(Extractor(Pairs()), "Pairs cannot be written as torch_export")
    network = Net()
    network.fc.bias.data[0] = torch.nan
    refused(Extractor(network), "Net .*not finite")
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=3)
    refused(Extractor(vit), "VisionTransformer does not take images of 8x8 pixels: .*32")
    refused(Net(), r"got Net: wrap a bare network as Extractor\(network\)")
    for format in ("torch_export", "state_dict"):
        refused(Extractor(Restless()), f"Restless as {format} gives other logits than the module, by up to", format)
    monkeypatch.setattr(student, "find_spec", lambda name: None if name.startswith("onnx") else name)
    refused(Extractor(Net()), "onnx needs onnx, onnxscript, onnxruntime: pip install onnx onnxscript", "onnx")


def test_arguments_that_cannot_be_meant(refused) -> None:
    for options, message in (
        ({"format": "tflite"}, "format must be one of onnx, torch_export, state_dict, got 'tflite'"),
        ({"format": "onnx", "name": "student.pt"}, r"of the format onnx must end in \.onnx, got .*student\.pt"),
        ({"input": "int8"}, "input must be one of float, uint8, got 'int8'"),
        ({"format": "state_dict", "input": "uint8"}, "leave input out"),
        ({"image_size": 0}, "Net does not take images of 0x0 pixels"),
        ({"class_names": ["cat", "dog"]}, "2 class names for a network of 3 classes"),
        ({"class_names": ["cat", "dog", "cat"]}, "class names must differ"),
    ):
        refused(Extractor(Net()), message, **options)
