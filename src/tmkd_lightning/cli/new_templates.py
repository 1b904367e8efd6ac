"""The two configs of a new project: a template each, and what fills it."""

import re
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import yaml

from tmkd_lightning import PAPER
from tmkd_lightning.cli.new_data import Data, Sizes, relative
from tmkd_lightning.cli.new_networks import Method, Network
from tmkd_lightning.utils.messages import printable

TEACHER, STUDENT = "teacher.yaml", "student.yaml"
CHECKPOINT = "runs/student/best.ckpt"
CLIP_WIDTH = 512

_DATA = """\
    optimizer:
      class_path: torch.optim.SGD
      init_args: $optimizer
data:
  class_path: $data_class
  init_args:
$data_arguments
    image_size: $image_size  # side in pixels to which images are cropped and resized, for both networks
    batch_size: $batch_size  # images in a step; fewer where the memory does not suffice
    num_workers: $num_workers  # processes that load images
"""  # the end of both

_TEACHER = Template(
    """\
# teacher.yaml: trains the teacher, $name ($source), on $data_name. In the folder of this file:
#   tmkd fit --config teacher.yaml
seed_everything: 0  # another number, another run; those of several tell how much is chance
trainer:
  max_epochs: $epochs  # passes over the training images; more, as long as val/top1 still rises at the end
  accelerator: $accelerator  # auto takes a GPU if there is one; cpu, gpu, mps
  devices: 1  # of these, such as GPUs
  logger:
    class_path: lightning.pytorch.loggers.CSVLogger
    init_args: {save_dir: runs, name: teacher}  # writes runs/teacher/version_0/metrics.csv
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint  # the best epoch, for the student
      init_args: {dirpath: runs/teacher, filename: best, monitor: val/top1, mode: max, enable_version_counter: false}
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint  # the last one, to resume with --ckpt_path
      init_args: {dirpath: runs/teacher, filename: last, enable_version_counter: false}
model:
  class_path: tmkd_lightning.ClassifierModule
  init_args:
    num_classes: data  # as many as the data have
    network: $network
$settings
"""
    + _DATA
)

_STUDENT = Template(
    """\
# student.yaml: distils $teacher_name into $name ($source) by $method, on $data_name. In the folder of this file:
#   tmkd fit --config student.yaml
seed_everything: 0
trainer:
  max_epochs: $epochs  # passes over the training images; students gain from more than their teachers
  accelerator: $accelerator  # auto takes a GPU if there is one; cpu, gpu, mps
  devices: 1  # of these, such as GPUs
  logger:
    class_path: lightning.pytorch.loggers.CSVLogger
    init_args: {save_dir: runs, name: student}  # writes runs/student/version_0/metrics.csv
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint  # the best epoch: the student to report and export
      init_args: {dirpath: runs/student, filename: best, monitor: val/top1, mode: max, enable_version_counter: false}
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint  # the last one, to resume with --ckpt_path
      init_args: {dirpath: runs/student, filename: last, enable_version_counter: false}
$texts
model:
  class_path: tmkd_lightning.TMKDModule
  init_args:
    num_classes: data  # as many as the data have
    teacher: $teacher
    teacher_checkpoint: $checkpoint
    student: $network
$settings
"""
    + _DATA
)

_NOTES = {  # behind arguments, by their names
    "root": "the folder of the images; a relative one is sought in the folder that tmkd is called in",
    "download": "what is missing",
    "test_fraction": "part of each class that is neither trained on nor chosen by: for tmkd report",
    "distiller": "the method; docs/methods/index.md has all, with their weights",
    "views": "what the teacher sees of each image",
    "view_shares": "of each training image, one view is drawn: the teacher learns to read them all",
    "feature_weight": "weight of the loss between embeddings; docs/results.md has what 50 at a temperature of 1 gains",
    "logit_weight": "weight of TMKD's loss between logits",
    "text_weight": "weight of TMKD's loss between the student and the texts",
    "fusion": "no texts: all views count the same",
    "text_dim": "width of the embeddings in the file",
}
_LR_NOTES = {
    True: "a third or three times the lr is worth a try",
    False: "for random weights; a smaller lr where the loss jumps",
}


