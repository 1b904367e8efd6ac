"""A teacher that knows more classes than the data have: its rows are picked by name, or the run does not start."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from helpers.tiny import Net, make_images, sgd, tmkd_module
from tmkd_lightning import ClassifierModule, Ensemble, Extractor, TMKDModule
from tmkd_lightning.callbacks import TeacherCache
from tmkd_lightning.cli import figures
from tmkd_lightning.data import DigitsDataModule
from tmkd_lightning.distillers import KD

pytestmark = pytest.mark.filterwarnings("ignore:.*(hardly better than guessing|knows . classes)")

ZOO = ["dog", "eel", "Cat", "fox", "emu"]
ANIMALS = ["cat", "dog", "emu"]
ROWS = [2, 0, 4]  # of the zoo, by hand


class Data(LightningDataModule):
    def __init__(self, class_names: list[str] | None = None, num_classes: int = 3) -> None:
        super().__init__()
        self.class_names, self.num_classes = ANIMALS if class_names is None else class_names, num_classes

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(make_images(6), batch_size=3)

    val_dataloader = train_dataloader


def zoo() -> Net:
    torch.manual_seed(3)
    return Net(16, len(ZOO))


def taught(teacher: Any, **options: Any) -> TMKDModule:
    options = {"views": ["rgb"], "distiller": KD(), "feature_weight": 0, "text_weight": 0, "optimizer": sgd, **options}
    return tmkd_module(teacher, options.pop("student", None) or Net(), **options)


def file_of(folder: Path, names: list[str] | None) -> str:
    state = {f"network.{key}": value for key, value in zoo().state_dict().items()}
    content = {"state_dict": state, "tmkd_class_names": names, "tmkd_trained_class_names": names}
    torch.save(content, folder / "zoo.ckpt")
    return str(folder / "zoo.ckpt")


def assert_picked(module: TMKDModule) -> None:
    image = torch.rand(4, 3, 8, 8)
    expected = Extractor(zoo()).eval()(image).logits[:, ROWS]
    torch.testing.assert_close(module.teacher.frozen(image).logits, expected)
    assert module.teacher.extractor.num_classes == 3
    assert module.teacher.extractor.head.weight.shape == (3, 16)


@pytest.mark.parametrize("num_classes", [None, 3, "data"])
@pytest.mark.parametrize("source", ["argument", "file", "file for a network of any head", "both"])
def test_rows_are_picked_by_name(fit: Any, tmp_path: Path, source: str, num_classes: Any) -> None:
    network = Net(16, 7) if source == "file for a network of any head" else zoo()
    path = None if source == "argument" else file_of(tmp_path, None if source == "both" else ZOO)
    teacher = Extractor(network, class_names=ZOO) if source in ("argument", "both") else network
    module = taught(teacher, teacher_checkpoint=path, num_classes=num_classes)
    with pytest.warns(UserWarning, match="knows 5 classes: its head keeps those 3 of the data, in their order"):
        fit(module, datamodule=Data(), max_epochs=1)
    assert_picked(module)
    assert not any(parameter.requires_grad for parameter in module.teacher.extractor.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(module, datamodule=Data(), max_epochs=1)  # once more
    assert_picked(module)


def test_a_module_that_was_trained_on_more_classes(fit: Any) -> None:
    known = ClassifierModule(zoo(), class_names=ZOO)
    known.saved_class_names = ZOO  # as its checkpoint says
    module = taught(known)
    fit(module, datamodule=Data(), max_epochs=1)
    assert_picked(module)


def test_the_data_may_call_them_otherwise(fit: Any) -> None:
    """`class_names` has the teacher's words in the data's order."""
    module = taught(Extractor(zoo(), class_names=ZOO), class_names=ANIMALS)
    fit(module, datamodule=Data(["n01", "n02", "n03"]), max_epochs=1)
    assert_picked(module)


def test_every_member_of_an_ensemble_is_picked_from(fit: Any) -> None:
    module = taught(Ensemble([Extractor(zoo(), class_names=ZOO), zoo()], "logits"))
    fit(module, datamodule=Data(), max_epochs=1)
    image = torch.rand(4, 3, 8, 8)
    expected = Extractor(zoo()).eval()(image).logits[:, ROWS]
    torch.testing.assert_close(module.teacher.frozen(image).logits, expected)


@pytest.mark.parametrize("source", ["argument", "file"])
def test_classes_that_the_teacher_lacks_are_listed(fit: Any, tmp_path: Path, source: str) -> None:
    data = Data(["cat", "gnu", "hen"])
    if source == "argument":
        module = taught(Extractor(zoo(), class_names=ZOO))
    else:
        module = taught(zoo(), teacher_checkpoint=file_of(tmp_path, ZOO))
    with pytest.raises(ValueError, match="knows 5 classes, and these of the data are not among them: 'gnu', 'hen';"):
        fit(module, datamodule=data, max_epochs=1)


def test_without_names_it_is_refused(fit: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"teacher Net has 5 classes, student Net has 3.*class_names=\[\.\.\.\]\)"):
        taught(zoo())
    module = taught(zoo(), teacher_checkpoint=file_of(tmp_path, None))
    with pytest.raises(ValueError, match=r"zoo\.ckpt: the teacher has 5 classes and the student 3.*nothing names the"):
        fit(module, datamodule=Data(), max_epochs=1)
    with pytest.raises(ValueError, match=r"the teacher has 5 classes and the student 3.*the data name none"):
        fit(taught(Extractor(zoo(), class_names=ZOO)), max_epochs=1)
    with pytest.raises(ValueError, match="4 class names for a network of 5 classes"):
        Extractor(zoo(), class_names=ZOO[:4])
    with pytest.raises(ValueError, match="student Net has 6"):  # fewer is never enough
        taught(Extractor(zoo(), class_names=ZOO), student=Net(8, 6))


def test_names_alone_put_a_teacher_of_the_same_classes_in_order(fit: Any) -> None:
    network = Net(16)
    weight = network.fc.weight.clone()
    module = taught(Extractor(network, class_names=["emu", "cat", "dog"]))
    with pytest.warns(UserWarning, match="in another order: .* 3 of 3 classes move"):
        fit(module, datamodule=Data(), max_epochs=1)
    assert module.teacher.extractor.head.weight.equal(weight[[1, 2, 0]])
    assert module.teacher.extractor.class_names == ANIMALS


WORDS = [f"word {label}" for label in range(10)]


class Words(DigitsDataModule):
    """Digits under names of one's own."""

    @property
    def class_names(self) -> list[str]:
        return WORDS


