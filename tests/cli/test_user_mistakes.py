"""What a user can get wrong on the command line, and the few lines that name the thing, the place and the remedy."""

import logging
import sys
from argparse import ArgumentError
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import pytest
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from helpers.doc_pages import ROOT, headings
from tmkd_lightning.cli import errors
from tmkd_lightning.cli.arguments import Argument, arguments
from tmkd_lightning.cli.lightning_cli import warn_of_replaced_texts
from tmkd_lightning.cli.main import LIGHTNING_VERBS, VERBS, SaidOnce, main

CONFIG = """\
seed_everything: 0
trainer:
  max_epochs: 1
  accelerator: cpu
  limit_train_batches: 2
  limit_val_batches: 2
  enable_progress_bar: false
  enable_model_summary: false
  logger: false
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {dirpath: runs, monitor: val/top1, mode: max}
    - class_path: tmkd_lightning.callbacks.PromptEmbeddings
      init_args: {encoder: tmkd_lightning.text.HashingTextEncoder}
model:
  class_path: tmkd_lightning.TMKDModule
  init_args:
    teacher:
      class_path: tmkd_lightning.models.WideResNet
      init_args: {depth: 10, widen_factor: 1, num_classes: 10}
    student:
      class_path: tmkd_lightning.models.WideResNet
      init_args: {depth: 16, widen_factor: 1, num_classes: 10}
    distiller: tmkd_lightning.distillers.KD
    temperature: 4
    views: [rgb, edge]
    optimizer:
      class_path: torch.optim.SGD
      init_args: {lr: 0.05, momentum: 0.9}
data:
  class_path: tmkd_lightning.data.DigitsDataModule
  init_args: {image_size: 8, train_samples: 40, batch_size: 16}
"""
VIEWS = "views: [rgb, edge]"
STUDENT = "tmkd_lightning.models.WideResNet\n      init_args: {depth: 16, widen_factor: 1, num_classes: 10}"
VIT = "timm.create_model\n      init_args: {model_name: vit_tiny_patch16_224}\n      dict_kwargs: {num_classes: 10}"
DATA = "tmkd_lightning.data.DigitsDataModule\n  init_args: {image_size: 8, train_samples: 40, batch_size: 16}"
FOLDER = "tmkd_lightning.data.ImageFolderDataModule\n  init_args: {root: nowhere, image_size: 8}"
LOGGER = "logger: {class_path: CSVLogger, init_args: {save_dir: /proc/runs}}"
STOPPING = "callbacks:\n    - {class_path: EarlyStopping, init_args: {monitor: val/acc}}\n"
CACHE = "callbacks:\n    - {class_path: tmkd_lightning.callbacks.TeacherCache, init_args: {directory: kept}}\n"


class Mistake(NamedTuple):
    """An edit of the config, or a command, with what the answer says: what is wrong, and where."""

    old: str
    new: str
    said: str
    where: str
    words: tuple[str, ...] = ()


def command(words: str, said: str, where: str = "") -> Mistake:
    return Mistake("", "", said, where, tuple(words.split()))


