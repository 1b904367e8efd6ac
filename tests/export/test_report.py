"""Sizes, work, latency and accuracy of teacher and student, against counts by hand and published ones."""

from __future__ import annotations

import copy
import json
from functools import cache
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models
from lightning.pytorch import LightningDataModule
from PIL import Image
from safetensors.torch import save_file
from sklearn.metrics import recall_score, top_k_accuracy_score
from torch import Tensor, nn

from helpers.tiny import Net, make_images, tmkd_module
from helpers.tiny_clip import write_config
from tmkd_lightning import ClassifierModule, Extractor, TMKDModule, models
from tmkd_lightning.data import DataError, DigitsDataModule, ImageFolderDataModule
from tmkd_lightning.export import report
from tmkd_lightning.export.report import compare, measure, report_files, to_markdown, write_report
from tmkd_lightning.models import Pretrained, WideResNet, ZeroShotCLIP


@pytest.fixture(autouse=True)
def short(monkeypatch) -> None:
    """No test but one reads the clock."""
    monkeypatch.setattr(report, "_SECONDS", 0.0)
    monkeypatch.setattr(report, "_RUNS", 2)


class Attention(nn.Module):
    """Attention over the pixels of an image, by torch's layer or by its function, and a head."""

    def __init__(self, layer: bool) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(8, 2, batch_first=True) if layer else None
        self.embed, self.fc = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.embed(image.flatten(2).mT)
        if self.layer is not None:
            tokens, _ = self.layer(tokens, tokens, tokens, need_weights=False)
        else:
            heads = tokens.unflatten(2, (2, 4)).transpose(1, 2)
            tokens = nn.functional.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2)
        return self.fc(tokens.mean(1))


def macs(network: nn.Module, size: int) -> int:
    return measure(Extractor(network), size, [])["macs"]


def test_work_counted_by_hand() -> None:
    """Each output of a convolution takes as many products as its filter has weights, of a linear layer its width."""
    pool = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    assert macs(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5)), 8) == 192 * 5
    assert macs(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *pool, nn.Linear(4, 2)), 8) == 64 * 4 * 27 + 4 * 2
    strided = nn.Conv2d(3, 6, 5, stride=2, groups=3)  # 6 filters of 1 * 5 * 5 at 6 * 6 places of a 16 * 16 image
    assert macs(nn.Sequential(strided, *pool, nn.Linear(6, 2)), 16) == 36 * 6 * 25 + 6 * 2


@pytest.mark.parametrize("layer", [True, False])
def test_work_of_attention_counts_whatever_kernel_runs(layer) -> None:
    """torch has fused kernels for both on a CPU, of which it counts nothing."""
    tokens, projections = 16, 4 if layer else 0
    embedded, head = tokens * 3 * 8, 8 * 2
    attended = projections * tokens * 8 * 8 + 2 * tokens * tokens * 8  # queries with keys, weights with values
    before = torch.backends.mha.get_fastpath_enabled()
    assert macs(Attention(layer), 4) == embedded + attended + head
    assert torch.backends.mha.get_fastpath_enabled() == before


@pytest.mark.parametrize(
    ("name", "flops"), [("vgg8", 384_770_048), ("shufflenet_v2", 178_017_792), ("wrn_16_2", 404_473_856)]
)
def test_work_of_the_official_networks(name, flops) -> None:
    """Their FLOPs, of 2 images of 32 pixels."""
    assert macs(getattr(models, name)(), 32) == flops / 2 / 2


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_what_torchvision_publishes_of_its_networks(name) -> None:
    meta = torchvision.models.get_model_weights(name).DEFAULT.meta
    measured = measure(Extractor(getattr(torchvision.models, name)()), 224, [])
    assert measured["parameters"] == meta["num_params"]
    assert measured["macs"] / 1e9 == pytest.approx(meta["_ops"], abs=0.0005)
    assert measured["bytes"] / 2**20 == pytest.approx(meta["_file_size"], rel=0.01)  # of a file of torch.save


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_size_is_that_of_the_float32_file(tmp_path, dtype) -> None:
    """24 + 216 weights and 4 * 8 + 3 statistics, in 4 bytes each, a counter in 8, and the names before them."""
    network = Net()
    save_file(network.state_dict(), tmp_path / "net.safetensors", {"format": "pt"})
    measured = measure(Extractor(network.to(dtype)), 8, [])
    assert measured["bytes"] == (tmp_path / "net.safetensors").stat().st_size
    assert 0 < measured["bytes"] - (4 * (216 + 24 + 4 * 8 + 3) + 8) < 1000
    assert measured["parameters"] == 216 + 24 + 2 * 8 + 3


