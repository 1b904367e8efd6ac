"""Checkpoints, modules, teachers and data that name the classes otherwise: no label is taken for another class."""

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from helpers.tiny import Net, make_images, tmkd_module
from tmkd_lightning import ClassifierModule, Extractor, TMKDModule
from tmkd_lightning.callbacks import TeacherCache
from tmkd_lightning.cli import figures
from tmkd_lightning.data import DigitsDataModule
from tmkd_lightning.distillers import KD
from tmkd_lightning.export import export_student, predict_folder
from tmkd_lightning.modules.loading import teacher_order

ANIMALS = ["cat", "dog", "emu"]
MOVED = ["a emu", "cat", "dog"]
PERMUTED = ["emu", "cat", "dog"]
RENAMED = ["kitten", "puppy", "chick"]
LOSE = {"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.0)}
KD_ALONE = {"views": ["rgb"], "distiller": KD(), "feature_weight": 0, "text_weight": 0, **LOSE}
WRITTEN = {"format": "state_dict", "image_size": 8}
QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


class Data(LightningDataModule):
    def __init__(self, class_names: Any) -> None:
        super().__init__()
        self.class_names = class_names

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(make_images(6), batch_size=3)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


def learner(**options: Any) -> ClassifierModule:
    return ClassifierModule(Net(), **LOSE, **options)


def loaded(path: Path, **options: Any) -> ClassifierModule:
    return ClassifierModule.load_from_checkpoint(path, network=Net(), weights_only=True, **options)


def run(verb: str, module: ClassifierModule, data: Data, path: Path | None = None) -> None:
    trainer = Trainer(max_epochs=2, enable_checkpointing=False, num_sanity_val_steps=0, **QUIET)
    getattr(trainer, verb)(module, datamodule=data, ckpt_path=path, weights_only=None if path is None else True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run on animals."""
    path = tmp_path_factory.mktemp("run") / "last.ckpt"
    trainer = Trainer(max_epochs=1, enable_checkpointing=False, **QUIET)
    trainer.fit(learner(), datamodule=Data(ANIMALS))
    trainer.save_checkpoint(path)
    return path


# Checkpoints and data


@pytest.mark.parametrize(
    ("verb", "names"),
    [("fit", MOVED), ("validate", PERMUTED), ("test", ["cat", "dog", "rhea"]), ("predict", np.array(PERMUTED))],
)
def test_other_names_are_refused(checkpoint: Path, verb: str, names: Any) -> None:
    first = next(label for label in range(3) if names[label] != ANIMALS[label])
    message = f"class {first} is '{ANIMALS[first]}' in the checkpoint and '{names[first]}' in the data"
    with pytest.raises(ValueError, match=message):
        run(verb, learner(), Data(names), checkpoint)
    if verb != "fit":
        with pytest.raises(ValueError, match=message):
            run(verb, loaded(checkpoint), Data(names))


@pytest.mark.parametrize(
    "names", [ANIMALS, ("CAT", "dog", "Emu"), None, "animals", ["cat", "dog"], [1.5, 2.5, 3.5], ["x", "x", "x"], 3]
)
def test_the_same_names_and_none_at_all(checkpoint: Path, names: Any) -> None:
    run("test", learner(), Data(names), checkpoint)


def test_one_module_on_two_sets_of_data() -> None:
    module = learner()
    run("test", module, Data(PERMUTED))  # nothing has been learned
    for verb in ("fit", "test", "fit"):
        run(verb, module, Data(ANIMALS))
    with pytest.raises(ValueError, match="another order: class 0 is 'cat' in training and 'emu' in the data"):
        run("test", module, Data(PERMUTED))
    with pytest.raises(ValueError, match=r"class 0 is 'cat' in the argument class_names and 'emu' in the data"):
        run("fit", learner(class_names=ANIMALS), Data(PERMUTED))


def test_a_rename_is_said_by_the_argument(checkpoint: Path) -> None:
    """And an order is none: neither for data, nor for files that are written."""
    run("test", loaded(checkpoint, class_names=RENAMED), Data(RENAMED))
    with pytest.raises(ValueError, match="another order"):
        run("test", learner(class_names=PERMUTED), Data(PERMUTED), checkpoint)
    module = loaded(checkpoint, class_names=PERMUTED)
    with pytest.raises(ValueError, match="another order: class 0 is 'cat' in the checkpoint and 'emu' in the argument"):
        export_student(module, checkpoint.with_name("a.safetensors"), **WRITTEN)


def test_names_for_export_and_prediction(checkpoint: Path, tmp_path: Path) -> None:
    """What a module has learned counts before the data that it last met; names that are given may rename."""
    module, file = loaded(checkpoint), tmp_path / "a.safetensors"
    with pytest.raises(ValueError, match="class 0 is 'cat' in the checkpoint"):
        run("test", module, Data(MOVED))
    for names, expected in ((None, ANIMALS), (["kitten", "dog", "emu"], ["kitten", "dog", "emu"])):
        assert json.loads(export_student(module, file, **WRITTEN, class_names=names)["class_names"]) == expected
    with pytest.raises(ValueError, match="class 0 is 'cat' in the module and 'emu' in the names given"):
        export_student(module, file, **WRITTEN, class_names=PERMUTED)
    with pytest.raises(ValueError, match="another order"):
        predict_folder(module, tmp_path, tmp_path / "a.csv", transform=nn.Identity(), class_names=PERMUTED)


def test_training_goes_on_with_other_classes_aloud(checkpoint: Path) -> None:
    run("fit", loaded(checkpoint, **LOSE), Data(ANIMALS))  # in silence, as in resuming
    run("fit", learner(), Data(ANIMALS), checkpoint)
    module = loaded(checkpoint, **LOSE)
    with pytest.warns(UserWarning, match="other classes than it is trained on now: class 0 is 'cat' in the check"):
        run("fit", module, Data(PERMUTED))
    run("test", module, Data(PERMUTED))
    with pytest.raises(ValueError, match="another order"):
        run("test", module, Data(ANIMALS))


def test_words_of_the_module_for_data_of_codes(tmp_path: Path) -> None:
    """The names that the data had in training are in the file too."""
    codes, path = Data(["n01", "n02", "n03"]), tmp_path / "last.ckpt"
    module = learner(class_names=ANIMALS)
    run("fit", module, codes)
    trainer = Trainer(**QUIET)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)
    content = torch.load(path, weights_only=True)
    assert (content["tmkd_class_names"], content["tmkd_trained_class_names"]) == (ANIMALS, codes.class_names)
    run("test", learner(), codes, path)
    with pytest.raises(ValueError, match="'n01' in the checkpoint and 'n02' in the data"):
        run("test", learner(class_names=ANIMALS), Data(["n02", "n01", "n03"]), path)


def test_prompts_and_the_data(fit: Callable[..., Trainer], prompts: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="class 0 is 'emu' in the data and 'cat' in PromptEmbeddings"):
        fit(tmkd_module(Net(), Net()), datamodule=Data(PERMUTED), callbacks=[prompts(class_names=ANIMALS)])


def test_figures_hold_runs_and_data_against_each_other(checkpoint: Path) -> None:
    runs = {"a": loaded(checkpoint), "b": loaded(checkpoint)}
    figures._networks(runs, teacher=False)
    with pytest.raises(ValueError, match="class 0 is 'cat' in the checkpoint and 'emu' in the data"):
        figures.collect(runs["a"], {"a": runs["a"].extractor}, Data(PERMUTED), accelerator="cpu")
    runs["b"].saved_class_names = runs["b"].trained_class_names = PERMUTED
    with pytest.raises(ValueError, match="other classes: class 0 is 'cat' in run a and 'emu' in run b"):
        figures._networks(runs, teacher=False)


def test_a_dataset_behind_a_plain_loader_knows_its_classes(checkpoint: Path) -> None:
    """As torchvision's ImageFolder does."""

    class Folder(TensorDataset):
        classes = PERMUTED

    images, labels = torch.rand(6, 3, 8, 8), torch.arange(6) % 3
    loader = DataLoader(Subset(Folder(images, labels), range(6)), batch_size=3)
    trainer = Trainer(max_epochs=1, enable_checkpointing=False, num_sanity_val_steps=0, **QUIET)
    with pytest.raises(ValueError, match="class 0 is 'cat' in the checkpoint and 'emu' in the data"):
        trainer.test(learner(), loader, ckpt_path=checkpoint, weights_only=True)
    module = learner()
    trainer.fit(module, loader)
    assert module.trained_class_names == PERMUTED
    trainer = Trainer(max_epochs=1, enable_checkpointing=False, num_sanity_val_steps=0, **QUIET)
    trainer.fit(learner(), datamodule=Data(ANIMALS))
    other = learner(class_names=["kitten", "puppy", "cat"])
    trainer.test(other, Data(None).test_dataloader(), verbose=False)  # Lightning goes on naming the last datamodule


# Teachers


def teacher_file(folder: Path, names: list[str], trained: list[str] | None = None) -> tuple[Net, str]:
    torch.manual_seed(3)
    network = Net(16)
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    content = {"state_dict": state, "tmkd_class_names": names, "tmkd_trained_class_names": trained or names}
    torch.save(content, folder / "teacher.ckpt")
    return network, str(folder / "teacher.ckpt")


def taught(path: str | None, teacher: nn.Module | None = None, **options: Any) -> TMKDModule:
    return tmkd_module(teacher or Net(16), Net(), teacher_checkpoint=path, **{**KD_ALONE, **options})


def head(module: TMKDModule) -> torch.Tensor:
    return module.teacher.extractor.head.weight


def test_a_teacher_of_permuted_classes_is_put_in_order_aloud(tmp_path: Path) -> None:
    """Its logit of a class goes where the data have that class: by hand, old rows 1, 2, 0."""
    teacher, path = teacher_file(tmp_path, ["dog", "emu", "Cat"])
    module = taught(path)
    with pytest.warns(UserWarning, match="teacher.ckpt has the classes .* in another order: .* 3 of 3 classes move"):
        run("fit", module, Data(ANIMALS))
    image = torch.rand(4, 3, 8, 8)
    expected = Extractor(teacher).eval()(image).logits[:, [2, 0, 1]]
    torch.testing.assert_close(module.teacher.frozen(image).logits, expected)
    assert head(module).equal(teacher.fc.weight[[2, 0, 1]])


def test_figures_put_the_teacher_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher, path = teacher_file(tmp_path, ["dog", "emu", "cat"])
    module = taught(path)
    module.saved_class_names = ANIMALS  # as its checkpoint says
    assert figures._networks({"a": module}, path)["teacher"].head.weight.equal(teacher.fc.weight[[2, 0, 1]])
    assert "3 of 3 classes move" in capsys.readouterr().out


@pytest.mark.filterwarnings("error:.*another order")
@pytest.mark.parametrize(
    ("options", "data"), [({}, ["CAT", "dog", "emu"]), ({"class_names": ANIMALS}, None), ({}, None), ({}, 5)]
)
def test_a_teacher_of_the_same_classes_is_left_alone(tmp_path: Path, options: dict[str, Any], data: Any) -> None:
    teacher, path = teacher_file(tmp_path, ANIMALS)
    module = taught(path, **options)
    run("fit", module, Data(data))
    assert head(module).equal(teacher.fc.weight)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cat", "dog", "rhea"], r"teacher\.ckpt: .*class 2 is 'rhea' in the teacher's file and 'emu'"),
        (["emu", "cat", "rhea"], "class 0 is 'emu' in the teacher's file and 'cat' in the data"),
    ],
)
def test_a_teacher_of_other_classes_is_refused(tmp_path: Path, names: list[str], message: str) -> None:
    _, path = teacher_file(tmp_path, names)
    with pytest.raises(ValueError, match=message):
        run("fit", taught(path), Data(ANIMALS))
    _, path = teacher_file(tmp_path, RENAMED)
    run("fit", taught(path, class_names=RENAMED), Data(ANIMALS))  # a rename, said aloud


