"""Exports a student to a folder for the Hugging Face hub, verifies it by loading it back, and pushes it if told to."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torchvision.transforms import v2

from tmkd_lightning.data.transforms import Transform
from tmkd_lightning.export import card
from tmkd_lightning.export.preprocessing import Preprocessing, find_preprocessing
from tmkd_lightning.export.student import (
    DeployableClassifier,
    compare_logits,
    naming_failures,
    predict_logits,
    random_images,
    state_dict,
    statistics,
)
from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.feature_extraction.image_size import Size
from tmkd_lightning.models.pretrained import Pretrained, without_weights
from tmkd_lightning.modules.base import BaseModule, Normalization
from tmkd_lightning.modules.loading import build_network, network_and_names
from tmkd_lightning.utils.files import atomic_folder, check_new_folder
from tmkd_lightning.utils.images import channel_statistics, denormalize, to_unit_float
from tmkd_lightning.utils.messages import short
from tmkd_lightning.utils.state_dict import describe_mismatch

_OF_CREATE_MODEL = {  # arguments of timm.create_model that are not the network's, or stand elsewhere in the config
    *("model_name", "num_classes", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path"),
    *("cache_dir", "scriptable", "exportable", "no_jit"),
}


class UploadError(RuntimeError):
    """A folder cannot be pushed to the hub; the message says what would help."""


def export_hub(
    network: BaseModule | Extractor,
    output: str | Path,
    *,
    image_size: int,
    class_names: Sequence[str] | None = None,
    recipe: Mapping[str, Any] | None = None,
    transform: Transform | None = None,
    normalized_with: Normalization | None = None,
    tags: Sequence[str] = (),
    method: str | None = None,
    data: str | None = None,
    report: Mapping[str, Any] | None = None,
    repository: str | None = None,
) -> dict[str, Any]:
    """Writes a folder for the Hugging Face hub: ``model.safetensors``, ``config.json`` and ``README.md``.

    One of timm's networks is loaded by ``timm.create_model("local-dir:<folder>", pretrained=True)``, from the hub by
    ``hf-hub:``. For any other the card has the code that builds it and loads its weights. The folder is loaded back so
    before it gets its name: if its logits differ from the module's by more than 1e-4, nothing is written.

    Args:
        network: a TMKDModule, whose student is written, a ClassifierModule, or an Extractor.
        output: folder to write; it must not be there yet, or be empty.
        image_size: side of the images in pixels; an Extractor with one of its own states that instead.
        class_names: names in the order of the labels; by default those that the module knows, or else numbers.
        recipe: how the bare network is built, ``{"class_path": ..., "init_args": {...}}``. One of timm's needs it for
            arguments of ``timm.create_model`` beside ``num_classes``, others need it anyway.
        transform: from a PIL image to a tensor ``(3, H, W)``, as for validation: what it does is stated in the config.
        normalized_with: mean and standard deviation, if `transform` normalises.
        tags: more tags for the card, such as ``knowledge-distillation``.
        method: how the network was trained, Markdown; None leaves it to be filled in.
        data: what it was trained on, Markdown; likewise.
        report: of `tmkd_lightning.export.report.compare`, for the card.
        repository: ``user/name`` on the hub, for the card.

    Returns:
        The content of ``config.json``.

    Raises:
        FileExistsError: there is a folder or file of that name.
        ValueError: the network cannot be built from `recipe`, or `report` is of another network.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> recipe = {"class_path": "torchvision.models.resnet18", "init_args": {"num_classes": 2}}
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "student")
        ...     config = export_hub(Extractor(build_network(recipe)), path, image_size=32, recipe=recipe)
        ...     sorted(file.name for file in path.iterdir()), config["pretrained_cfg"].get("input_size")
        (['README.md', 'config.json', 'model.safetensors'], [3, 32, 32])
    """
    path = Path(output).expanduser()
    check_new_folder(path)
    extractor, names = network_and_names(network, class_names)
    classifier = DeployableClassifier(extractor)
    check_report(report, classifier.extractor)
    size = (image_size, image_size) if extractor.image_size is None else extractor.image_size
    images = [random_images(count, size) for count in (1, 3)]
    expected = [predict_logits(classifier.extractor, batch) for batch in images]
    preprocessing = find_preprocessing(_prepare(transform, normalized_with, size), size)
    config: dict[str, Any] = {"num_classes": len(names), "label_names": list(names)}
    config |= _of_network(classifier.extractor, recipe)
    config["pretrained_cfg"] |= _of_images(classifier, preprocessing, size) | {"num_classes": len(names)}
    timm = "architecture" in config
    text = card.write_card(
        title=(repository or path.resolve().name).rpartition("/")[2],
        network=config["architecture"] if timm else extractor.name,
        size=size,
        class_names=names,
        code=card.usage(config.get("network"), preprocessing, size, repository),
        timm=timm,
        tags=tags,
        doubt=preprocessing.doubt,
        method=method or card.describe_method({}),
        data=data or card.describe_data(None),
        report=report,
    )
    with atomic_folder(path) as folder:
        (folder / "model.safetensors").write_bytes(save(state_dict(classifier), {"format": "pt"}))
        (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(text, encoding="utf-8")
        with naming_failures(extractor.name, "a folder for the hub"):
            found = _run(folder, images)
        compare_logits(expected, found, f"{path} was not written: {extractor.name} as a folder for the hub")
    return config


def push_to_hub(folder: str | Path, repository: str, *, private: bool = True) -> str:
    """Uploads a folder of `export_hub` to the Hugging Face hub, and returns its URL.

    Args:
        folder: what `export_hub` wrote, perhaps with a card that was filled in since.
        repository: ``user/name``; it is made if it is missing, and otherwise gets a new commit.
        private: whether a new repository is private; one that is there stays what it is.

    Raises:
        ValueError: `repository` is no such name.
        UploadError: there is no token, no network, or the hub refuses.
    """
    import huggingface_hub

    check_repository(repository)
    try:
        api = huggingface_hub.HfApi()
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=Path(folder).expanduser(), commit_message="Upload the student"
        )
    except Exception as error:  # the hub raises whatever sockets, disks and servers come to
        private_too = " --private" if private else ""  # else hf would make a public one
        raise UploadError(
            f"{folder} cannot be pushed to {repository} ({short(error, kind=True)}): is there a network, and may this "
            f"token write there? The folder is whole; push it with: hf upload {repository} "
            f"{shlex.quote(str(folder))}{private_too}"
        ) from error
    return str(url)


def check_repository(repository: str) -> None:
    """Checks the name of a repository, and that there is a token to push with."""
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ValueError(f"push must be <user>/<name>, got {repository!r} ({short(error)})") from error
    if repository.count("/") != 1:
        raise ValueError(f"push must be <user>/<name>, got {repository!r}")
    if constants.HF_HUB_OFFLINE:
        raise UploadError("nothing can be pushed while HF_HUB_OFFLINE is set: unset it")
    if get_token() is None:
        raise UploadError(
            "pushing needs a token of the Hugging Face hub that may write: call `hf auth login`, or set HF_TOKEN"
        )


def check_report(report: Mapping[str, Any] | None, extractor: Extractor) -> None:
    """Refuses a report that is none, or of a network with another number of parameters."""
    if report is None:
        return
    count = sum(parameter.numel() for parameter in extractor.network.parameters())
    try:
        measured = report["networks"].get("student") or report["networks"]["network"]
        theirs = measured["parameters"]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"the report is none that tmkd report wrote: it lacks {short(error)}") from error
    if theirs != count:
        raise ValueError(f"the report is of a network of {theirs:,} parameters, but {extractor.name} has {count:,}")


def _prepare(transform: Transform | None, normalized_with: Normalization | None, size: Size) -> Any:
    """What becomes of a PIL image on its way to the network, all but its normalisation; None where it is not known."""
    if transform is None:
        return None

    def prepare(image: Image.Image) -> Tensor:
        batch = v2.PILToTensor()(transform(image))[None]
        if normalized_with is not None:
            batch = denormalize(batch, *channel_statistics(*normalized_with))
        elif not batch.is_floating_point():
            batch = to_unit_float(batch)
        return batch[0]

    return prepare


def _of_images(classifier: DeployableClassifier, preprocessing: Preprocessing, size: Size) -> dict[str, Any]:
    """What timm calls the data config."""
    mean, std = statistics(classifier)
    return {
        "input_size": [3, *size],
        "interpolation": preprocessing.interpolation,
        "crop_pct": preprocessing.crop_pct(min(size)),
        "crop_mode": preprocessing.crop_mode,
        "mean": mean,
        "std": std,
    }


def _of_network(extractor: Extractor, recipe: Mapping[str, Any] | None) -> dict[str, Any]:
    """How the network is built: for timm ``architecture`` and ``model_args``, for others ``network``, a recipe."""
    network: Any = extractor.network
    own = getattr(network, "pretrained_cfg", None)
    if type(network).__module__.startswith("timm.") and isinstance(own, Mapping) and own.get("architecture"):
        recipe = recipe or {}
        given = {**recipe.get("init_args", {}), **recipe.get("dict_kwargs", {})}
        arguments = {key: value for key, value in given.items() if key not in _OF_CREATE_MODEL and value is not None}
        kept = {key: own[key] for key in ("fixed_input_size", "first_conv", "classifier") if own.get(key)}
        return {
            "architecture": own["architecture"],
            "num_features": network.num_features,
            **({"model_args": arguments} if arguments else {}),
            "pretrained_cfg": {"custom_load": False, **kept},
        }
    if isinstance(network, Pretrained):  # torchvision's network, under torchvision's names
        arguments = {"name": network.name, "num_classes": extractor.num_classes, **network.options}
        recipe = {"class_path": "torchvision.models.get_model", "init_args": arguments}
    if recipe is None:
        raise ValueError(
            f"{extractor.name} is none of timm's networks: pass recipe={{'class_path': ..., 'init_args': {{...}}}}, by "
            "which it is built"
        )
    return {"network": _recipe_that_fits(extractor, recipe), "pretrained_cfg": {}}


def _recipe_that_fits(extractor: Extractor, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe that builds a network of these weights: as given, or for the number of classes of a later head."""
    recipe = without_weights(recipe)
    arguments = {**recipe.get("init_args", {}), **recipe.get("dict_kwargs", {})}
    problems: list[str] = []
    for variant in (arguments, {**arguments, "num_classes": extractor.num_classes}):
        found = {"class_path": recipe["class_path"], "init_args": variant}
        try:
            built = _build(found)
        except Exception as error:  # the network's own code
            problems = problems or [short(error)]
            continue
        differences = describe_mismatch(extractor.network.state_dict(), built.state_dict())
        if not differences:
            return found
        problems = problems or differences
    raise ValueError(
        f"{extractor.name} is not what {recipe['class_path']} builds ({'; '.join(problems)}), so nobody could load its "
        "weights: write it as onnx, which holds the network too"
    )