class _Dumper(yaml.SafeDumper):
    """Quotes names such as ``1e3`` too, which are numbers in YAML 1.2 and to tmkd."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


class Texts(NamedTuple):
    """What describes the classes and views in words.

    Attributes:
        width: of the embeddings; None where there are no texts.
        file: of the embeddings; None for CLIP, which makes them when training starts.
    """

    width: int | None
    file: Path | None = None


class Plan(NamedTuple):
    """All that two configs say."""

    folder: Path
    data: Data
    teacher: Network
    student: Network
    method: Method
    texts: Texts
    sizes: Sizes
    accelerator: str
    num_workers: int


def module_settings(method: Method, teacher: Network, texts: Texts) -> dict[str, Any]:
    """Arguments of the student's `TMKDModule` beside networks, distiller and optimizer."""
    if not method.tmkd:
        return {"feature_weight": 0, "logit_weight": 0}
    settings = {name: PAPER[name] for name in ("views", "feature_weight", "feature_temperature", "text_weight")}
    if teacher.is_clip:  # whose embedding has length 1: its softmax is nearly uniform
        settings["feature_weight"] = 0
    if texts.width is None:
        settings |= {"fusion": "mean", "text_weight": 0}
    elif texts.width != CLIP_WIDTH:
        settings["text_dim"] = texts.width
    return settings


def teacher_config(plan: Plan) -> str:
    """The text of ``teacher.yaml``."""
    settings = {"views": PAPER["views"], "view_shares": [0.4, 0.3, 0.3]} if plan.method.tmkd else {}
    return _fill(_TEACHER, plan, plan.teacher, settings=_arguments(settings))


def student_config(plan: Plan) -> str:
    """The text of ``student.yaml``."""
    settings = module_settings(plan.method, plan.teacher, plan.texts)
    if plan.method.distiller is not None:
        settings = {"distiller": plan.method.config} | settings
    if plan.teacher.is_clip:
        checkpoint = "null  # CLIP is fetched once, when training starts"
    elif plan.teacher.checkpoint is None:
        checkpoint = "runs/teacher/best.ckpt  # which teacher.yaml writes"
    else:
        checkpoint = f"{_flow(relative(plan.teacher.checkpoint, plan.folder))}  # its weights, which stay as they are"
    return _fill(
        _STUDENT,
        plan,
        plan.student,
        settings=_arguments(settings),
        teacher_name=_comment(plan.teacher.name),
        teacher=_flow(plan.teacher.blank),
        checkpoint=checkpoint,
        method=str(plan.method),
        texts=_callback(plan),
    )


def _fill(template: Template, plan: Plan, network: Network, **others: str) -> str:
    """The text of a config; lines that stay empty are left out."""
    # The paper's SGD; its rate of 0.001 is for 120 epochs, and ten times that for the fewer ones here is our choice.
    optimizer = {"lr": 0.01 if network.pretrained else 0.05, "momentum": 0.9, "weight_decay": 0.0005}
    text = template.substitute(
        others,
        name=_comment(network.name),
        source=_comment(network.source),
        network=_flow(network.config),
        optimizer=f"{_flow(optimizer)}  # {_LR_NOTES[network.pretrained]}",
        data_name=_comment(plan.data.name),
        data_class=plan.data.config["class_path"],
        data_arguments=_arguments(plan.data.config["init_args"]),
        accelerator=plan.accelerator,
        num_workers=plan.num_workers,
        **plan.sizes._asdict(),
    )
    return "".join(line for line in text.splitlines(keepends=True) if line.strip())


def _callback(plan: Plan) -> str:
    """The callback that reads texts, where there are some."""
    if plan.texts.width is None:
        return ""
    lines = ["    - class_path: tmkd_lightning.callbacks.PromptEmbeddings"]
    if plan.texts.file is None:
        return lines[0] + "  # texts of classes and views by CLIP, which is fetched once (600 MB)"
    encoder = {
        "class_path": "tmkd_lightning.text.EmbeddingFile",
        "init_args": {"path": relative(plan.texts.file, plan.folder)},
    }
    return "\n".join([*lines, f"      init_args: {{encoder: {_flow(encoder)}}}  # texts of classes and views"])


def _arguments(values: Mapping[str, Any]) -> str:
    """Arguments of a class, each on a line with a comment where there is one."""
    lines = [
        f"    {name}: {_flow(value)}" + (f"  # {_NOTES[name]}" if name in _NOTES else "")
        for name, value in values.items()
    ]
    return "\n".join(lines)


def _flow(value: Any) -> str:
    """A value on one line of YAML."""
    text = yaml.dump(
        value, None, _Dumper, default_flow_style=True, sort_keys=False, width=float("inf"), allow_unicode=True
    )
    return str(text).removesuffix("...\n").strip()


def _comment(text: str) -> str:
    """Text of the user that cannot leave its comment."""
    return printable(text)
