"""What a teacher's outputs follow from, beside the images: its weights, its views, and how they are computed."""

from __future__ import annotations

import hashlib
import inspect
import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tmkd_lightning.cache.errors import CacheError
from tmkd_lightning.extract import Extractor
from tmkd_lightning.files import sha256_of
from tmkd_lightning.views import MultiView, View

_SIDE = 64  # of the picture that views are shown
# Its mode, its hooks, whether it is compiled: they come and go while a network is used.
_ANY_MODULE = {*vars(nn.Module()), "_compiled_call_impl"}


def teacher_identity(teacher: Extractor, checkpoint: str | None) -> dict[str, Any]:
    """Says what decides a teacher's outputs.

    Args:
        teacher: the network, with the weights it has; if they are yet to come from a checkpoint, its file counts.
        checkpoint: path of that file, or None.

    Returns:
        Plain values, digests among them.

    Raises:
        OSError: the file cannot be read.
    """
    return {
        "name": teacher.name,
        "network": _of_code(teacher.network),
        "weights": _of_weights(teacher) if checkpoint is None else sha256_of(Path(checkpoint)),
        "head": teacher.head_name,
        "feature_map": teacher.named_map,
        "mean": teacher.mean.flatten().tolist(),
        "std": teacher.std.flatten().tolist(),
    }


def views_identity(views: MultiView) -> list[list[str]]:
    """Says what decides the views: their order, names, functions and numbers, and what they make of a picture.

    Args:
        views: as the teacher sees them.

    Returns:
        For each view its name, its function, and a digest of what it makes of the picture.

    Raises:
        CacheError: a view draws random numbers, which would not come again.
    """
    return [[view.name, _described(view), _of_view(view)] for view in views.views]


def _of_view(view: View) -> str:
    picture = _picture()
    with torch.random.fork_rng(devices=[]):
        seen = [_of_pixels(view(picture)) for _ in range(2)]
    if seen[0] != seen[1]:
        raise CacheError(
            f"view {view.name!r} makes another image each time: what a teacher says of it cannot be kept; leave "
            "TeacherCache or the view out"
        )
    return seen[0]


def _picture() -> Tensor:
    """Waves of every length in three colours: edges of all directions and strengths."""
    row, column = torch.meshgrid(torch.arange(_SIDE), torch.arange(_SIDE), indexing="ij")
    waves = [torch.sin(row * column / 40 + row * a / 7 + column * b / 5) for a, b in ((1, 0), (0, 1), (1, 1))]
    return torch.stack(waves)[None] / 2 + 0.5


def _described(view: View) -> str:
    function = view.function
    words: list[object] = [function]
    if isinstance(function, partial):
        words = [function.func, *function.args, *sorted(function.keywords.items())]
    return re.sub(r" at 0x[0-9a-f]+", "", " ".join(map(repr, words)))


def _of_pixels(image: Tensor) -> str:
    return _digest(image.mul(255).round().byte().numpy().tobytes())  # rounded: machines differ in the last digit


def _of_code(network: nn.Module) -> str:
    """Of layers with one set of weights, what they compute may differ: by a number they hold, or by their code."""
    parts = [repr(network)]
    for name, module in network.named_modules():
        kind = type(module)
        parts.append(f"{name} {kind.__module__}.{kind.__qualname__} {sorted(_held(module).items())}")
    kinds = dict.fromkeys(kind for module in network.modules() for kind in type(module).__mro__[:-1])
    for kind in kinds:
        if kind is not nn.Module:
            parts += [_source(method) for method in vars(kind).values() if inspect.isroutine(method)]
    return _digest("\n".join(parts))


def _held(module: nn.Module) -> dict[str, str]:
    """What a layer holds beside its weights: numbers, functions, and tensors that no checkpoint has."""
    held = {key: value for key, value in vars(module).items() if key not in _ANY_MODULE}
    held |= {key: module._buffers[key] for key in module._non_persistent_buffers_set}
    found = {}
    for key, value in held.items():
        if _is_plain(value):
            found[key] = repr(value)
        elif isinstance(value, Tensor):
            found[key] = _of_tensor(value)
        elif inspect.isroutine(value):
            found[key] = _source(value)
    return found


def _source(function: Any) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return repr(getattr(function, "__qualname__", function))  # typed into a prompt, or compiled


def _is_plain(value: object) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _of_weights(teacher: Extractor) -> str:
    digest = hashlib.sha256()
    for name, tensor in teacher.network.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _of_tensor(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype} {_digest(_bytes(tensor))}"


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()


def _digest(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