FIT = "fit --config run.yaml "
MISTAKES = {
    # names
    "a module's argument": Mistake(
        "temperature:",
        "temperatur:",
        "TMKDModule has no argument 'temperatur': did you mean 'temperature'?",
        "line 25: m",
    ),
    "a trainer's argument": Mistake(
        "max_epochs",
        "max_epoch",
        "no argument 'trainer.max_epoch': did you mean 'trainer.max_epochs'?",
        "line 3: trainer",
    ),
    "a group": Mistake("seed_everything", "seed", "there is no argument 'seed'", "run.yaml, line 1: seed"),
    "a network's argument": Mistake(
        "depth: 16",
        "dept: 16",
        "WideResNet has no argument 'dept': did you mean 'depth'?",
        "line 23: model.student.dept",
    ),
    "an argument of a function that takes others": Mistake(
        STUDENT,
        "timm.create_model\n      init_args: {model_name: resnet18, classes: 10}",
        "; others go under dict_kwargs, beside init_args",
        "line 23: model.student.classes",
    ),
    "a network's name": Mistake("student:", "studnet:", "did you mean 'student'?", "line 21: model.studnet"),
    "a callback's argument": Mistake(
        "monitor", "monitr", "ModelCheckpoint has no argument 'monitr': did", "line 12: tr"
    ),
    "an optimizer's argument": Mistake(
        "momentum", "momentun", "SGD has no argument 'momentun': did you", "line 29: mo"
    ),
    "a datamodule's argument": Mistake(
        "train_samples", "train_sample", "did you mean 'train_samples'?", "line 32: data"
    ),
    "an option": command(FIT + "--model.temperatur 3", "did you mean 'temperature'?", "line: --model.temperatur"),
    "a part of an option's name": command("cache list --dir runs", "did you mean 'directory'?", "line: --dir"),
    "a group of options": command(FIT + "--modle.temperature 3", "did you mean 'model'?", "command line: --modle"),
    # classes
    "a module": Mistake("TMKDModule", "TMKDModul", "has no 'TMKDModul': did you mean 'TMKDModule'?", "line 16: model"),
    "a package": Mistake(
        "tmkd_lightning.TMKD", "tmkd_lightnin.TMKD", "did you mean 'tmkd_lightning'?", "line 16: model"
    ),
    "a package that is not here": Mistake(
        "tmkd_lightning.TMKD",
        "no_such_project.nets.TMKD",
        "there is no module 'no_such_project': is it installed",
        "line 16: model",
    ),
    "a method": Mistake(
        "distillers.KD", "distillers.KDD", "distillers has no 'KDD': did you mean 'KD'?", "line 24: model"
    ),
    "a class of another kind": Mistake(
        "distillers.KD", "models.WideResNet", "models.WideResNet is no Distiller", "line 24: model.distiller"
    ),
    "a callback": Mistake(
        "PromptEmbeddings", "PromptEmbedding", "did you mean 'PromptEmbeddings'?", "line 13: trainer"
    ),
    "a network": Mistake("WideResNet", "WideResNett", "did you mean 'WideResNet'?", "line 19: model.teacher"),
    "an optimizer": Mistake("torch.optim.SGD", "torch.optim.SDG", "did you mean 'SGD'?", "line 28: model.optimizer"),
    "no class_path": Mistake(
        "  class_path: tmkd_lightning.TMKDModule\n", "", "is a class_path missing?", "line 17: model"
    ),
    # values
    "a view": Mistake(
        "[rgb, edge]",
        "[rgb, edges]",
        "unknown view 'edges': choose from ['edge', 'high_frequency', 'rgb']",
        "line 26: mod",
    ),
    "a number out of range": Mistake(
        "ure: 4", "ure: -1", "temperature must be above 0 and finite, got -1", "line 25: mod"
    ),
    "a word for a number": Mistake(
        "ure: 4", "ure: hot", "'temperature' must be a number, got hot", "line 25: model.temp"
    ),
    "a choice": Mistake(
        VIEWS, "fusion: txt", "must be text, image or mean, got txt: did you mean 'text'?", "line 26: model.fusion"
    ),
    "a word for a list": Mistake(VIEWS, "views: rgb", "'views' must be a list, got rgb", "line 26: model.views"),
    "no as a word": Mistake(VIEWS, "class_names: [yes, no]", "put quotes around no, yes", "line 26: model.class_names"),
    "a network's depth": Mistake("depth: 16", "depth: 17", "depth must be 6 * n + 4", "line 23: model.student.depth"),
    "batches of one": Mistake(
        "size: 16", "size: 1", "batch_size must be a whole number, at least 2, got 1", "32: data.ba"
    ),
    "a learning rate": Mistake("lr: 0.05", "lr: -0.05", "Invalid learning rate: -0.05", "line 29: model.optimizer.lr"),
    "a teacher's device": Mistake(
        VIEWS,
        "teacher_device: cudda",
        "teacher_device must be a device such as cpu, cuda or cuda:1",
        "26: model.teacher_d",
    ),
    "an epoch count": Mistake("epochs: 1", "epochs: one", "whole number", "line 3: trainer"),
    # of Lightning
    "an accelerator": Mistake(
        "accelerator: cpu", "accelerator: gpuu", "accelerator='gpuu'", "line 4: trainer.accelerator"
    ),
    "a precision": command(FIT + "--trainer.precision 17", "bf16-mixed, 32-true", "command line: --trainer.precision"),
    "a strategy": command(
        FIT + "--trainer.strategy ddpp", "Example choices: auto, ddp", "command line: --trainer.strategy"
    ),
    "a number of devices": command(FIT + "--trainer.devices none", "should be an int > 0", "line: --trainer.devices"),
    "a monitored metric": Mistake(
        "callbacks:\n", STOPPING, "use any of the following: ", "line 11: trainer.callbacks.monitor"
    ),
    "the metric of a checkpoint": Mistake(
        "val/top1", "val/acc", "could not find the monitored key", "line 12: trainer.call"
    ),
    # files
    "no config": command("fit", "needs 'data' and 'model': name a config with --config"),
    "a config that is not there": command(
        "fit --config rnu.yaml", "rnu.yaml: did you mean 'run.yaml'?", "line: --config"
    ),
    "a part of a config": Mistake("data:", "daten:", "no argument 'daten': did you mean 'data'?", "line 30: daten"),
    "an empty config": Mistake(CONFIG, "", "run.yaml holds no settings: expected names with values", ""),
    "a config without its option": command("fit run.yaml", "write --config run.yaml"),
    "a callback by its name alone": Mistake(
        "tmkd_lightning.callbacks.PromptEmbeddings",
        "PromptEmbedding",
        "there is no class 'PromptEmbedding': did you mean 'tmkd_lightning.callbacks.PromptEmbeddings'?",
        "line 13: trainer.callbacks",
    ),
    "a datamodule by its name alone": command(
        "data check --data DigitDataModule", "did you mean 'tmkd_lightning.data.DigitsDataModule'?", "line: --data"
    ),
    "an optimizer's missing argument": Mistake(
        VIEWS,
        "lr_scheduler: {class_path: torch.optim.lr_scheduler.StepLR}",
        "StepLR needs 'step_size'",
        "line 26: model",
    ),
    "a number of class names": Mistake(
        VIEWS, "class_names: [a, b]", "2 class names for a network of 10 classes", "line 26: model.class_names"
    ),
    "a folder to write to": Mistake(
        "logger: false", LOGGER, "No such file or directory: '/proc/runs'", "line 9: trainer"
    ),
    "no data": Mistake(CONFIG[CONFIG.index("data:") :], "", "run.yaml has no 'data', which tmkd fit needs", ""),
    "no teacher": Mistake("    teacher:", "    student:", "TMKDModule needs 'teacher'", "line 15: model"),
    "an indentation": Mistake("  max_epochs", "\tmax_epochs", "run.yaml is not a config that can be read safely", ""),
    "a teacher's file": Mistake(
        VIEWS,
        "teacher_checkpoint: runs/bst.ckpt",
        "no teacher_checkpoint at runs/bst.ckpt: is the path",
        "line 26: model",
    ),
    "a folder of images": Mistake(
        DATA, FOLDER, "no folder nowhere/train: images are expected in", "line 32: data.root"
    ),
    # what does not go together
    "classes": Mistake(
        "1, num_classes: 10}\n    dis", "1, num_classes: 7}\n    dis", "student WideResNet has 7", "num_classes"
    ),
    "an image size": Mistake(
        STUDENT,
        VIT,
        "student VisionTransformer does not take images of 8x8 pixels, but of 224x224",
        "line 33: data.image_size",
    ),
    "a cache of images that never repeat": Mistake(
        "callbacks:\n", CACHE, "set augmentation_replicas of the datamod", ""
    ),
    # other verbs
    "a verb's file": command(
        "export --checkpoint no.ckpt --output a.onnx", "no checkpoint at no.ckpt", "line: --checkpoint"
    ),
    "a verb's option": command("export --chekpoint no.ckpt --output a.onnx", "did you mean 'checkpoint'?", ""),
    "a verb's missing option": command("export --output a.onnx", "needs --checkpoint"),
    "a directory of caches": command("cache list --directory nowhere", "there is no directory nowhere: name the one"),
    "a figure": command("figures --checkpoint no.ckpt --which roc", "unknown figure 'roc': choose from"),
    "a linear head's place": command(
        "probe --config run.yaml --output run.yaml/a.ckpt", "run.yaml is a file, not a folder"
    ),
    "a linear head's passes": command(
        "probe --config run.yaml --augmented -1", "augmented must be a whole number, at least 0"
    ),
}


