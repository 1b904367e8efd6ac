"""Checkpoints, read without running code in them."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from tmkd_lightning.utils.configs import check_extent

_ARGUMENTS = ("hyper_parameters", "datamodule_hyper_parameters")
_PARTS = ("state_dict", *_ARGUMENTS, "callbacks")


def read_checkpoint(path: Path, tensors: bool = True) -> Any:
    """Reads what ``torch.save`` wrote, onto the CPU, if it holds only tensors and plain types; or a ``.safetensors``.

    Without `tensors`, those of large files may stay on the disk.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read safely; the message says why.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "last.ckpt"
        >>> torch.save({"global_step": 3}, path)
        >>> read_checkpoint(path)
        {'global_step': 3}
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}: is the path right, and was the network trained?")
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except (SafetensorError, OSError) as error:
            raise _not_safetensors(path, error) from error
    try:
        mapped = not tensors and zipfile.is_zipfile(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # on foreign bytes an unpickler raises whatever it comes to
        raise ValueError(
            f"{path} is not a checkpoint that can be read safely (weights_only=True): {_cause(path, error)}"
        ) from error
    for name in _ARGUMENTS if isinstance(content, Mapping) else ():
        try:
            check_extent(content.get(name))
        except ValueError as error:
            raise ValueError(f"{path} is not a checkpoint that can be read safely, in its {name}: {error}") from error
    return content


def read_metadata(path: Path) -> dict[str, Any]:
    """Reads the metadata of a ``.safetensors`` file: texts, and lists that are written as JSON.

    Raises:
        ValueError: it is something else, or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: _from_json(text) for name, text in (file.metadata() or {}).items()}
    except (SafetensorError, OSError) as error:
        raise _not_safetensors(path, error) from error


def check_parts(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Raises a ValueError if the state dict of a run's checkpoint is missing, or a part of it is not a mapping.

    Example:
        >>> check_parts({"state_dict": {}, "hyper_parameters": [3]}, Path("last.ckpt"))
        Traceback (most recent call last):
        ValueError: last.ckpt is damaged, or of other code: its hyper_parameters should be a mapping and is a list
    """
    for name in _PARTS:
        part = checkpoint.get(name)
        if not isinstance(part, Mapping) and (part is not None or name == "state_dict"):
            found = "missing" if part is None else f"a {type(part).__name__}"
            raise ValueError(f"{path} is damaged, or of other code: its {name} should be a mapping and is {found}")
    if not all(isinstance(key, str) for key in checkpoint["state_dict"]):
        raise ValueError(f"{path} is damaged, or of other code: its state_dict has keys that are no names")


def _from_json(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, list) else text


def _not_safetensors(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is not a safetensors file, or is damaged ({error})")


def _cause(path: Path, error: Exception) -> str:
    """Says what is wrong with a file; torch's own message advises to read it unsafely."""
    named = re.search(r"GLOBAL ([\w.]+) (?:was not|whose)", str(error))
    if named is not None:
        return f"it would run code, {named[1]}"
    with path.open("rb") as file:
        start = file.read(2)
    if not start:
        return "it is empty"
    if start == b"PK" and not zipfile.is_zipfile(path):
        return "it is damaged or cut off"
    if start in (b"PK", b"\x80\x02"):  # as torch.save begins today, and as it did before 1.6
        return "it is damaged, or holds more than tensors and plain types"
    if start[:1] == b"\x80":
        return "it is a pickle, which could run code, and not one of torch.save"
    return "it is damaged, or not a checkpoint"
