"""Notices operations that make the host wait for its device, on a CPU where none do."""

import collections
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = {
    "_local_scalar_dense",
    "equal",
    "is_nonzero",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "bincount",
}


class Waits(TorchDispatchMode):
    """Counts the operations that a GPU would have to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        by_mask = name in ("index", "index_put_") and any(
            isinstance(one, Tensor) and one.dtype == torch.bool for one in args[1] if one is not None
        )
        if name in WAITING or by_mask:
            self.seen[name] += 1
        return function(*args, **(kwargs or {}))


class Reads(TorchFunctionMode):
    """Counts the calls that bring a tensor to the host, which leave no operation behind where it is there already."""

    def __init__(self, seen: collections.Counter[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in ("cpu", "numpy", "tolist", "__array__"):
            self.seen[name] += 1
        return function(*args, **(kwargs or {}))