def _build(recipe: Mapping[str, Any]) -> nn.Module:
    """Builds a network without drawing from the user's random numbers."""
    with torch.random.fork_rng(devices=[]):
        return build_network(recipe)


def _run(folder: Path, images: Sequence[Tensor]) -> list[Tensor]:
    """Logits of images in [0, 1] by what the folder holds alone, loaded as its card says."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "architecture" in config:
        import timm
        from timm.data import resolve_model_data_config  # type: ignore[attr-defined]

        if tuple(map(int, timm.__version__.split(".")[:3])) < (1, 0, 26):  # which takes safetensors for a pickle
            raise ValueError(f"timm reads it from 1.0.26 on, and this is {timm.__version__}: install a newer one")
        with torch.random.fork_rng(devices=[]):
            network: Any = timm.create_model(f"local-dir:{folder}", pretrained=True)
        settings: Any = resolve_model_data_config(network)
    else:
        network, settings = _build(config["network"]), config["pretrained_cfg"]
        network.load_state_dict(load_file(folder / "model.safetensors"))
    extractor = Extractor(network, mean=settings["mean"], std=settings["std"], keep_map=False)
    classifier = DeployableClassifier(extractor)
    if tuple(settings["input_size"]) != images[0].shape[1:]:
        raise ValueError(f"its config states images of {settings['input_size']}, not {list(images[0].shape[1:])}")
    return [predict_logits(classifier, batch) for batch in images]
