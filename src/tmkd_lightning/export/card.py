"""Writes the README.md of a folder for the Hugging Face hub: a model card of what is known, with fields to fill in."""

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from tmkd_lightning import __version__
from tmkd_lightning.export.preprocessing import Preprocessing
from tmkd_lightning.export.report import to_markdown
from tmkd_lightning.feature_extraction.image_size import Size, in_words
from tmkd_lightning.utils.messages import printable

FILL_IN = "**To fill in:**"
_TIMM = """import timm
import torch
from PIL import Image

place = "{place}"{comment}
network = timm.create_model(place, pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
names = network.pretrained_cfg["label_names"]
"""
_OTHER = """import json
from pathlib import Path

import torch
{imports}
from PIL import Image
from safetensors.torch import load_file
from torchvision.transforms import v2

folder = Path({folder}){comment}
config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
network = {expression}
network.load_state_dict(load_file(folder / "model.safetensors"))
network.eval()
transform = v2.Compose([
    v2.Resize({resize}, interpolation=v2.InterpolationMode.{interpolation}),
    v2.CenterCrop({size}),
    v2.PILToTensor(),
    v2.ToDtype(torch.float32, scale=True),
    v2.Normalize(config["pretrained_cfg"]["mean"], config["pretrained_cfg"]["std"]),
])
names = config["label_names"]
"""
_PREDICT = """
image = transform(Image.open("photo.jpg").convert("RGB"))
with torch.no_grad():
    probabilities = network(image[None]).softmax(dim=1)[0]
for probability, label in zip(*probabilities.topk(min(3, len(names)))):
    print(f"{names[label]}: {probability:.1%}")
"""
_METHOD = (  # settings of a module that say what trained its student
    *("teacher", "distiller", "views", "view_shares", "student_views", "student_view_shares", "student_target"),
    *("fusion", "ce_weight", "logit_weight", "feature_weight", "text_weight", "temperature", "feature_temperature"),
    *("mix", "optimizer", "lr_scheduler"),
)
_DATA = ("train_samples", "labelled_samples", "val_fraction", "image_size", "seed")  # of a datamodule, without places


def usage(recipe: Mapping[str, Any] | None, preprocessing: Preprocessing, size: Size, repository: str | None) -> str:
    """Python code that loads the folder and classifies an image; without `recipe`, by timm."""
    if recipe is None:
        comment = "" if repository else '  # this folder; "hf-hub:USER/NAME" once it is on the hub'
        place = f"hf-hub:{repository}" if repository else "local-dir:."
        return _TIMM.format(place=place, comment=comment) + _PREDICT
    imports, expression = code_of(recipe)
    if repository:
        imports = sorted({*imports, "from huggingface_hub import snapshot_download"})
    square = [preprocessing.resize] if preprocessing.crop_mode == "center" else list(size)
    loading = _OTHER.format(
        imports="\n".join(imports),
        folder=f'snapshot_download("{repository}")' if repository else '"."',
        comment="" if repository else "  # this folder",
        expression=expression,
        resize=square,
        interpolation=preprocessing.interpolation.upper(),
        size=list(size),
    )
    return loading + _PREDICT


def code_of(recipe: Mapping[str, Any]) -> tuple[list[str], str]:
    """Import lines, and the call, of what a config with ``class_path`` and arguments builds.

    Example:
        >>> code_of({"class_path": "torchvision.models.resnet18", "init_args": {"num_classes": 3}})
        (['from torchvision.models import resnet18'], 'resnet18(num_classes=3)')
    """
    module, _, name = str(recipe["class_path"]).rpartition(".")
    imports, arguments = {f"from {module} import {name}"}, []

    def written(value: Any) -> str:
        if isinstance(value, Mapping) and "class_path" in value:
            more, expression = code_of(value)
            imports.update(more)
            return expression
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(map(written, value))}]"
        return repr(value)

    for key, value in {**recipe.get("init_args", {}), **recipe.get("dict_kwargs", {})}.items():
        arguments.append(f"{key}={written(value)}")
    return sorted(imports), f"{name}({', '.join(arguments)})"


