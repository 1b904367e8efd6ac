"""The network of a checkpoint that ``tmkd fit`` wrote, built again from that file alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import instantiate_module
from torch import Tensor, nn

from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.models.recipes import without_weights
from tmkd_lightning.modules.base import as_extractor
from tmkd_lightning.modules.batches import Normalization
from tmkd_lightning.modules.state import CLASS_NAMES, LEFT_OUT, NUM_CLASSES
from tmkd_lightning.text.class_names import resolve_class_names
from tmkd_lightning.utils.checkpoint_reading import check_parts, read_checkpoint
from tmkd_lightning.utils.messages import misfit, short
from tmkd_lightning.utils.state_dict import differences

_CALLS = {  # argument that holds the network: how the module is loaded in Python
    "student": "TMKDModule.load_from_checkpoint({path!r}, teacher=..., student=..., weights_only=True)",
    "network": "ClassifierModule.load_from_checkpoint({path!r}, network=..., weights_only=True)",
}


@dataclass(frozen=True)
class Restored:
    """The student of a `TMKDModule`, or the network of a `ClassifierModule`, with what its run knew.

    Args:
        extractor: the network with its normalisation, in evaluation mode.
        class_names: names in the order of the labels, or None where the run knew none.
        normalized_with: mean and standard deviation, if the run's data arrived normalised.
        data: config of the run's datamodule, or None where the checkpoint does not hold it.
    """

    extractor: Extractor
    class_names: list[str] | None
    normalized_with: Normalization | None
    data: dict[str, Any] | None

    @property
    def image_size(self) -> int | None:
        """Side of the run's images in pixels, or None where the checkpoint does not say."""
        size = None if self.data is None else self.data.get("image_size")
        return size if isinstance(size, int) else None

    def names(self, given: Sequence[str] | None) -> list[str] | None:
        """What to call the classes, or None where nobody knows.

        Args:
            given: names that were asked for instead of the run's, or None.

        Raises:
            ValueError: the names cannot stand for the classes, or are the run's in another order.
        """
        if given is None:
            return self.class_names
        return resolve_class_names(self.extractor.num_classes, given, self.class_names)


def restore(path: str | Path) -> Restored:
    """Builds the network of a checkpoint again. No teacher, text encoder or pretrained weights are needed.

    The file is opened with ``weights_only=True``. Its config names the class or function that builds the network; that
    one is imported and called, as ``tmkd fit`` did.

    Args:
        path: checkpoint of a run of ``tmkd fit``.

    Returns:
        The network and what its run knew.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read safely, is not of ``tmkd fit``, or its network cannot be built or is another one
            here; the message says what would help.
    """
    path = Path(path).expanduser()
    checkpoint = read_checkpoint(path)
    role = _role(checkpoint, path)
    settings = checkpoint["hyper_parameters"]
    network = _build(settings[role], path)
    extractor = as_extractor(network, checkpoint.get(NUM_CLASSES))
    _load(extractor, checkpoint["state_dict"], role, path)
    return Restored(
        extractor.eval(),
        class_names=checkpoint.get(CLASS_NAMES) or settings.get("class_names"),
        normalized_with=settings.get("normalized_with"),
        data=checkpoint.get("datamodule_hyper_parameters"),
    )


def build_data(config: Mapping[str, Any], checkpoint: str | Path, remedy: str) -> LightningDataModule:
    """Builds the datamodule of a run again; its data need not be there.

    Args:
        config: as Lightning keeps it in checkpoints, with ``_class_path``.
        checkpoint: of the run, for the message.
        remedy: what helps where it cannot be built.

    Raises:
        ValueError: it cannot be built here.
    """
    arguments = {name: value for name, value in config.items() if name != "_instantiator"}
    try:
        return instantiate_module(LightningDataModule, arguments)
    except Exception as error:  # the parser's and the datamodule's own
        raise ValueError(
            f"the datamodule of {checkpoint}, {config['_class_path']}, cannot be built here: {remedy} ({short(error)})"
        ) from error


def _role(checkpoint: Any, path: Path) -> str:
    """The argument that holds the network."""
    if not isinstance(checkpoint, Mapping) or LEFT_OUT not in checkpoint:
        raise ValueError(
            f"{path} is no checkpoint of a TMKDModule or ClassifierModule: build its network in Python, read the file "
            "with tmkd_lightning.models.load_weights, and pass Extractor(network) on"
        )
    check_parts(checkpoint, path)
    settings = checkpoint.get("hyper_parameters") or {}
    for role in _CALLS:
        if isinstance(settings.get(role), Mapping):
            return role
    calls = [
        call for role, call in _CALLS.items() if any(key.startswith(f"{role}.") for key in checkpoint["state_dict"])
    ]
    if not calls:
        raise ValueError(f"{path} is damaged, or of other code: its state_dict holds no network")
    raise ValueError(
        f"{path} does not say how its network is built: files made in Python cannot. Load it there, module = "
        f"{calls[0].format(path=str(path))}, and call tmkd_lightning.export.export_student(module, ...) or "
        "tmkd_lightning.export.predict_folder(module, ...)"
    )


def _build(config: Mapping[str, Any], path: Path) -> nn.Module:
    try:
        config = without_weights(config)
        arguments = {**config.get("init_args", {}), **config.get("dict_kwargs", {})}
        network: nn.Module = instantiate_module(nn.Module, {"_class_path": config["class_path"], **arguments})
    except Exception as error:  # whatever the network's own code comes to
        raise ValueError(
            f"the network of {path}, {config.get('class_path')}, cannot be built here: is what it comes from "
            f"installed, in the same version, or in the current folder? ({short(error)})"
        ) from error
    return network


def _load(extractor: Extractor, state: Mapping[str, Tensor], role: str, path: Path) -> None:
    names = {"extractor.": "", f"{role}.": "network."}
    found = {
        new + key.removeprefix(old): value
        for key, value in state.items()
        for old, new in names.items()
        if key.startswith(old)
    }
    own = extractor.state_dict()  # with the versions of its layers, which some ask for
    problems = differences(found, own)
    if problems:
        raise ValueError(misfit(path, extractor.name, problems))
    own.update(found)
    extractor.load_state_dict(own)