def test_a_complete_cache_serves_the_picked_classes(fit: Any, tmp_path: Path) -> None:
    names = ["more", *reversed(WORDS), "others"]
    torch.manual_seed(5)
    teacher = Net(16, 12)

    def train(*callbacks: TeacherCache) -> tuple[dict[str, Tensor], TMKDModule]:
        torch.manual_seed(0)
        data = Words(train_samples=20, batch_size=8, image_size=8, augmentation_replicas=1)
        network = Net(16, 12)
        network.load_state_dict(teacher.state_dict())
        module = taught(Extractor(network, class_names=names), student=Net(num_classes=10))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit(module, datamodule=data, max_epochs=2, callbacks=list(callbacks), limit_val_batches=0)
        return module.student.state_dict(), module

    live, _ = train()
    for _ in range(2):  # filled, then read
        cached, module = train(TeacherCache(str(tmp_path / "cache"), "float32"))
        assert all(value.equal(cached[key]) for key, value in live.items())
        assert module.teacher.extractor.head.weight.equal(teacher.fc.weight[list(range(10, 0, -1))])
        assert module.teacher.extractor.class_names == WORDS


def test_figures_pick_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = file_of(tmp_path, ZOO)
    module = taught(zoo(), teacher_checkpoint=path)
    module.saved_class_names = ANIMALS  # as its checkpoint says
    found = figures._networks({"a": module}, True)["teacher"]
    assert found.head.weight.equal(zoo().fc.weight[ROWS])
    assert "keeps those 3 of the data" in capsys.readouterr().out
