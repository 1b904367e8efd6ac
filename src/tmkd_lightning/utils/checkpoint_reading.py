"""Checkpoints, read without running code in them."""

import json
import re
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from tmkd_lightning.utils.configs import check_extent

_HPARAMS = ("hyper_parameters", "datamodule_hyper_parameters")


def read_checkpoint(path: Path, tensors: bool = True) -> Any:
    """Reads a ``.safetensors``, or what ``torch.save`` wrote if it holds only tensors and plain types, onto the CPU.

    Without `tensors`, those of large files may stay on the disk. What cannot be read safely is a ValueError.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}: is the path right, and was the network trained?")
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is not a safetensors file, or is damaged ({error})") from error
    try:
        mapped = not tensors and zipfile.is_zipfile(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # on foreign bytes an unpickler raises whatever it comes to
        # torch's own message advises to read it unsafely
        code = re.search(r"GLOBAL ([\w.]+) (?:was not|whose)", str(error))
        cause = f"it would run code, {code[1]}" if code else "it is empty, cut off, or not a file of torch.save"
        raise ValueError(f"{path} is not a checkpoint that can be read safely (weights_only=True): {cause}") from error
    for name in _HPARAMS if isinstance(content, Mapping) else ():
        try:
            check_extent(content.get(name))
        except ValueError as error:
            raise ValueError(f"{path} is not a checkpoint that can be read safely, in its {name}: {error}") from error
    return content


def read_metadata(path: Path) -> dict[str, Any]:
    """Reads the metadata of a ``.safetensors`` file: texts, and lists that are written as JSON."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, Any] = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a safetensors file, or is damaged ({error})") from error
    for name, text in metadata.items():
        with suppress(ValueError, RecursionError):  # any text
            value = json.loads(text)
            metadata[name] = value if isinstance(value, list) else text
    return metadata


def check_parts(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Raises a ValueError if the state dict of a run's checkpoint is missing, or a part of it is not a mapping."""
    for name in ("state_dict", *_HPARAMS, "callbacks"):
        part = checkpoint.get(name)
        if not isinstance(part, Mapping) and (part is not None or name == "state_dict"):
            found = "missing" if part is None else f"a {type(part).__name__}"
            raise ValueError(f"{path} is damaged, or of other code: its {name} should be a mapping and is {found}")
    if not all(isinstance(key, str) for key in checkpoint["state_dict"]):
        raise ValueError(f"{path} is damaged, or of other code: its state_dict has keys that are no names")
