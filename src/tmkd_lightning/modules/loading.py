"""Rebuilds modules and networks from the checkpoints of ``tmkd fit``, and matches a teacher's classes by name."""

import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import instantiate_module
from torch import nn

from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.models import load_weights, local_file
from tmkd_lightning.models.pretrained import without_weights
from tmkd_lightning.models.reused_head import restore_reused_head
from tmkd_lightning.modules import base
from tmkd_lightning.modules.base import BaseModule
from tmkd_lightning.text import class_names as classes
from tmkd_lightning.utils.checkpoint_reading import check_parts, read_checkpoint, read_metadata
from tmkd_lightning.utils.messages import printable, short
from tmkd_lightning.utils.state_dict import describe_mismatch

NAMED = "the teacher's class_names"  # source of names that came with an Extractor
_MAX_NAMES = 10  # in a message
_CALLS = {  # argument that holds the network: how the module is loaded in Python
    "student": "TMKDModule.load_from_checkpoint({path!r}, teacher=..., student=..., weights_only=True)",
    "network": "ClassifierModule.load_from_checkpoint({path!r}, network=..., weights_only=True)",
}


class LoadedStudent(NamedTuple):
    """The student of a `TMKDModule`, or the network of a `ClassifierModule`, with what its run knew.

    Attributes:
        extractor: the network with its normalisation, in evaluation mode.
        class_names: names in the order of the labels, or None where the run knew none.
        normalized_with: mean and standard deviation, if the run's data arrived normalised.
        data: config of the run's datamodule, or None where the checkpoint does not hold it.
        settings: config of the run's module.
        recipe: config of the network, as ``class_path`` and ``init_args``, without pretrained weights.
    """

    extractor: Extractor
    class_names: list[str] | None
    normalized_with: base.Normalization | None
    data: dict[str, Any] | None
    settings: Mapping[str, Any] = {}
    recipe: Mapping[str, Any] = {}

    @property
    def image_size(self) -> int | None:
        """Side of the run's images in pixels, or None where the checkpoint does not say."""
        size = None if self.data is None else self.data.get("image_size")
        return size if isinstance(size, int) else None

    def names(self, given: Sequence[str] | None) -> list[str] | None:
        """The given names of the classes, which may rename those of the run but not reorder them, else the run's."""
        if given is None:
            return self.class_names
        return classes.resolve_class_names(self.extractor.num_classes, given, self.class_names)


def load_student(checkpoint: str | Path) -> LoadedStudent:
    """Builds the network of a checkpoint again, without teacher, text encoder or pretrained weights.

    The file is opened with ``weights_only=True``. Its config names the class or function that builds the network; that
    one is imported and called, as ``tmkd fit`` did: open checkpoints of people whom you trust.

    Args:
        checkpoint: file of a run of ``tmkd fit``; a ValueError says what would help where it cannot be built here.
    """
    path = Path(checkpoint).expanduser()
    content = read_checkpoint(path)
    role = _role(content, path)
    settings = content["hyper_parameters"]
    extractor = base.as_extractor(_build_checkpoints_network(settings[role], path), content.get(base.NUM_CLASSES))
    prefixes = {"extractor.": "", f"{role}.": "network."}
    found = {
        new + key.removeprefix(old): value
        for key, value in content["state_dict"].items()
        for old, new in prefixes.items()
        if key.startswith(old)
    }
    restore_reused_head(extractor, found, "network.")
    own = extractor.state_dict()  # with the versions of its layers, which some ask for
    problems = describe_mismatch(found, own)
    if problems:
        raise _misfit(path, extractor.name, problems)
    own.update(found)
    extractor.load_state_dict(own)
    return LoadedStudent(
        extractor.eval(),
        class_names=content.get(base.CLASS_NAMES) or settings.get("class_names"),
        normalized_with=settings.get("normalized_with"),
        data=content.get("datamodule_hyper_parameters"),
        settings=settings,
        recipe=without_weights(settings[role]),
    )


