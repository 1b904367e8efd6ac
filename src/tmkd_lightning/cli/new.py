"""``tmkd new``: looks at data, and writes the configs of a teacher and of a student, ready to run."""

import os
import shlex
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch.accelerators import AcceleratorRegistry

from tmkd_lightning.cli import new_data, new_networks, new_templates
from tmkd_lightning.cli.new_data import BENCHMARKS, DIGITS, Data, Sizes
from tmkd_lightning.cli.new_networks import CLIP, TMKD
from tmkd_lightning.cli.new_templates import STUDENT, TEACHER, Plan, Texts
from tmkd_lightning.cli.parser_errors import did_you_mean
from tmkd_lightning.data import DataError, ImageDataModule
from tmkd_lightning.export.student import FORMATS
from tmkd_lightning.text import EmbeddingFile
from tmkd_lightning.text.prompts import TEMPLATES, prompts_of
from tmkd_lightning.utils.files import atomic_write, check_writable
from tmkd_lightning.utils.messages import printable
from tmkd_lightning.utils.validation import check_count

NONE = "none"
_SMALL = 48  # pixels, up to which networks for ImageNet see too little
_Answer = TypeVar("_Answer")


def new(
    folder: str = ".",
    data: str | None = None,
    teacher: str | None = None,
    student: str | None = None,
    method: str | None = None,
    texts: str | None = None,
    image_size: int | None = None,
    epochs: int | None = None,
    accelerator: str | None = None,
    root: str | None = None,
    teacher_checkpoint: str | None = None,
    pretrained: bool = True,
    overwrite: bool = False,
) -> None:
    """Looks at data and writes teacher.yaml and student.yaml, which tmkd fit trains as they are.

    What is not given is asked for on a terminal; elsewhere the default is taken, and said.

    Args:
        folder: where the configs are written, and to which paths in them are relative.
        data: folder of images, in train/<class>/ or <class>/; or cub200, rafdb, cifar100, dtd, stanford_dogs or digits.
        teacher: network of torchvision or timm, clip for a zero-shot CLIP, or a file that tmkd fit wrote.
        student: network of torchvision or timm.
        method: of docs/methods, such as KD or RKD; tmkd; or both, as in tmkd+KD.
        texts: for methods with tmkd, clip, which is fetched once, a file of tmkd embed, or none.
        image_size: side of the images in pixels.
        epochs: passes over the training images.
        accelerator: Lightning's, such as auto, cpu or gpu.
        root: folder of a benchmark, by default data/<name>, to which it is downloaded.
        teacher_checkpoint: file with the weights of the teacher, which then is not trained.
        pretrained: whether networks begin with ImageNet weights, which are fetched once; else with random ones.
        overwrite: whether to replace configs that are there.
    """
    given = {name: value for name, value in locals().items() if value is not None}
    project, ask = Path(folder).expanduser(), _Questions(given)
    for name in (TEACHER, STUDENT):
        if (project / name).exists() and not overwrite:
            raise FileExistsError(f"{project / name} is there: pass --overwrite to replace it, or name another folder")
        check_writable(project / name)
    try:
        kinds = f"Data (a folder of images, {', '.join(BENCHMARKS)} or {DIGITS})"
        found = ask("data", kinds, new_data.default_data(project), lambda name: new_data.find_data(name, root, project))
        print("".join(f"NOTE: {printable(note)}\n" for note in found.notes), end="")
        plan = _plan(ask, found, project, teacher_checkpoint, pretrained)
    except (EOFError, KeyboardInterrupt):
        raise SystemExit("\nNothing was written.") from None
    _write(plan)
    _say_next(plan)


