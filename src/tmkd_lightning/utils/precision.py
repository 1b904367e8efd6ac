"""Float32 or better for losses and softmaxes, whatever the networks run in."""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

P = ParamSpec("P")
_HALF = (torch.float16, torch.bfloat16)
_X86 = ("x86_64", "amd64")


def at_least_float32(value: Tensor) -> Tensor:
    """Casts half-precision tensors to float32; others stay as they are.

    Example:
        >>> at_least_float32(torch.zeros(1, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return value.float() if value.dtype in _HALF else value


def in_full_precision(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Decorates a function of tensors to compute in float32 or better, also under autocast.

    Exponentials, small differences and long sums lose their meaning in half precision.
    """

    @wraps(function)
    def full(*args: Any, **kwargs: Any) -> Tensor:
        wide = [arg.float() if getattr(arg, "dtype", None) in _HALF else arg for arg in args]
        named = {k: arg.float() if getattr(arg, "dtype", None) in _HALF else arg for k, arg in kwargs.items()}
        device = next(arg.device.type for arg in [*wide, *named.values()] if isinstance(arg, Tensor))
        with torch.autocast(device, enabled=False):
            return function(*wide, **named)

    return full


def warn_of_slow_precision(precision: str | int | None, device: torch.device) -> None:
    """Warns if the Trainer's precision is bfloat16 on a CPU that only emulates it."""
    if device.type != "cpu" or not str(precision).startswith("bf16") or platform.machine().lower() not in _X86:
        return
    if not torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported():
        rank_zero_warn(
            f"this CPU has no instructions for bfloat16 (avx512_bf16 or amx), so precision={precision} is several "
            "times slower than 32-true: use 32-true"
        )
