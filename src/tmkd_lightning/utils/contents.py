"""What an object is, by content: one digest for equal ones in every process, another if anything in it changes."""

from __future__ import annotations

import copyreg
import functools
import os
import random
import threading
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from tmkd_lightning.utils.names_used import digest_of_text, library, source, used_by

_PLAIN = {type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented)}
_DESCRIPTORS = (
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.WrapperDescriptorType,
)
_EMPTY = (type(threading.Lock()), type(threading.RLock()))  # decide nothing
# Another in each run: to draw from them is refused where that matters.
_CHANGING: tuple[type, ...] = (random.Random, torch.Generator, type(os.environ))
_CHANGING += (np.random.Generator, np.random.BitGenerator, np.random.RandomState)
_UNSAID = {"__module__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__annotate_func__", "_abc_impl"}
_UNSAID |= {"__firstlineno__", "__static_attributes__", "__annotations_cache__", "__slotnames__"}
# Its hooks and whether it is compiled: they come and go while a network is used. Forward hooks are looked at apart.
_PASSING = {*vars(nn.Module()), "_compiled_call_impl"} - {"training", "_parameters", "_buffers", "_modules"}
# Of a datamodule: what decides which images are loaded and how. Images count apart, and may be moved.
_LOADING = {*vars(LightningDataModule()), "_datasets", "_before", "train_transform", "eval_transform", "seed", "root"}
_LOADING |= {"batch_size", "num_workers", "augmentation_replicas", "copies", "download"}
_LOADING |= {"_hparams", "_hparams_initial", "_hparams_name"}
_DEEPEST = 300  # levels within levels, which Python's stack has room for
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


def digest_of_contents(
    thing: object, what: str, skip: Callable[[object], bool] = lambda _: False, modes: bool = True
) -> str:
    """Digests all that decides what an object does, as far as Python can see it.

    Plain values, containers, arrays and tensors count by value. Functions count by their code, constants, defaults and
    closures, and by the functions, classes and values that the code names, wherever these are defined. Modules count by
    the bytes of their file. Objects count by the code of their class and by what they hold: what they would be pickled
    as. Networks count by layers, weights and forward hooks. What is installed (in ``site-packages``, or with Python)
    counts by its name, its package's version and the bytes of the file it is defined in.

    Not seen are files that code reads, environment variables, and modules that it will import only when it runs. A
    Trainer does not count: it is the run's; nor what a datamodule is told of loading. What is nested too deeply, or
    cannot be pickled, is named in a warning. Of a random generator its type counts, not its state.

    Args:
        thing: any object.
        what: how to call it in messages.
        skip: says which objects within it do not count.
        modes: whether the training mode of networks counts.

    Returns:
        64 hexadecimal digits, the same in all processes of one version of Python.

    Example:
        >>> from functools import partial
        >>> one, again, other = (digest_of_contents(partial(round, ndigits=n), "rounding") for n in (1, 1, 2))
        >>> one == again, one == other
        (True, False)
    """
    reader = _Reader(skip, modes)
    try:
        found = reader.of(thing, what)
    except RecursionError:  # called from deep within something else
        reader.hidden, found = {f"{what}, which is nested too deeply,": None}, digest_of_text("hidden")
    if reader.hidden:
        rank_zero_warn(
            f"{', '.join(reader.hidden)} cannot be looked into: the teacher cache does not notice when it changes. "
            "Leave it out, or give the class that holds it a __getstate__ that says what it does"
        )
    return found