def network_config(checkpoint: str | Path) -> dict[str, Any]:
    """How the network in a checkpoint of ``tmkd fit`` is built, as a config that reads no pretrained weights."""
    path = Path(checkpoint).expanduser()
    content = read_checkpoint(path, tensors=False)
    role = _role(content, path)
    config: dict[str, Any] = without_weights(content["hyper_parameters"][role])
    return config


def load_module(checkpoint: str | Path) -> BaseModule:
    """Builds the module that ``tmkd fit`` trained, from its checkpoint alone, and loads its weights.

    A teacher's network is built too, but its weights are not in the checkpoint and are not read. The checkpoint names
    the classes of its parts, which are imported and called: open those of people whom you trust.

    Args:
        checkpoint: file of a run of ``tmkd fit``.
    """
    path = Path(checkpoint).expanduser()
    content = read_checkpoint(path)
    if not isinstance(content, dict) or "state_dict" not in content:
        raise ValueError(f"{path} is not a checkpoint of a run: it has no state_dict")
    check_parts(content, path)
    config = content.get("hyper_parameters") or {}
    class_path = config.get("_class_path")
    if class_path is None or config.get("_instantiator") != "lightning.pytorch.cli.instantiate_module":
        raise ValueError(
            f"{path} does not say how its module is built, so tmkd did not make it: in Python, use "
            "load_from_checkpoint(path, ...) of its class, with its networks"
        )
    try:
        import_module(class_path.rpartition(".")[0])
        module: LightningModule = instantiate_module(LightningModule, _without_instantiator(config))
    except Exception as error:  # the parser and the parts have errors of many types
        raise ValueError(
            f"{path} cannot be built again as a {class_path}: was it made with another version, or is what it comes "
            f"from neither installed nor in the current folder? ({short(error)})"
        ) from None  # the parser's own message is a dump of the whole config
    if not isinstance(module, BaseModule):
        raise ValueError(f"{path} holds a {class_path}, which is no module of this library")
    try:
        module.on_load_checkpoint(content)
        module.load_state_dict(content["state_dict"])
    except Exception as error:  # of weights that do not fit, or of a module's own
        problems = describe_mismatch(content["state_dict"], module.state_dict()) or [short(error)]
        raise _misfit(path, module.extractor.name, problems) from error
    return module


def load_datamodule(config: Mapping[str, Any], checkpoint: str | Path, remedy: str) -> LightningDataModule:
    """Builds the datamodule of a run again from its config in a checkpoint; its data need not be there."""
    try:
        return instantiate_module(LightningDataModule, _without_instantiator(config))
    except Exception as error:  # the parser's and the datamodule's own
        raise ValueError(
            f"the datamodule of {checkpoint}, {config['_class_path']}, cannot be built here: {remedy} ({short(error)})"
        ) from error


def network_and_names(
    network: BaseModule | Extractor, class_names: Sequence[str] | None
) -> tuple[Extractor, list[str]]:
    """The network, and its class names: those given, else those of module, datamodule or checkpoint, else numbers."""
    extractor = network.extractor if isinstance(network, BaseModule) else network
    if not isinstance(extractor, Extractor):
        raise TypeError(
            f"expected a TMKDModule, a ClassifierModule or an Extractor, got {type(network).__name__}: wrap a bare "
            "network as Extractor(network), with the mean and std that it expects"
        )
    known: Sequence[str] | None = extractor.class_names
    if isinstance(network, BaseModule):  # its argument, then what it was trained on, then the last data it was given
        learned, given = classes.learned_classes(network), classes.given_classes(network)
        classes.check_same_classes(learned, given, None)
        known = next((one.names for one in (given, *learned) if one is not None), classes.find_class_names(network))
    return extractor, classes.resolve_class_names(extractor.num_classes, class_names, known, "the module")


