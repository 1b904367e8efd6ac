"""Fingerprints of objects and functions: the same in every process, and another when what they hold or do changes."""

import copyreg
import hashlib
import inspect
import io
import os
import pickle
import random
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

_PLAIN = (type(None), bool, int, float, complex, str, bytes, tuple)
# Differ from run to run, so only their type counts; randomness that cannot be repeated is refused elsewhere.
_BY_TYPE: tuple[type, ...] = (Trainer, type(os.environ), type(threading.Lock()), type(threading.RLock()))
_BY_TYPE += (random.Random, torch.Generator, np.random.Generator, np.random.BitGenerator, np.random.RandomState)
_HOOKS = {*vars(nn.Module()), "_compiled_call_impl"} - {"training", "_parameters", "_buffers", "_modules"}
_LOADING = {*vars(LightningDataModule()), "_datasets", "_before", "train_transform", "eval_transform", "seed", "root"}
_LOADING |= {"batch_size", "num_workers", "augmentation_replicas", "copies", "download", "_numbered"}
_LOADING |= {"device_augmentation", "on_after_batch_transfer"}  # which training images are fingerprinted with
_LOADING |= {"_hparams", "_hparams_initial", "_hparams_name"}


def fingerprint(value: object, name: str, ignored: Iterable[object] = ()) -> str:
    """SHA-256 of what a value would be pickled as, with the source files of its code; `ignored` objects do not count.

    A part that cannot be pickled counts by its type, and a warning calls the value by its `name`.
    """
    pickler = _Pickler(written := io.BytesIO(), ignored)
    pickler.dump(value)
    for kind in pickler.opaque:
        rank_zero_warn(
            f"{name} holds a {kind}, which cannot be looked into: the teacher cache does not notice when it changes. "
            "Leave it out, or give the class that holds it a __getstate__ that says what it does"
        )
    return hashlib.sha256(written.getvalue()).hexdigest()


class _Pickler(pickle.Pickler):
    """Writes what is hashed and never read: tensors as digests, functions and classes by their code."""

    def __init__(self, file: io.BytesIO, ignored: Iterable[object]) -> None:
        super().__init__(file, protocol=4)
        self.fast = True  # without a memo, to which equal strings in two places would be two
        self.opaque: set[str] = set()
        self._seen: dict[int, tuple[object, int]] = {id(part): (part, -1) for part in ignored}  # keeps ids taken

    def persistent_id(self, value: Any) -> Any:
        """What stands for a value; None for what is written as it is pickled."""
        if type(value) in _PLAIN:
            return None
        if id(value) in self._seen:
            return "seen", self._seen[id(value)][1]
        self._seen[id(value)] = value, len(self._seen)
        return next((parts(value) for kind, parts in _PARTS.items() if isinstance(value, kind)), None)

    def reducer_override(self, value: Any) -> Any:
        """Passes over what cannot be pickled; what is pickled as a mere name, such as cached functions, is opened."""
        try:
            reduced = copyreg.dispatch_table.get(type(value), lambda value: value.__reduce_ex__(4))(value)
        except Exception:  # a class that cannot be pickled raises what it likes
            reduced = f"{type(value).__module__}.{type(value).__qualname__}"
            self.opaque.add(reduced)
        held = type(value), getattr(value, "__dict__", None)
        return (str, (reduced, *held)) if isinstance(reduced, str) else NotImplemented


def _origin(module: str | None) -> tuple[str, bool]:
    """Version of a module's package and digest of the module's file, and whether it is installed or Python's own."""
    top, file = str(module).partition(".")[0], Path(getattr(sys.modules.get(str(module)), "__file__", None) or "")
    source = hashlib.sha256(file.read_bytes()).hexdigest() if file.suffix == ".py" and file.is_file() else ""
    installed = top in sys.stdlib_module_names or not {"site-packages", "dist-packages"}.isdisjoint(file.parts)
    return f"{module} {getattr(sys.modules.get(top), '__version__', '')} {source}", installed


def _function(value: FunctionType) -> tuple[object, ...]:
    code, (origin, _) = value.__code__, _origin(value.__globals__.get("__name__"))
    closure = [cell.cell_contents for cell in value.__closure__ or () if cell != CellType()]
    unsaved = (_code(code), inspect.getclosurevars(value).globals) if origin.endswith(" ") else ()  # of a notebook
    attributes = {k: v for k, v in vars(value).items() if not k.startswith("_torchdynamo")}  # an id() among them
    held = closure, value.__defaults__, value.__kwdefaults__, attributes
    return value.__qualname__, code.co_firstlineno, origin, unsaved, held


def _code(code: CodeType) -> tuple[object, ...]:
    constants = [_code(one) if isinstance(one, CodeType) else one for one in code.co_consts]
    return code.co_code, code.co_names, code.co_freevars, constants


def _class(value: type) -> tuple[object, ...]:
    origin, installed = _origin(value.__module__)
    counted = () if installed else (*_PLAIN, list, dict, FunctionType, staticmethod, classmethod, property)
    members = {
        k: v
        for k, v in vars(value).items()
        if type(v) in counted and not (k[:2] == "__" and isinstance(v, (list, dict)))
    }
    functions = {k: getattr(v, "__func__", getattr(v, "fget", v)) for k, v in members.items()}
    return value.__qualname__, origin, functions, value.__bases__


def _tensor(value: Tensor) -> tuple[object, ...]:
    if value.is_meta:
        return str(value.dtype), tuple(value.shape)
    flat = value.detach().to_dense().resolve_conj().cpu().contiguous().flatten()
    return str(value.dtype), tuple(value.shape), hashlib.sha256(flat.view(torch.uint8).numpy().data).digest()


def _module(value: nn.Module) -> tuple[object, ...]:
    hooks = [*value._forward_pre_hooks.values(), *value._forward_hooks.values()]
    return type(value), {key: part for key, part in vars(value).items() if key not in _HOOKS}, hooks


def _data_module(value: LightningDataModule) -> tuple[object, ...]:
    both = vars(value), vars(value).get("_hparams", {})
    return type(value), [{key: held[key] for key in sorted(held.keys() - _LOADING)} for held in both]


_PARTS: dict[Any, Any] = {
    _BY_TYPE: lambda value: ("by type", type(value)),
    Tensor: _tensor,
    nn.Module: _module,
    LightningDataModule: _data_module,
    type: _class,
    FunctionType: _function,
    MethodType: lambda value: (value.__func__, value.__self__),
    ModuleType: lambda value: _origin(value.__name__)[0],
    (set, frozenset): lambda value: (type(value).__name__, sorted(fingerprint(part, "a set") for part in value)),
}