class _Questions:
    """Settles each setting: as it is given, as it is answered on a terminal, or by its default."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = given
        self.on_terminal = sys.stdin.isatty() and sys.stdout.isatty()

    def __call__(self, name: str, question: str, default: object, read: Callable[[str], _Answer]) -> _Answer:
        """What `read` makes of the answer; on a terminal, one that it refuses is asked for again."""
        if name in self.given:
            return read(str(self.given[name]))
        if not self.on_terminal:
            print(printable(f"{name}: {default}, by default (--{name})"))
            return read(str(default))
        while True:
            answer = input(f"{question} [{default}]: ").strip() or str(default)
            try:
                return read(answer)
            except (ValueError, OSError, DataError) as error:
                print(f"  {printable(error)}")


def _plan(ask: _Questions, data: Data, folder: Path, checkpoint: str | None, pretrained: bool) -> Plan:
    """Settles all but the data."""
    classes = data.module.num_classes
    device = ask("accelerator", "Device (auto, cpu, gpu)", "auto", _accelerator)
    sizes = new_data.suggest(data.images, data.side, device != "cpu" and torch.accelerator.is_available())
    large, small = ("wrn_40_2", "wrn_16_2") if sizes.image_size <= _SMALL else ("resnet50", "resnet18")
    method = ask("method", f"Method (KD, RKD, ...; {TMKD}; or both, {TMKD}+KD)", "KD", new_networks.find_method)
    teacher = ask(
        "teacher",
        f"Teacher (a network of torchvision or timm, {CLIP}, or a file that tmkd fit wrote)",
        large,
        lambda name: new_networks.find_teacher(name, checkpoint, classes, pretrained),
    )
    student = ask(
        "student",
        "Student (a network of torchvision or timm)",
        small,
        lambda name: new_networks.find_student(name, classes, pretrained),
    )
    texts = Texts(None)
    if method.tmkd:
        kinds = f"Texts ({CLIP}, a file of tmkd embed, or {NONE})"
        texts = ask("texts", kinds, CLIP, lambda name: _texts(name, data.module))
    elif ask.given.get("texts", NONE) != NONE:
        raise ValueError(f"texts are read by TMKD only: leave --texts out, or take --method {TMKD}+{method}")
    settings = new_templates.module_settings(method, teacher, texts)
    takes = partial(new_networks.try_networks, teacher, student, method, settings, classes)
    side = sizes.image_size if "image_size" in ask.given else takes(sizes.image_size, stated_too=True)
    side = ask("image_size", "Image size in pixels", side, lambda text: takes(_count("image_size", text)))
    epochs = ask("epochs", "Epochs", sizes.epochs, lambda text: _count("epochs", text))
    sizes = Sizes(side, sizes.batch_size, epochs)
    workers = 0 if data.name == DIGITS else min(4, os.cpu_count() or 1)  # digits are in memory
    return Plan(folder, data, teacher, student, method, texts, sizes, device, workers)


def _accelerator(name: str) -> str:
    known = ["auto", *AcceleratorRegistry.available_accelerators(), "gpu"]
    if name not in known:
        close = did_you_mean(name, known) or f": choose from {', '.join(dict.fromkeys(known))}"
        raise ValueError(f"there is no accelerator {name!r}{close}")
    return name


def _count(name: str, text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{name} must be a whole number, at least 1, got {text!r}")
    return check_count(name, int(text))


def _texts(name: str, data: ImageDataModule) -> Texts:
    """Which texts there are; of a file, after looking for those of the data's classes."""
    if name in (NONE, CLIP):
        return Texts(new_templates.CLIP_WIDTH if name == CLIP else None)
    path = Path(name).expanduser()
    prompts = [prompt for template in TEMPLATES.values() for prompt in prompts_of(template, data.class_phrases)]
    return Texts(EmbeddingFile(path).encode(prompts).shape[1], path)


def _write(plan: Plan) -> None:
    """Writes all configs, or none."""
    texts = {STUDENT: new_templates.student_config(plan)}
    if not plan.teacher.trained:
        texts[TEACHER] = new_templates.teacher_config(plan)
    with ExitStack() as stack:
        for name, text in texts.items():
            stack.enter_context(atomic_write(plan.folder / name)).write(text.encode())


def _say_next(plan: Plan) -> None:
    """Prints what was written, and the commands that make a student of it."""
    written, why = f"{TEACHER} and {STUDENT}", ""
    if plan.teacher.trained:
        written, why = STUDENT, f"; {plan.teacher.name} needs no training, so there is no {TEACHER}"
    fetched = [one.name for one in (plan.teacher, plan.student) if one.pretrained or one.is_clip]
    random = all(one.pretrained for one in (plan.teacher, plan.student) if one.name in fetched)
    if plan.texts.width is not None and plan.texts.file is None:
        fetched.append("CLIP's text encoder")
        random = False
    here = plan.folder.resolve() == Path.cwd()
    print(printable(f"Wrote {written}{'' if here else f' in {plan.folder}'}{why}."))
    if fetched:
        remedy = " Without a network: --pretrained false." if random else ""  # which CLIP does not heed
        print(f"The first run fetches weights, once: {', '.join(fetched)}.{remedy}")
    if plan.teacher.checkpoint is not None and new_data.may_have_seen(plan.teacher.checkpoint, plan.data):
        print(
            printable(
                f"NOTE: {plan.teacher.checkpoint} may have been trained on the images that are held out here for "
                "testing: its accuracy in the report is then too high"
            )
        )
    print("Next:")
    if not here:
        print(f"  cd {shlex.quote(str(plan.folder))}")
    if not plan.teacher.trained:
        print(f"  tmkd fit --config {TEACHER}")
    print(f"  tmkd fit --config {STUDENT}")
    onnx = all(find_spec(package) for package in FORMATS["onnx"].packages)
    output = "student.onnx" if onnx else "student.pt2"
    print(f"  tmkd report --checkpoint {new_templates.CHECKPOINT} --export {output}")
    print("The last one compares both networks in report.md, and exports the student.")