def read_teacher(module: Any, file: str | None, remedy: str) -> str | None:
    """Reads the weights of the teacher of a run that was loaded again; prints it if its head gets other rows.

    Args:
        module: the run's, which has a teacher.
        file: the weights' place, or None for the one that the run names.
        remedy: what would help where they are not there, for messages.

    Returns:
        Why there are none, where the run names no file with them; else None.

    Raises:
        FileNotFoundError: there is no such file.
    """
    weights = module.teacher_checkpoint if file is None else file
    if weights is None:  # a teacher that is built again would be another one
        return f"the run names no file with the teacher's weights: {remedy}"
    path = local_file(weights)
    if not path.is_file():
        raise FileNotFoundError(f"no weights of the teacher at {weights}: {remedy}")
    key = module.teacher_key if weights == module.teacher_checkpoint else None
    if moved := load_teacher(module, path, key, data=None):  # by the classes as the run knew them
        print(printable(moved))
    return None


def load_teacher(module: Any, path: str | Path | None, key: str | None, data: object) -> str | None:
    """Loads the weights of a module's teacher, and gives its head the rows of the data's classes in their order.

    `path` is the file with the weights, `key` its part, both None if the teacher came with its own; `data` the
    student's datamodule. Returns what was done to the head, in words, or None if it has the data's classes in order.
    """
    extractor = module.teacher.extractor
    known, rows = _match_teacher(module, path, data)
    if path is None:
        module.load_pretrained(extractor.network)
    else:
        if known is not None:
            extractor.resize_head(len(known.names))
        load_weights(extractor, path, replace_head=False, key=key)
    module.teacher.frozen.check_weights()
    if known is None or rows is None:
        return None
    extractor.reorder_classes(rows)
    if path is None:
        module.teacher_classes = [each.reordered(rows) for each in module.teacher_classes]
    return _describe_rows("the teacher" if path is None else str(path), len(known.names), rows)


def teacher_order(module: Any, path: str | Path | None, data: object) -> list[int] | None:
    """Row of the teacher's head for each label of the student `module`; None where they are in order or unknown."""
    return _match_teacher(module, path, data)[1]


def _match_teacher(
    module: Any, path: str | Path | None, data: object
) -> tuple[classes.ClassList | None, list[int] | None]:
    """The teacher's classes that have the student's among them, and `teacher_order`; refuses those that do not."""
    resumed = module._trainer is not None and module._trainer.training and module._trainer.ckpt_path
    learned = reversed(classes.learned_classes(module)) if resumed or module._trainer is None else ()
    # The most trusted first: what is on the disk, what the user says, what the student's checkpoint knew.
    known = (classes.data_classes(module, data), classes.given_classes(module), *learned)
    ours = [each for each in known if each is not None]
    theirs = _teacher_classes(module, path)
    for here in ours:
        for there in theirs:
            rows: list[int] | None = there.rows_for(here)
            if rows is not None:
                return there, None if rows == list(range(len(there.names))) else rows
    named = "" if path is None else f"{path}: "
    remedy = (
        "take a teacher of these classes, or, if they are other names of the same ones, say so with "
        "class_names=[...], the teacher's names in the order of the data"
    )
    if ours and theirs:
        if len(theirs[0].names) == module.num_classes:
            different = f"other classes than the student learns: {theirs[0].against(ours[0])}"
        else:
            missing = theirs[0].lacks(ours[0])
            more = f" and {len(missing) - _MAX_NAMES} more" if len(missing) > _MAX_NAMES else ""
            listed = ", ".join(map(repr, missing[:_MAX_NAMES])) + more
            different = f"{len(theirs[0].names)} classes, and these of {ours[0].source} are not among them: {listed}"
        raise ValueError(f"{named}the teacher knows {different}; {remedy}")
    count = len(theirs[0].names) if theirs else module.teacher.extractor.num_classes
    if count != module.num_classes:
        unnamed = (
            "the data name none: pass class_names=[...], the teacher's names of them"
            if theirs
            else "nothing names the teacher's: pass Extractor(network, class_names=[...]), or another teacher"
        )
        raise ValueError(
            f"{named}the teacher has {count} classes and the student {module.num_classes}, which are picked from them "
            f"by name, but {unnamed}"
        )
    return None, None