class _Reader:
    """Digests objects bottom up; one that was met before has its digest, and one that holds itself a mark there."""

    def __init__(self, skip: Callable[[object], bool], modes: bool) -> None:
        self.skip = skip
        self.passing = _PASSING if modes else _PASSING | {"training"}
        self.hidden: dict[str, None] = {}  # in order, each once
        self._known: dict[int, tuple[object, str]] = {}  # the object too: while it lives, no other has its id
        self._open: dict[int, int] = {}
        self._path: list[str] = []

    def of(self, value: object, name: str = "") -> str:
        """The digest of a value, which is called so within what holds it."""
        if type(value) in _PLAIN:
            return digest_of_text(type(value).__name__, f"{value:x}" if isinstance(value, int) else repr(value))
        key = id(value)
        if key in self._known:
            return self._known[key][1]
        if key in self._open:
            return digest_of_text("above", str(len(self._open) - self._open[key]))
        if len(self._open) == _DEEPEST:
            self.hidden[f"what is nested more than {_DEEPEST} levels deep in {self._path[0]}"] = None
            return digest_of_text("hidden")  # elsewhere it may be less deep
        self._open[key] = len(self._open)
        self._path.append(name)
        found = digest_of_text(*self._parts(value))
        self._path.pop()
        del self._open[key]
        self._known[key] = value, found
        return found

    def _parts(self, value: Any) -> Iterable[str]:
        if isinstance(value, Trainer) or self.skip(value):
            return ["skipped"]
        for kinds, parts in _WAYS:
            if isinstance(value, kinds):
                return parts(self, value)
        if type(value) in (tuple, list):
            return self._all(type(value).__name__, *value)
        if type(value) is dict:
            return self._mapping(value)
        return self._object(value)

    def _all(self, *values: object) -> Iterator[str]:
        return (self.of(value) for value in values)

    def _mapping(self, value: Mapping[Any, Any]) -> Iterator[str]:
        yield "mapping"  # in its order, which may decide something
        for key, part in value.items():
            yield self.of(key)
            yield self.of(part, f".{key}" if isinstance(key, str) else f"[{key!r}]")

    def _set(self, value: set[Any] | frozenset[Any]) -> list[str]:
        kind, known, found = self.of(type(value)), self._known, []
        for part in value:  # in an order that is another in each process: none may know what the others are
            self._known = known if type(part) in _PLAIN else dict(known)
            found.append(self.of(part))
        self._known = known
        return ["set", kind, *sorted(found)]

    def _object(self, value: object) -> Iterable[str]:
        kind = type(value)
        try:
            by_kind = copyreg.dispatch_table.get(kind)
            reduced: Any = value.__reduce_ex__(4) if by_kind is None else by_kind(value)
        except Exception:  # a class that cannot be pickled says so as it likes
            self.hidden[f"{''.join(self._path)} (a {kind.__module__}.{kind.__qualname__})"] = None
            return self._all("hidden", kind, getattr(value, "__dict__", None))
        if isinstance(reduced, str):
            return self._all("named", kind, reduced, getattr(value, "__dict__", None))  # that of a cached function
        parts: tuple[Any, ...] = (*reduced, None, None, None)
        build, args, state, items, pairs = parts[:5]
        return self._all("object", kind, build, args, state, items and list(items), pairs and list(pairs))

    def _module(self, value: nn.Module) -> Iterable[str]:
        before = vars(value).get("_forward_pre_hooks", {}).values()  # some compute a tensor anew: of pruning, of norms
        made = [getattr(hook, "name", getattr(hook, "_tensor_name", None)) for hook in before]
        left = {key for key, part in vars(value).items() if key in made and isinstance(part, Tensor)} | self.passing
        held = {key: part for key, part in vars(value).items() if key not in left}
        hooks = [hook for key in _HOOKS for hook in vars(value).get(key, {}).values() if not self.skip(hook)]
        return self._all("module", type(value), held, hooks)

    def _data_module(self, value: LightningDataModule) -> Iterable[str]:
        held, given = vars(value), vars(value).get("_hparams", {})  # what its method may read as self.hparams
        return self._all("data", type(value), *({k: d[k] for k in sorted(d.keys() - _LOADING)} for d in (held, given)))

    def _tensor(self, value: Tensor) -> Iterable[str]:
        if value.is_meta:
            return ["meta", str(tuple(value.shape)), str(value.dtype)]
        plain = value.detach().dequantize() if value.is_quantized else value.detach().to_dense()
        flat = plain.resolve_conj().resolve_neg().cpu().contiguous().flatten()
        return ["tensor", str(tuple(value.shape)), str(value.dtype), digest_of_text(flat.view(torch.uint8).numpy())]

    def _array(self, value: np.ndarray | np.generic) -> Iterable[str]:
        if value.dtype.hasobject:
            return self._all("array", str(value.dtype), value.tolist())
        where = np.ascontiguousarray(value).reshape(-1).view(np.uint8) if value.dtype.itemsize else b""  # not a copy
        return ["array", str(value.shape), str(value.dtype), digest_of_text(where)]

    def _class(self, value: type) -> Iterable[str]:
        module = str(value.__module__)  # Cython's kinds of classes have no name there
        name, installed = f"{module}.{value.__qualname__}", library(module)
        if installed is not None:
            return ["installed", name, installed]
        own = {key: part for key, part in vars(value).items() if key not in _UNSAID}
        return self._all("class", value.__qualname__, type(value), value.__bases__, own)

    def _python_module(self, value: types.ModuleType) -> Iterable[str]:
        installed = library(value.__name__)  # of one's own, any name may be read by getattr: the file counts
        return ["python module", value.__name__, installed or source(getattr(value, "__file__", None))]

    def _function(self, value: types.FunctionType) -> Iterable[str]:
        module = str(value.__globals__.get("__name__"))
        installed, held = library(module), (value.__closure__, vars(value))  # a decorator holds what it decorates
        if installed is not None:
            return self._all("installed", f"{module}.{value.__qualname__}", installed, *held)
        defaults = value.__defaults__, value.__kwdefaults__
        return self._all("function", value.__qualname__, value.__code__, *held, *defaults, used_by(value))

    def _code(self, value: types.CodeType) -> Iterable[str]:
        counts = value.co_argcount, value.co_posonlyargcount, value.co_kwonlyargcount, value.co_flags
        names = value.co_names, value.co_varnames, value.co_freevars, value.co_cellvars
        return self._all("code", value.co_code, value.co_exceptiontable, value.co_consts, counts, names)

    def _builtin(self, value: Any) -> Iterable[str]:
        module = str(getattr(value, "__module__", None))
        return self._all("builtin", module, value.__qualname__, library(module), value.__self__)

    def _cell(self, value: types.CellType) -> Iterable[str]:
        try:
            return self._all("cell", value.cell_contents)
        except ValueError:
            return ["empty cell"]

    def _partial(self, value: functools.partial[Any]) -> Iterable[str]:
        return self._all("partial", value.func, value.args, dict(sorted(value.keywords.items())), vars(value))