def describe_method(settings: Mapping[str, Any]) -> str:
    """What the config of a module says of how its student was trained, in Markdown."""
    if not settings:
        return f"{FILL_IN} how the network was trained."
    distilled = settings.get("teacher") is not None
    first = (
        "Knowledge distillation from a frozen teacher" if distilled else "Training on labels alone, by cross-entropy"
    )
    known = {key: settings.get(key) for key in _METHOD}
    lines = [
        f"- {key.replace('_', ' ')}: `{_plain(value)}`"
        for key, value in known.items()
        if value not in (None, 0, []) and _shown(value)
    ]
    return "\n".join([f"{first}, with tmkd_lightning {__version__}.", "", *lines])


def describe_data(config: Mapping[str, Any] | None) -> str:
    """What the config of a datamodule says of the images, in Markdown; without the places of files."""
    if config is None or "_class_path" not in config:
        return f"{FILL_IN} what the images show, where they come from, and who may use them."
    known = {key: config.get(key) for key in _DATA}
    lines = [f"- {key.replace('_', ' ')}: {value}" for key, value in known.items() if isinstance(value, (int, float))]
    name = config["_class_path"].rpartition(".")[2]
    return "\n".join(
        [f"Read by `{name}`:", "", *lines, "", f"{FILL_IN} what the images show, and where they come from."]
    )


def _plain(value: Any) -> str:
    """A setting on one line: names of classes, numbers and words, but no paths."""
    if isinstance(value, Mapping):
        built = "class_path" in value
        arguments = {**value.get("init_args", {}), **value.get("dict_kwargs", {})} if built else value
        shown = [f"{key}={_plain(part)}" for key, part in arguments.items() if part is not None and _shown(part)]
        return f"{value.get('class_path', '').rpartition('.')[2]}({', '.join(shown)})"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_plain(part) for part in value if _shown(part))}]"
    return str(value)


def _shown(value: Any) -> bool:
    return not isinstance(value, str) or bool(re.fullmatch(r"[\w.{}@ -]+", value))


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(f"([{re.escape(string.punctuation)}])", r"\\\1", printable(text))


def write_card(
    *,
    title: str,
    network: str,
    size: Size,
    class_names: Sequence[str],
    code: str,
    timm: bool,
    tags: Sequence[str],
    doubt: str | None,
    method: str,
    data: str,
    report: Mapping[str, Any] | None,
) -> str:
    """The card in Markdown, with YAML front matter as the hub reads it."""
    all_tags = ["image-classification", *(["timm"] if timm else []), *tags, "tmkd-lightning"]
    measured = report is not None and any(one["accuracy"] for one in report["networks"].values())
    front = [
        "# Fill in the licence, one of https://huggingface.co/docs/hub/repositories-licenses, here and below.",
        "license: unknown",
        f"library_name: {'timm' if timm else 'pytorch'}",
        "pipeline_tag: image-classification",
        yaml.safe_dump({"tags": all_tags}, allow_unicode=True).strip(),
        *(["metrics:", "- accuracy"] if measured else []),
    ]
    results = "Not measured: `tmkd report` does, and `tmkd export --report` writes its table here."
    if report is not None:  # without the checkpoint's place
        results = to_markdown({key: value for key, value in report.items() if key != "checkpoint"}).strip()
    parts = {
        "Use": f"```python\n{code}```" + (f"\n\n{doubt}" if doubt else ""),
        "Classes": "\n".join(f"{label}. {_escaped(name)}" for label, name in enumerate(class_names)),
        "Method": method,
        "Data": data,
        "Results": results,
        "Limits": f"{FILL_IN} what the network was not trained or measured for.",
        "Licence": "\n".join(f"- {FILL_IN} of {part}." for part in ("these weights", "the images", "the teacher")),
    }
    side = in_words(size)
    first = (
        f"{network}: {len(class_names)} classes, images of {side if side.startswith('(') else f'{side}x{side}'} pixels."
    )
    body = "\n\n".join(f"## {name}\n\n{text}" for name, text in parts.items())
    return "\n".join(["---", *front, "---", "", f"# {title}", "", first, "", body, ""])