def test_latency_is_of_single_warm_runs(monkeypatch) -> None:
    monkeypatch.setattr(report, "_RUNS", 20)
    seconds = [100.0] * 5 + [index / 100 for index in range(1, 21)]  # the first are cold, then 10 ms to 200 ms
    clock = chain.from_iterable((end - one, end) for one, end in zip(seconds, accumulate(seconds), strict=True))
    monkeypatch.setattr(report.time, "perf_counter", lambda: next(clock))
    (latency,) = measure(Extractor(Net()), 8, [3])["latency"]
    assert (latency["batch_size"], latency["runs"]) == (3, 20)
    assert latency["median_ms"] == pytest.approx(105)
    assert (latency["q1_ms"], latency["q3_ms"]) == pytest.approx((57.5, 152.5))


def test_short_runs_are_timed_for_a_while(monkeypatch) -> None:
    monkeypatch.setattr(report, "_SECONDS", 0.25)
    clock = iter(index / 100 for index in range(10**4))  # each run takes 10 ms
    monkeypatch.setattr(report.time, "perf_counter", lambda: next(clock))
    (latency,) = measure(Extractor(Net()), 8, [1])["latency"]
    assert latency["runs"] in (25, 26)


def test_a_network_is_left_as_it_is_and_fetches_nothing(monkeypatch) -> None:
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", None)
    network = Extractor(Pretrained("resnet18", num_classes=3).train())
    before = copy.deepcopy(network.network.state_dict())
    assert measure(network, 32, [2])["parameters"] == 11_178_051  # ResNet18's 11,689,512, with 3 classes of 1000
    assert network.network.pending
    assert network.network.training
    assert all(value.equal(before[name]) for name, value in network.network.state_dict().items())


def test_a_zero_shot_network_fetches_nothing_either(tmp_path) -> None:
    """Neither weights nor the embeddings of names, which it does not know yet."""
    network = Extractor(ZeroShotCLIP(pretrained=str(write_config(tmp_path / "clip"))))  # a folder without weights
    network.resize_head(4)
    tower = sum(parameter.numel() for parameter in network.network.visual.parameters())
    assert measure(network, 40, [2])["parameters"] == tower + 4 * 6  # rows of the embedding's width
    assert network.network.pending


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image_size must be a whole number, at least 1, got 0"),
        ({"batch_sizes": [1, 0]}, "batch_sizes must be a whole number, at least 1, got 0"),
        ({"image_size": 9}, "Sequential does not take images of 9x9 pixels: "),
    ],
)
def test_what_cannot_be_measured(options, message) -> None:
    network = Extractor(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5)))
    with pytest.raises(ValueError, match=message):
        measure(network, **{"image_size": 8, **options})


def test_too_many_images_at_once(monkeypatch) -> None:
    class Small(Net):
        def forward(self, image: Tensor) -> Tensor:
            if len(image) > 4:
                raise torch.OutOfMemoryError("out of memory")
            return super().forward(image)

    with pytest.raises(ValueError, match="a batch of 5 cannot be run on cpu: out of memory"):
        measure(Extractor(Small()), 8, [4, 5])


# Side by side


def networks() -> tuple[WideResNet, WideResNet]:
    torch.manual_seed(0)
    return WideResNet(10, 2, num_classes=10), WideResNet(10, 1, num_classes=10)


def distilled(**options: Any) -> TMKDModule:
    teacher, student = networks()
    return tmkd_module(teacher, student, views=["rgb", "edge"], fusion="mean", text_weight=0, **options)