# The first that fits is taken.
_WAYS: list[tuple[Any, Callable[[_Reader, Any], Iterable[str]]]] = [
    (Tensor, _Reader._tensor),
    ((np.ndarray, np.generic), _Reader._array),
    (nn.Module, _Reader._module),
    (LightningDataModule, _Reader._data_module),
    (type, _Reader._class),
    (_CHANGING, lambda reader, value: reader._all("changing", type(value))),
    (types.ModuleType, _Reader._python_module),
    (types.FunctionType, _Reader._function),
    (types.MethodType, lambda reader, value: reader._all("method", value.__func__, value.__self__)),
    ((types.BuiltinFunctionType, types.MethodWrapperType), _Reader._builtin),
    (types.CodeType, _Reader._code),
    (types.CellType, _Reader._cell),
    (_DESCRIPTORS, lambda reader, value: ["descriptor", value.__qualname__]),
    (property, lambda reader, value: reader._all("property", value.fget, value.fset, value.fdel)),
    ((staticmethod, classmethod), lambda reader, value: reader._all(type(value).__name__, value.__func__)),
    (functools.partial, _Reader._partial),
    (types.MappingProxyType, _Reader._mapping),
    ((set, frozenset), _Reader._set),
    (weakref.ReferenceType, lambda reader, value: reader._all("reference", value())),
    (_EMPTY, lambda reader, value: ["lock"]),
]