@pytest.mark.filterwarnings("ignore:.*(in another order|has learned other classes)")
def test_an_earlier_run_of_the_student_does_not_decide(tmp_path: Path) -> None:
    teacher, path = teacher_file(tmp_path, ANIMALS)
    module = taught(path)
    for names, rows in ((PERMUTED, [2, 0, 1]), (ANIMALS, [0, 1, 2])):
        run("fit", module, Data(names))
        assert head(module).equal(teacher.fc.weight[rows])


def test_a_teacher_that_comes_as_a_module_knows_its_classes() -> None:
    known = learner()
    run("fit", known, Data(PERMUTED))
    weight, module = known.network.fc.weight.clone(), taught(None, known)
    with pytest.warns(UserWarning, match=r"the teacher has the classes of the data in another order.* 3 of 3"):
        run("fit", module, Data(ANIMALS))
    assert head(module).equal(weight[[1, 2, 0]])
    run("fit", module, Data(ANIMALS))  # in order by now
    assert head(module).equal(weight[[1, 2, 0]])


def test_data_of_the_teacher_count_before_words(tmp_path: Path) -> None:
    """Words may be the same in both runs and codes sorted otherwise: the codes are on the disk."""
    _, path = teacher_file(tmp_path, ANIMALS, trained=["n1", "n3", "n2"])
    assert teacher_order(taught(path, class_names=ANIMALS), path, Data(["n1", "n2", "n3"])) == [0, 2, 1]