def digits() -> DigitsDataModule:
    return DigitsDataModule(image_size=16, batch_size=200)


def run(module: Any, data: Any = None, **options: Any) -> dict[str, Any]:
    return compare(module, image_size=16, batch_sizes=[2], data=data, accelerator="cpu", **options)


@cache
def by_hand(role: str) -> dict[str, float]:
    """On all test digits, by scikit-learn."""
    network = dict(zip(("teacher", "student"), networks(), strict=True))[role]
    data = digits()
    data.setup("test")
    images, labels = (torch.cat(parts) for parts in zip(*data.test_dataloader(), strict=True))
    with torch.no_grad():
        logits = Extractor(network.eval())(images).logits
    answers = logits.argmax(1)
    return {
        "top1": (answers == labels).float().mean().item(),
        "top5": top_k_accuracy_score(labels, logits, k=5, labels=range(10)),
        "recall": recall_score(labels, answers, average="macro", zero_division=0),
    }


def test_each_network_is_measured_on_the_whole_test_split() -> None:
    module = distilled()
    measured = run(module, digits())
    assert measured["data"] == {
        "datamodule": "tmkd_lightning.data.datamodules.digits.DigitsDataModule",
        "image_size": 16,
        "test_images": 599,
    }
    teacher, student = (measured["networks"][role] for role in ("teacher", "student"))
    assert teacher["accuracy"] == pytest.approx(by_hand("teacher"), abs=1e-6)
    assert student["accuracy"] == pytest.approx(by_hand("student"), abs=1e-6)
    assert by_hand("teacher") != by_hand("student")
    assert module.student is module.extractor.network is not module.teacher.extractor.network  # as it was before
    ratio = measured["ratio"]
    assert ratio["parameters"] == student["parameters"] / teacher["parameters"] < 0.3
    assert ratio["top-1"] == student["accuracy"]["top1"] / teacher["accuracy"]["top1"]
    assert ratio["latency, batch 2"] == student["latency"][0]["median_ms"] / teacher["latency"][0]["median_ms"]


def test_a_classifier_has_one_column() -> None:
    measured = run(ClassifierModule(networks()[1]), digits())
    assert list(measured["networks"]) == ["network"]
    assert measured["networks"]["network"]["accuracy"] == pytest.approx(by_hand("student"), abs=1e-6)
    assert measured["ratio"] is None
    assert to_markdown(measured).splitlines()[0].split() == ["|", "|", "network", "(WideResNet)", "|"]


def test_a_teacher_without_weights_has_a_size_and_no_accuracy() -> None:
    measured = run(distilled(), digits(), no_teacher="they are gone")
    teacher, student = (measured["networks"][role] for role in ("teacher", "student"))
    assert (teacher["accuracy"], teacher["not_measured"]) == (None, "they are gone")
    assert teacher["macs"] > student["macs"] > 0
    assert student["accuracy"] == pytest.approx(by_hand("student"), abs=1e-6)
    assert "top-1" not in measured["ratio"]
    text = to_markdown(measured)
    assert "- accuracy of teacher: not measured, they are gone\n" in text
    assert [line.split("|")[2].strip() for line in text.splitlines() if "top-1" in line] == ["not measured"]


class Loaders(LightningDataModule):
    """Test loaders of tiny images."""

    def __init__(self, loaders: Any) -> None:
        super().__init__()
        self.loaders = loaders

    def test_dataloader(self) -> Any:
        return self.loaders


def folder(root: Path) -> ImageFolderDataModule:
    for name in ("a", "b", "c"):
        (root / "train" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / "train" / name / "0.png")
    return ImageFolderDataModule(str(root), image_size=8, num_workers=0)


def test_without_a_test_split_the_rest_is_measured(tmp_path, loader) -> None:
    module = ClassifierModule(Net())
    for data, reason in (
        (folder(tmp_path), f"there is no test split (no folder {tmp_path / 'test'}: images are expected in "),
        (LightningDataModule(), "there is no test split (`test_dataloader` must be implemented"),
        (Loaders([loader(), loader()]), "the data have 2 test loaders, not one"),
        (None, "no data were given"),
    ):
        found = run(module, data)
        measured = found["networks"]["network"]
        assert measured["accuracy"] is found["data"]["test_images"] is None
        assert measured["not_measured"].startswith(reason)
        assert measured["macs"] == 256 * 8 * 27 + 8 * 3