@pytest.fixture
def answer(tmp_path, monkeypatch, capsys):
    """Runs ``tmkd`` as from a shell, in a folder with a config, and gives what it says at its end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*words: str, config: str = CONFIG) -> list[str]:
        Path("run.yaml").write_text(config)
        monkeypatch.setattr(sys, "argv", ["tmkd", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert ended.value.code == 2, said.err
        assert not any(word in said.err for word in ("Traceback", "usage:", "Namespace", "<class "))
        lines = said.err.splitlines()
        return lines[next(index for index, line in enumerate(lines) if " error: " in line) :]

    return run


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(answer, name) -> None:
    mistake = MISTAKES[name]
    assert mistake.old in CONFIG
    config = CONFIG.replace(mistake.old, mistake.new, 1) if mistake.old else CONFIG
    words = mistake.words or tuple(FIT.split())
    lines = answer(*words, config=config)
    assert len(lines) <= 6
    assert lines[0].startswith(f"tmkd {words[0]}: error: ")
    assert mistake.said in lines[0]
    assert mistake.where in lines[1]
    assert lines[1].startswith("  at  ") == (len(lines) == 3)
    page, _, anchor = lines[-1].split()[1].rstrip(";").partition("#")
    assert not anchor or anchor in headings((ROOT / page).read_text())


def test_there_are_enough_mistakes() -> None:
    assert len(MISTAKES) >= 40


def test_pages_that_explain_exist() -> None:
    for page in {*errors.PAGES.values(), errors._PAGE}:
        path, _, anchor = page.partition("#")
        assert not anchor or anchor in headings((ROOT / path).read_text()), page


def test_the_mistake_is_sought_in_the_file_that_counts(answer) -> None:
    """In the last of several configs, in a part that has a file of its own, or on the command line."""
    Path("more.yaml").write_text("# mine\nmodel:\n  init_args:\n    temperature: -2\n")
    assert answer(*FIT.split(), "--config=more.yaml")[1] == "  at  more.yaml, line 4: model.temperature"
    Path("data.yaml").write_text("class_path: DigitsDataModule\ninit_args:\n  image_size: 8\n  batch_size: 1\n")
    part = CONFIG[: CONFIG.index("data:")] + "data: data.yaml\n"
    assert answer(*FIT.split(), config=part)[1] == "  at  data.yaml, line 4: data.batch_size"
    assert answer(*FIT.split(), "--data", "data.yaml")[1] == "  at  data.yaml, line 4: data.batch_size"
    words = [*FIT.split(), "--config=more.yaml", "--model.temperature=-3"]
    assert answer(*words)[1] == "  at  the command line: --model.temperature"


def test_secrets_are_not_repeated(answer) -> None:
    logger = ["--trainer.logger", "WandbLogger", "--trainer.logger.api_key"]
    for words in (["5up3r"], [], ["5up3r", "--trainer.max_epochs", "many"]):
        assert "5up3r" not in "".join(answer(*FIT.split(), *logger, *words))


FAULTY = """\
import torch