def _teacher_classes(module: Any, path: str | Path | None) -> list[classes.ClassList]:
    """Names of the teacher's classes, as its file has them, else those that came with the network."""
    if path is None:
        return list(module.teacher_classes)
    return _classes_in(Path(path)) or [each for each in module.teacher_classes if each.source == NAMED]


def _describe_rows(teacher: str, known: int, rows: Sequence[int]) -> str:
    if known > len(rows):
        return f"{teacher} knows {known} classes: its head keeps those {len(rows)} of the data, in their order"
    moved = f"{sum(row != label for label, row in enumerate(rows))} of {len(rows)} classes move"
    return f"{teacher} has the classes of the data in another order: its head is put in that of the data, {moved}"


def _classes_in(path: Path) -> list[classes.ClassList]:
    """Class names in a teacher's file: those of its training data, and its own."""
    if path.suffix == ".safetensors":
        names = [read_metadata(path).get("class_names")]
    else:
        content = read_checkpoint(path, tensors=False)
        keys = (base.TRAINED_CLASS_NAMES, base.CLASS_NAMES) if isinstance(content, Mapping) else ()
        names = [content.get(key) for key in keys]
    parsed = (classes.parse_class_names(each, len(each)) for each in names if isinstance(each, list))
    known = [each for each in parsed if each is not None]
    numbered = [[str(label) for label in range(len(each))] for each in known]  # as exports call classes without names
    return [classes.ClassList("the teacher's file", each) for each in known if each not in numbered]


def _role(checkpoint: Any, path: Path) -> str:
    """The constructor's argument that holds the network, ``student`` or ``network``."""
    if not isinstance(checkpoint, Mapping) or base.LEFT_OUT not in checkpoint:
        raise ValueError(
            f"{path} is no checkpoint of a TMKDModule or ClassifierModule: build its network in Python, read the file "
            "with tmkd_lightning.models.load_weights, and pass Extractor(network) on"
        )
    check_parts(checkpoint, path)
    roles = [role for role in _CALLS if any(key.startswith(f"{role}.") for key in checkpoint["state_dict"])]
    if not roles:
        raise ValueError(f"{path} is damaged, or of other code: its state_dict holds no network")
    if not isinstance((checkpoint.get("hyper_parameters") or {}).get(roles[0]), Mapping):
        raise ValueError(
            f"{path} does not say how its network is built: files made in Python cannot. Load it there, module = "
            f"{_CALLS[roles[0]].format(path=str(path))}, and call tmkd_lightning.export.export_student(module, ...) or "
            "tmkd_lightning.export.predict_folder(module, ...)"
        )
    return roles[0]


def build_network(recipe: Mapping[str, Any]) -> nn.Module:
    """Builds a network from its config, ``class_path``, ``init_args`` and ``dict_kwargs``, without pretrained weights.

    The class or function is imported and called: build what people wrote whom you trust.
    """
    recipe = without_weights(recipe)
    arguments = {**recipe.get("init_args", {}), **recipe.get("dict_kwargs", {})}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*(Jsonargparse|removed in v5)")  # of Lightning's call of jsonargparse
        return instantiate_module(nn.Module, {"_class_path": recipe["class_path"], **arguments})


def _build_checkpoints_network(config: Mapping[str, Any], path: Path) -> nn.Module:
    try:
        return build_network(config)
    except Exception as error:  # whatever the network's own code raises
        raise ValueError(
            f"the network of {path}, {config.get('class_path')}, cannot be built here: is what it comes from "
            f"installed, in the same version, or in the current folder? ({short(error)})"
        ) from error


def _misfit(path: Path, network: str, problems: Sequence[str]) -> ValueError:
    return ValueError(
        f"{path} does not fit {network}, which its config describes: {'; '.join(problems)}. Was it made with another "
        "version of that network?"
    )


def _without_instantiator(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "_instantiator"}