def test_the_part_of_a_teachers_file_is_chosen_by_its_key(tmp_path: Path) -> None:
    raw, average, path = Net(16), Net(16), str(tmp_path / "both.pth")
    torch.save({"state_dict": raw.state_dict(), "state_dict_ema": average.state_dict()}, path)
    module = taught(path, teacher_key="state_dict_ema")
    run("fit", module, Data(None))
    assert module.teacher.extractor.network.conv.weight.equal(average.conv.weight)
    with pytest.raises(ValueError, match=r"several networks that fit.*teacher_key"):
        run("fit", taught(path), Data(None))


def test_an_exported_teacher_knows_its_classes(tmp_path: Path) -> None:
    path, network = tmp_path / "teacher.safetensors", ClassifierModule(Net(16), class_names=PERMUTED)
    export_student(network, path, **WRITTEN)
    module = taught(str(path))
    with pytest.warns(UserWarning, match="another order"):
        run("fit", module, Data(ANIMALS))
    assert head(module).equal(network.network.fc.weight[[1, 2, 0]])
    export_student(ClassifierModule(Net(16)), path, **WRITTEN)  # calls them by number
    assert teacher_order(taught(str(path)), path, Data(ANIMALS)) is None


class Folders(DigitsDataModule):
    """Digits under names in an order of one's own; the labels are the same, which no matter here."""

    class_names = ()

    def __init__(self, names: list[str]) -> None:
        super().__init__(train_samples=40, image_size=8, batch_size=20, num_workers=0, augmentation_replicas=1)
        self.class_names = names