def test_a_fault_within_the_test_split_is_an_error() -> None:
    class Damaged(list):
        def __getitem__(self, index: int) -> Any:
            if index == 5:
                raise DataError("image 5 cannot be read")
            return super().__getitem__(index)

    loader = torch.utils.data.DataLoader(Damaged(make_images(9)), batch_size=3)
    module = ClassifierModule(Net())
    own = module.extractor
    with pytest.raises(DataError, match="image 5 cannot be read"):
        run(module, Loaders(loader))
    assert module.extractor is own


def test_an_accelerator_that_is_not_here() -> None:
    missing = "mps" if torch.cuda.is_available() else "cuda"
    with pytest.raises(ValueError, match=f"accelerator {missing!r} cannot be used here: "):
        compare(ClassifierModule(Net()), image_size=8, accelerator=missing)


# Files

TIMES = {"batch_size": 1, "q1_ms": 1.0, "median_ms": 1.2345, "q3_ms": 1500.4, "runs": 20}
BIG = {
    "network": "Big",
    "parameters": 1234567,
    "macs": 5000,
    "bytes": 4000,
    "latency": [TIMES],
    "accuracy": {"top1": 0.9, "top5": 1.0, "recall": 0.85},
    "not_measured": None,
}
SMALL = {**BIG, "network": "Small", "parameters": 1234, "macs": 1000, "accuracy": None, "not_measured": "why | not"}
REPORT = {
    "checkpoint": "last.ckpt",
    "networks": {"teacher": BIG, "student": SMALL},
    "ratio": {"parameters": 0.00099954, "MACs": 0.2, "size": 1.0, "latency, batch 1": 1.0},
    "data": {"datamodule": "my.Data", "image_size": 8, "test_images": 7},
    "device": {"type": "cpu", "name": "a CPU", "threads": 3},
    "versions": {"torch": "9"},
}


TABLE = """\
|                  |        teacher (Big) |      student (Small) | student / teacher |
|------------------|---------------------:|---------------------:|------------------:|
| parameters       |            1,234,567 |                1,234 |             0.001 |
| MACs             |                5,000 |                1,000 |               0.2 |
| size             |               4.00kB |               4.00kB |                 1 |
| latency, batch 1 | 1.23 ms (1 to 1,500) | 1.23 ms (1 to 1,500) |                 1 |
| top-1            |                90.0% |         not measured |                   |
| top-5            |               100.0% |         not measured |                   |
| macro recall     |                85.0% |         not measured |                   |

- MACs: of one image of 8x8 pixels, half of the FLOPs of convolutions and matrix products
- size: weights and buffers in float32, as safetensors
- latency: median (quartiles) of at least 2 warm runs in float32 on a CPU, 3 thread(s)
- accuracy: on the plain images of the whole test split of Data, 7 images
- accuracy of student: not measured, why | not
- checkpoint: last.ckpt
- made with torch 9
"""


def test_the_table_in_markdown() -> None:
    assert to_markdown(REPORT) == TABLE


def test_names_of_the_files() -> None:
    for name in ("a/report", "a/report.md", "a/report.json"):
        assert report_files(name) == [Path("a/report.md"), Path("a/report.json")]
    assert report_files("run.v2") == [Path("run.v2.md"), Path("run.v2.json")]


def test_both_files_say_the_same_and_none_is_half_written(tmp_path) -> None:
    markdown, data = write_report(REPORT, tmp_path / "new" / "report")
    assert markdown.read_text() == to_markdown(REPORT)
    assert json.loads(data.read_text()) == REPORT
    with pytest.raises(TypeError):
        write_report({**REPORT, "checkpoint": Path("other.ckpt")}, tmp_path / "new" / "report")
    assert markdown.read_text() == to_markdown(REPORT)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["report.json", "report.md"]
