"""Networks and method of a new project: found by the names that people know, and tried before they are trained."""

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from torchvision.models import list_models

from tmkd_lightning import TMKDModule, distillers
from tmkd_lightning.cli.parser_errors import did_you_mean
from tmkd_lightning.distillers import KD, SDD, Distiller, FeatureKL, Sum
from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.feature_extraction.image_size import stated_image_size
from tmkd_lightning.models.pretrained import DeferredNetwork
from tmkd_lightning.modules.base import as_extractor
from tmkd_lightning.modules.loading import build_network, network_config
from tmkd_lightning.utils.checkpoint_reading import read_checkpoint

CLIP = "clip"
TMKD = "tmkd"
_OWN = ("wrn_40_2", "wrn_40_1", "wrn_16_2", "vgg8", "shufflenet_v2")  # for small images; not those of torchvision
_TRIED = 4  # images; every method takes as many
_FILES = (".ckpt", ".pt", ".pth", ".safetensors")


class Network(NamedTuple):
    """A network as a config builds it.

    Attributes:
        name: as it was given.
        config: class_path, init_args and, for timm, dict_kwargs.
        source: where it comes from, in words.
        pretrained: whether it begins with ImageNet weights, which are fetched once.
        checkpoint: file of its weights, which then are not trained.
    """

    name: str
    config: dict[str, Any]
    source: str
    pretrained: bool = False
    checkpoint: Path | None = None

    @property
    def is_clip(self) -> bool:
        """Whether it is a zero-shot CLIP."""
        return self.name == CLIP

    @property
    def blank(self) -> dict[str, Any]:
        """The config without weights, for a checkpoint to fill."""
        if not self.pretrained:
            return self.config
        arguments = {name: value for name, value in self.config["init_args"].items() if name != "pretrained"}
        unread = {"weights": None} if "name" in arguments else {}  # of Pretrained, whose default are ImageNet's
        return {**self.config, "init_args": arguments | unread}

    @property
    def trained(self) -> bool:
        """Whether it knows the classes without training here."""
        return self.is_clip or self.checkpoint is not None

    def build(self, num_classes: int) -> Extractor:
        """The network with random weights, none of which are fetched."""
        names = {"class_names": [f"class {label}" for label in range(num_classes)]} if self.is_clip else {}
        network = build_network({**self.config, "init_args": {**self.config.get("init_args", {}), **names}})
        for part in network.modules():
            if isinstance(part, DeferredNetwork):
                part.pending = False  # else its first forward would fetch them
        return as_extractor(network, None if self.is_clip else num_classes)


class Method(NamedTuple):
    """A distillation method, alone or with TMKD, or TMKD alone.

    Attributes:
        distiller: class in `tmkd_lightning.distillers`, or None for TMKD alone.
        tmkd: whether TMKD's views and terms are used.
    """

    distiller: type[Distiller] | None
    tmkd: bool

    def __str__(self) -> str:
        named = [] if self.distiller is None else [self.distiller.__name__]
        return " with ".join(named + ["TMKD"] * self.tmkd)

    @property
    def config(self) -> Any:
        """The distiller as a config names it; SDD is applied to KD."""
        path = f"tmkd_lightning.distillers.{'' if self.distiller is None else self.distiller.__name__}"
        return (
            {"class_path": path, "init_args": {"base": "tmkd_lightning.distillers.KD"}}
            if self.distiller is SDD
            else path
        )

    def build(self) -> Distiller | None:
        """The distiller of `config`."""
        if self.distiller is None:
            return None
        return SDD(KD()) if self.distiller is SDD else self.distiller()


def find_network(name: str, num_classes: int, pretrained: bool) -> Network:
    """Finds a network by its name in torchvision, in this library or in timm, in this order.

    Args:
        name: of the network, or ``clip`` for a zero-shot CLIP.
        num_classes: number of the data's classes.
        pretrained: whether it begins with ImageNet weights, where there are some.

    Raises:
        ValueError: there is no such network; the nearest name is named.
    """
    theirs = list_models(torchvision.models)
    if name == CLIP:
        return Network(name, {"class_path": "tmkd_lightning.models.ZeroShotCLIP"}, "zero-shot CLIP ViT-B/32")
    if name in theirs:
        weights: dict[str, Any] = {} if pretrained else {"weights": None}
        config = {"class_path": "tmkd_lightning.models.Pretrained", "init_args": {"name": name, **weights}}
        return Network(name, config, _described("torchvision", pretrained), pretrained)
    if name in _OWN:
        return Network(name, {"class_path": f"tmkd_lightning.models.{name}"}, "for small images, from random weights")
    if find_spec("timm") is None:
        close = did_you_mean(name, [*theirs, *_OWN])
        raise ValueError(
            f"torchvision has no network {name!r}{close or ', and timm is not installed: pip install timm'}"
        )
    import timm  # slow, and an extra

    if not timm.is_model(name):
        close = did_you_mean(name, [*theirs, *_OWN, CLIP, *timm.list_models()])
        raise ValueError(f"neither torchvision nor timm has a network {name!r}{close}")
    pretrained = pretrained and timm.is_model_pretrained(name)
    arguments = {"model_name": name, **({"pretrained": True} if pretrained else {})}
    config = {"class_path": "timm.create_model", "init_args": arguments, "dict_kwargs": {"num_classes": num_classes}}
    return Network(name, config, _described("timm", pretrained), pretrained)