class Network(torch.nn.Linear):
    def __init__(self, width: int = 1) -> None:
        super().__init__(3, 10)
        if width > 8:
            raise ValueError("width must be at most 8, got 9")
        [][width]

    def forward(self, image):
        return super().forward(image.mean((2, 3))).undefined
"""


def test_faults_of_code_keep_their_traceback(answer, monkeypatch) -> None:
    """Also a user's own; what a constructor of theirs refuses is told."""
    Path("my_net.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(Path.cwd())
    own = CONFIG.replace(STUDENT, "my_net.Network\n      init_args: {width: 9}")
    assert answer(*FIT.split(), config=own) == [
        "tmkd fit: error: width must be at most 8, got 9",
        "  at  run.yaml, line 23: model.student.width",
        "  see docs/errors.md#the-command-line; --debug shows the traceback",
    ]
    Path("run.yaml").write_text(own.replace("width: 9", "width: 2"))
    with pytest.raises(IndexError, match="list index out of range") as raised:
        main()
    assert raised.value.__notes__ == ["while building my_net.Network"]
    Path("my_net.py").write_text(FAULTY.replace("[][width]", "pass"))


def test_a_function_that_fails_is_told_by_what_it_says(answer, monkeypatch) -> None:
    """Such as timm.create_model without a network; not as one that gives another type."""
    Path("my_nets.py").write_text(
        "from torch import nn\n\ndef network(width: int = 1) -> nn.Module:\n    raise OSError('the server is gone')\n"
    )
    monkeypatch.syspath_prepend(Path.cwd())
    assert answer(*FIT.split(), config=CONFIG.replace(STUDENT, "my_nets.network\n      init_args: {width: 9}"))[:2] == [
        "tmkd fit: error: my_nets.network failed: the server is gone",
        "  at  run.yaml, line 22: model.student.class_path",
    ]


def test_a_server_that_does_not_answer_is_told_of_once() -> None:
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.Logger("hub")
    logger.addHandler(handler)
    logger.addFilter(SaidOnce())
    for reason in ("timed out", "timed out", "refused", "timed out"):
        logger.warning("%s thrown while requesting HEAD https://hub/%d", reason, len(said))
        logger.warning("Retrying in 1s [Retry 1/5].")
    logger.warning("another thing")
    logger.warning("another thing")
    hub = "thrown while requesting HEAD https://hub/"
    assert said == [f"timed out {hub}0", f"refused {hub}1", "another thing", "another thing"]


@pytest.mark.parametrize("how", ["option", "environment"])
def test_debug_shows_all(answer, monkeypatch, how) -> None:
    Path("run.yaml").write_text(CONFIG.replace("temperature: 4", "temperature: -1"))
    monkeypatch.setenv(errors.DEBUG, "0" if how == "option" else "1")
    monkeypatch.setattr(sys, "argv", ["tmkd", *FIT.split(), *(["--debug"] if how == "option" else [])])
    with pytest.raises(ValueError, match=r"^temperature must be above 0 and finite, got -1"):
        main()
    monkeypatch.setattr(sys, "argv", ["tmkd", *FIT.split(), "--trainer.max_epoch_s", "3"])
    with pytest.raises(ArgumentError, match="max_epoch_s"):
        main()


def test_exceptions_are_as_raised_in_python(tmp_path) -> None:
    (tmp_path / "run.yaml").write_text(CONFIG.replace("temperature: 4", "temperature: -1"))
    with pytest.raises(ValueError, match=r"^temperature must be above 0 and finite, got -1"):
        main(["fit", "--config", str(tmp_path / "run.yaml")])


@pytest.mark.parametrize(
    ("message", "owner", "found"),
    [
        ("depth must be 6 * n + 4 (10, 16, 22), got 17", "my.WideResNet", "model.teacher.depth"),
        ("no teacher_checkpoint at runs/a.ckpt: is it right?", None, "model.teacher_checkpoint"),
        (
            "the data has 10 classes, but X was built for 7: build it with num_classes=10",
            None,
            "model.student.num_classes",
        ),
        ("metric `val/acc` is not available; use any of `val/loss`, `val/top1`", None, "trainer.stop.monitor"),
        ("`devices` should be an int", None, "trainer.devices"),
        ("no folder photos/train", None, "data.root"),
        ("something went wrong with 16 images", None, None),
    ],
)
def test_which_argument_a_message_is_about(message, owner, found) -> None:
    def given(key: str, value: str, owner: str | None = None) -> Argument:
        return Argument(tuple(key.split(".")), value, "run.yaml, line 1", owner, "run.yaml")

    network = "tmkd_lightning.models.WideResNet"
    where = errors.locate(
        message,
        owner,
        [
            given("trainer.devices", "two"),
            given("trainer.stop.monitor", "val/acc"),
            given("trainer.checkpoint.monitor", "val/top1"),
            given("model.teacher_checkpoint", "runs/a.ckpt", "tmkd_lightning.TMKDModule"),
            given("model.teacher.depth", "17", network),
            given("model.teacher.num_classes", "10", network),
            given("model.student.depth", "16", network),
            given("model.student.num_classes", "7", network),
            given("data.root", "photos/"),
            given("data.image_size", "16"),
        ],
    )
    assert (where and ".".join(where.key)) == found


def test_verbs_are_suggested(capsys) -> None:
    for word, verb in (("fti", "fit"), ("exprot", "export"), ("vaildate", "validate")):
        with pytest.raises(SystemExit, match=r"^2$"):
            main([word])
        first, *others = capsys.readouterr().err.splitlines()
        assert first == f"tmkd: error: there is no verb {word}: did you mean '{verb}'?"
        assert [line.split("  ")[1] for line in others if line.startswith("  ")] == [*LIGHTNING_VERBS, *VERBS]


def test_a_checkpoint_has_two_names(monkeypatch, capsys) -> None:
    for verb, option in (("export", "--ckpt_path"), ("test", "--checkpoint"), ("predict", "--checkpoint=gone.ckpt")):
        words = [verb, *option.split("="), *([] if "=" in option else ["gone.ckpt"])]
        words += (
            ["--output", "student.onnx"]
            if verb == "export"
            else ["--config", str(ROOT / "examples/digits_student.yaml")]
        )
        monkeypatch.setattr(sys, "argv", ["tmkd", *words])
        with pytest.raises(SystemExit, match=r"^2$"):
            main()
        assert "no checkpoint" in capsys.readouterr().err


def test_one_batch_is_not_all_batches(tmp_path, capsys) -> None:
    (tmp_path / "run.yaml").write_text(CONFIG.replace("limit_train_batches: 2", "limit_train_batches: 1"))
    message = "line 5: trainer.limit_train_batches is 1, read as 1.0, which is all batches"
    with pytest.warns(UserWarning, match=message), pytest.raises(MisconfigurationException, match="limit_val_batches"):
        main(["fit", "--config", str(tmp_path / "run.yaml"), "--trainer.limit_val_batches", "-1"])


@pytest.mark.parametrize(
    ("key", "callback", "warned"),
    [
        ("callbacks", "EarlyStopping", True),
        ("callbacks+", "EarlyStopping", False),
        ("callbacks", "tmkd_lightning.callbacks.PromptEmbeddings", False),
    ],
)
def test_replaced_prompt_embeddings_are_spoken_of(tmp_path, key, callback, warned) -> None:
    (tmp_path / "run.yaml").write_text(CONFIG)
    (tmp_path / "more.yaml").write_text(f"trainer:\n  {key}:\n    - class_path: {callback}\n")
    given = arguments(["--config", str(tmp_path / "run.yaml"), "--config", str(tmp_path / "more.yaml")])
    message = r"more\.yaml, line 2: trainer\.callbacks replaces all .* of .*run\.yaml, line 13 .* callbacks\+"
    with pytest.warns(UserWarning, match=message) if warned else nullcontext():
        warn_of_replaced_texts(given)
    option = ["--config", str(tmp_path / "run.yaml"), f"--trainer.{key}", callback]
    with pytest.warns(UserWarning, match="the command line: --trainer.callbacks repl") if warned else nullcontext():
        warn_of_replaced_texts(arguments(option))
