"""ONNX in 8-bit integers: what it is calibrated and measured on, and that it still says what the network says."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from helpers.tiny import CLASSES, FIT_DIGITS, Net, make_images
from tmkd_lightning import ClassifierModule, Extractor
from tmkd_lightning.cli.main import main as tmkd
from tmkd_lightning.data import DataError
from tmkd_lightning.export import export_int8, int8, student

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


class Noise(LightningDataModule):
    """Coloured noise; `test` images in a test split, or none."""

    class_names = CLASSES

    def __init__(self, val: int = 40, test: int = 30) -> None:
        super().__init__()
        self.val, self.test = make_images(val, seed=1), make_images(test, seed=2)
        self.test[::5] = [(image, (label + 1) % 3) for image, label in self.test[::5]]  # a fifth is labelled wrongly

    def val_dataloader(self) -> Any:
        return DataLoader(self.val, batch_size=8)

    def test_dataloader(self) -> Any:
        return DataLoader(self.test, batch_size=8) if self.test else super().test_dataloader()


@pytest.fixture
def module() -> ClassifierModule:
    """A classifier that tells the colours apart."""
    network = Net()
    with torch.no_grad():
        network.conv.weight.mul_(0.2)
        network.conv.weight[range(3), range(3)] += 0.3
        network.fc.weight.zero_()
        network.fc.weight[range(3), range(3)] = 20
    extractor = Extractor(network, mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2))
    return ClassifierModule(extractor, class_names=CLASSES).eval()


def images_of(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    return torch.stack([image for image, _ in samples]), torch.tensor([label for _, label in samples])


def run(path: Path, images: Tensor) -> Tensor:
    (logits,) = onnxruntime.InferenceSession(path).run(None, {"image": images.numpy()})
    return torch.from_numpy(logits)


def operands(path: Path, kind: str) -> list[set[str]]:
    """Of each node of a kind, the kinds of nodes that feed it."""
    graph = onnx.load(path).graph
    source = {name: node.op_type for node in graph.node for name in node.output}
    return [{source.get(name, "") for name in node.input} for node in graph.node if node.op_type == kind]


@pytest.mark.parametrize("kind", ["float", "uint8"])
def test_it_says_what_the_network_says(module, tmp_path, kind, capfd) -> None:
    """Within a few percent of the logits' spread, on images of other noise than it was calibrated on."""
    path, data = tmp_path / "student.onnx", Noise()
    metadata = export_int8(module, path, data=data, image_size=8, input=kind)
    images, labels = images_of(data.test)
    with torch.no_grad():
        expected = module(images)
    found = run(path, images if kind == "uint8" else images / 255)
    assert (found - expected).abs().max() < 0.06 * (expected.max() - expected.min())
    assert (found - expected).abs().max() > 1e-4  # it is not the float network
    top1 = [(logits.argmax(1) == labels).float().mean().item() for logits in (expected, found)]
    assert top1[0] == pytest.approx(0.8)
    assert [metadata["float_top1"], metadata["int8_top1"]] == [f"{value:.4f}" for value in top1]
    assert metadata["measured_on"] == "30 test images of Noise"
    assert metadata["calibrated_on"] == "40 validation images of Noise"
    assert onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map == metadata
    assert json.loads(metadata["class_names"]) == CLASSES
    assert metadata["input"] == {"float": "float32 in [0, 1]", "uint8": "uint8"}[kind]
    assert operands(path, "Conv") == [{"DequantizeLinear"}]
    assert operands(path, "Gemm")[0] >= {"DequantizeLinear"}
    assert capfd.readouterr().err == ""
    assert str(Path(student.__file__).parent).encode() not in path.read_bytes()