def find_teacher(name: str, checkpoint: str | None, num_classes: int, pretrained: bool) -> Network:
    """Finds a teacher by the name of its network, by a file of ``tmkd fit``, or by both for another file of weights."""
    if name.endswith(_FILES) or (checkpoint is None and Path(name).expanduser().is_file()):
        path = Path(name).expanduser()
        if checkpoint is not None:
            raise ValueError(f"teacher and teacher_checkpoint name a file each: give the name of a network with {name}")
        read_checkpoint(path, tensors=False)
        try:
            config = network_config(path)
        except ValueError as error:
            raise ValueError(
                f"{name} does not say which network it holds: name that with --teacher, and the file with "
                "--teacher_checkpoint"
            ) from error
        return Network(name, config, f"the network in {name}", checkpoint=path)
    if checkpoint is None:
        return find_network(name, num_classes, pretrained)
    if name == CLIP:
        raise ValueError("a zero-shot CLIP needs no teacher_checkpoint: leave it out")
    path = Path(checkpoint).expanduser()
    read_checkpoint(path, tensors=False)
    return find_network(name, num_classes, False)._replace(source=f"its weights in {checkpoint}", checkpoint=path)


def find_student(name: str, num_classes: int, pretrained: bool) -> Network:
    """Finds a student by the name of its network."""
    if name == CLIP or name.endswith(_FILES):
        raise ValueError(f"{name} cannot be a student: name a network of torchvision or timm")
    return find_network(name, num_classes, pretrained)


def find_method(name: str) -> Method:
    """Finds a method by the name of its class, whatever its case, or ``tmkd``, or ``tmkd+`` and such a name.

    Example:
        >>> find_method("tmkd+rkd")
        Method(distiller=<class 'tmkd_lightning.distillers.rkd.RKD'>, tmkd=True)
    """
    first, plus, rest = name.lower().partition("+")
    known = {method.lower(): method for method in methods()}
    base = rest if plus else first
    if first == TMKD and not plus:
        return Method(None, True)
    if (plus and first != TMKD) or base not in known:
        close = get_close_matches(base, known, n=1)
        nearest = f": did you mean '{known[close[0]]}'?" if close else f": choose from {', '.join(methods())}"
        raise ValueError(f"there is no method {name!r}{nearest}; {TMKD} alone, or {TMKD}+<method>, are others")
    return Method(getattr(distillers, known[base]), bool(plus))


def methods() -> list[str]:
    """Names of the base methods, without what only adds up or weighs others."""
    named = {name: getattr(distillers, name) for name in distillers.__all__}
    return [
        name
        for name, kind in named.items()
        if issubclass(kind, Distiller) and not inspect.isabstract(kind) and not issubclass(kind, (Sum, FeatureKL))
    ]


def try_networks(
    teacher: Network,
    student: Network,
    method: Method,
    settings: Mapping[str, Any],
    num_classes: int,
    side: int,
    stated_too: bool = False,
) -> int:
    """Runs both networks once, with random weights, and returns the side of the images.

    Args:
        teacher: its network is built as the student's, without fetching weights.
        student: likewise.
        method: what compares them.
        settings: other arguments of the `TMKDModule`.
        num_classes: of the data.
        side: of the images in pixels.
        stated_too: whether to take the side that one of the networks was built for, where `side` does not fit.

    Raises:
        ValueError: they do not take such images, or lack what the method reads.
    """
    one, other = teacher.build(num_classes), student.build(num_classes)
    try:
        module = TMKDModule(one, other, distiller=method.build(), num_classes=num_classes, **settings)
        module.verify_networks(torch.rand(_TRIED, 3, side, side))
        return side
    except ValueError:
        stated = {size[0] for each in (one, other) if (size := stated_image_size(each.network))} - {side}
        if not stated_too or not stated:
            raise
    return try_networks(teacher, student, method, settings, num_classes, max(stated))


def _described(package: str, pretrained: bool) -> str:
    return f"{package}, from {'ImageNet' if pretrained else 'random'} weights"