@pytest.mark.parametrize("known", [10, 12])
def test_after_a_complete_cache_no_class_is_moved_again(tmp_path: Path, known: int) -> None:
    """Of a teacher that came with its weights and names; of twelve classes, ten are picked."""
    words, rows = [f"word {label}" for label in range(known)], [9, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    network = Net(16, num_classes=known)

    def train(module: TMKDModule, *callbacks: TeacherCache) -> TMKDModule:
        trainer = Trainer(max_epochs=1, enable_checkpointing=False, callbacks=list(callbacks), **QUIET)
        trainer.fit(module, Folders([words[row] for row in rows]))
        return module

    def make() -> TMKDModule:
        return tmkd_module(Extractor(copy.deepcopy(network), class_names=words), Net(8, 10), **KD_ALONE)

    with warnings.catch_warnings(action="ignore"):
        train(make(), TeacherCache(str(tmp_path / "cache"), "float32"))
        module = train(make(), TeacherCache(str(tmp_path / "cache"), "float32"))
        assert module.teacher_classes[0].names == [words[row] for row in rows]
        assert head(module).equal(network.fc.weight[rows])
        assert head(train(module)).equal(network.fc.weight[rows])


def test_caches_of_two_orders_are_two(tmp_path: Path) -> None:
    """The head is kept in the cache too; read from a complete one, where no file is, it is in the data's order."""
    words, rows = [f"word {label}" for label in range(10)], [9, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    network, path, cache = Net(16, num_classes=10), tmp_path / "teacher.ckpt", tmp_path / "cache"
    content = {"state_dict": network.state_dict(), "tmkd_class_names": words}
    torch.save(content, path)

    def train(names: list[str]) -> TMKDModule:
        module = tmkd_module(Net(16, 10), Net(8, 10), teacher_checkpoint=str(path), **KD_ALONE)
        trainer = Trainer(max_epochs=1, enable_checkpointing=False, callbacks=[TeacherCache(str(cache))], **QUIET)
        trainer.fit(module, Folders(names))
        return module

    with warnings.catch_warnings(action="ignore"):
        for order in (range(10), rows, rows):
            module = train([words[row] for row in order])
            assert head(module).equal(network.fc.weight[list(order)])
    assert len(list(cache.iterdir())) == 2
    torch.save({**content, "tmkd_class_names": ["other", *words[1:]]}, path)
    with pytest.raises(ValueError, match="the teacher knows other classes"):
        train(words)