def test_images_to_calibrate_on_are_not_measured_on(module, tmp_path, monkeypatch) -> None:
    """Without a test split: half of the validation images at most, from all over, the same every time."""
    seen: dict[str, list[Tensor]] = {"calibrate": [], "measure": []}
    each = int8._Images.each

    def measuring(self: Any, split: str, loader: Any, function: Any) -> None:
        place = "measure" if function.__name__ == "count" else "calibrate"

        def watching(images: Tensor, labels: Tensor) -> None:
            seen[place] += [*images]
            function(images, labels)

        each(self, split, loader, watching)

    monkeypatch.setattr(int8._Images, "each", measuring)
    data = Noise(val=41, test=0)
    metadata = export_int8(module, tmp_path / "a.onnx", data=data, image_size=8)
    places = {place: [all_of(data).index(image.tolist()) for image in images] for place, images in seen.items()}
    assert (metadata["calibrated_on"], metadata["measured_on"]) == (
        "20 validation images of Noise",
        "21 other validation images of Noise",
    )
    assert sorted(places["calibrate"] + places["measure"]) == list(range(41))
    assert all(part * 41 // 20 <= place < (part + 1) * 41 // 20 for part, place in enumerate(places["calibrate"]))
    other = int8._Images(module.extractor, CLASSES, None, Noise())
    few, _, split = other.split(5)
    assert (split, sum(map(len, other.of("val", few)))) == ("test", 5)
    assert torch.cat(other.of("val", few)).equal(torch.cat(other.of("val", other.split(5)[0])))


def test_test_images_that_calibrated_are_left_out(module, tmp_path) -> None:
    """As with ``val="test"`` of a benchmark, whose validation images are those for testing."""
    data = Noise(val=30, test=30)
    data.val = data.test
    metadata = export_int8(module, tmp_path / "a.onnx", data=data, image_size=8, calibration_images=10, input="uint8")
    assert (metadata["calibrated_on"], metadata["measured_on"]) == (
        "10 validation images of Noise",
        "20 test images of Noise",
    )
    with pytest.raises(DataError, match="the test split has no images to measure accuracy on, other than those"):
        export_int8(module, tmp_path / "b.onnx", data=data, image_size=8)
    assert not (tmp_path / "b.onnx").exists()


def all_of(data: Noise) -> list[Any]:
    return [(image / 255).tolist() for image, _ in data.val]


def test_layers_that_stay_in_float(module, tmp_path) -> None:
    path = tmp_path / "student.onnx"
    export_int8(module, path, data=Noise(), image_size=8, exclude=["fc"])
    assert operands(path, "Conv") == [{"DequantizeLinear"}]
    assert "DequantizeLinear" not in operands(path, "Gemm")[0]
    path.write_bytes(b"old")
    for exclude, message in (
        (["fc", "head"], "exclude names 'head', but Net has no such layer; these are in integers: conv, fc"),
        (["conv", "fc"], "exclude leaves no layer of Net in integers: write it as onnx"),
    ):
        with pytest.raises(ValueError, match=message):
            export_int8(module, path, data=Noise(), image_size=8, exclude=exclude)
    assert path.read_bytes() == b"old"


def test_a_loss_of_accuracy_is_told(module, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(int8, "_DROP", -1.0)
    with pytest.warns(UserWarning, match=r"try more calibration_images than 40, or exclude \[conv, fc\], the first"):
        export_int8(module, tmp_path / "student.onnx", data=Noise(), image_size=8)


def test_data_that_arrive_normalised(tmp_path, module) -> None:
    """They are taken back to [0, 1], which the file takes."""
    plain = export_int8(module, tmp_path / "plain.onnx", data=Noise(), image_size=8)
    data = Noise()
    for samples in (data.val, data.test):
        samples[:] = [((image / 255 - 0.3) / 0.5, label) for image, label in samples]
    options = {"normalized_with": ((0.3,) * 3, (0.5,) * 3), "image_size": 8}
    assert export_int8(module, tmp_path / "other.onnx", data=data, **options) == plain
    images = images_of(Noise().test)[0] / 255
    torch.testing.assert_close(
        run(tmp_path / "other.onnx", images), run(tmp_path / "plain.onnx", images), atol=0.3, rtol=0
    )


class Colours(nn.Module):
    def forward(self, image: Tensor) -> Tensor:  # no layer has weights
        return image.mean((2, 3))


class Endless(IterableDataset):
    def __iter__(self) -> Any:
        return iter(make_images(8))


def test_what_is_refused(module, tmp_path, monkeypatch) -> None:
    path = tmp_path / "student.onnx"

    def refuse(message: str, kind: type[Exception] = ValueError, network: Any = module, **options: Any) -> None:
        with pytest.raises(kind, match=message):
            export_int8(network, options.pop("path", path), **{"data": Noise(), "image_size": 8} | options)
        assert list(tmp_path.iterdir()) == []

    refuse("calibration needs validation images, but there are 0", DataError, data=Noise(val=0))
    refuse("calibration needs validation images, but there are 1", DataError, data=Noise(val=1, test=0))
    nothing = LightningDataModule()
    refuse("calibration needs validation images, but there are none", DataError, data=nothing)
    endless = Noise()
    endless.val_dataloader = lambda: DataLoader(Endless(), batch_size=2)
    refuse("with an index, in one DataLoader", DataError, data=endless)
    refuse("calibration_images must be a whole number, at least 1, got 0", calibration_images=0)
    refuse(r"the format onnx_int8 must end in \.onnx", path=tmp_path / "student.int8")
    refuse("Colours cannot be written as onnx_int8: it has no convolution", network=Extractor(Colours(), num_classes=3))
    refuse("the images of the data are 8x8 pixels, and not image_size=16", DataError, image_size=16)
    other = Noise()
    other.class_names = ["green", "blue", "red"]
    refuse("red", data=other)  # the labels mean other classes
    monkeypatch.setattr(student, "find_spec", lambda name: None)
    refuse("onnx_int8 needs onnx, onnxscript, onnxruntime: pip install", ImportError)


def test_the_command(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("fit.yaml").write_text(FIT_DIGITS)
    tmkd(["fit", "--config", "fit.yaml"])
    tmkd(["export", "--checkpoint", "run/last.ckpt", "--output", "a.onnx", "--format=onnx_int8", "--exclude=[fc]"])
    output = capsys.readouterr().out
    assert "a.onnx: Net as onnx_int8, measured beside it in float32" in output
    assert "on 599 test images of DigitsDataModule" in output
    assert "calibrated on 256 validation images of DigitsDataModule" in output
    data = ["--data", "tmkd_lightning.data.DigitsDataModule", "--data.image_size", "8"]
    with pytest.raises(DataError, match="are 8x8 pixels, and not image_size=16"):
        tmkd(["export", "--checkpoint", "run/last.ckpt", "--output", "b.onnx", "--format=onnx_int8", *data])
    assert not Path("b.onnx").exists()
