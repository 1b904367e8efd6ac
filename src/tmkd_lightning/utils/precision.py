"""Losses and softmaxes in float32 or better, whatever the networks run in."""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

P = ParamSpec("P")


def at_least_float32(value: Tensor) -> Tensor:
    """Widens half-precision tensors to float32; float32 and float64 stay.

    Args:
        value: any floating tensor.

    Returns:
        The tensor, in float32 if it was narrower.

    Example:
        >>> at_least_float32(torch.zeros(1, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def in_full_precision(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Makes a function of tensors compute in float32 or better, also under autocast.

    Exponentials, small differences and long sums lose their meaning in half precision.

    Args:
        function: takes at least one floating tensor by position.

    Returns:
        The function with its half-precision tensors widened and autocast off inside.
    """

    @wraps(function)
    def widened(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        wide = [_widen(arg) for arg in args]
        named = {name: _widen(arg) for name, arg in kwargs.items()}
        device = next(arg.device.type for arg in [*wide, *named.values()] if isinstance(arg, Tensor))
        with torch.autocast(device, enabled=False):
            return function(*wide, **named)  # type: ignore[arg-type]

    return widened


def _widen(value: object) -> object:
    return at_least_float32(value) if isinstance(value, Tensor) else value


def warn_of_slow_precision(precision: str | int | None, device: torch.device) -> None:
    """Says that bfloat16 is slow, where a CPU only imitates it.

    Args:
        precision: the Trainer's, such as ``bf16-mixed``.
        device: where the run is.
    """
    if device.type == "cpu" and str(precision).startswith("bf16") and not _cpu_has_bfloat16():
        rank_zero_warn(
            f"this CPU has no instructions for bfloat16 (avx512_bf16 or amx), so precision={precision} is several "
            "times slower than 32-true: use 32-true"
        )


def _cpu_has_bfloat16() -> bool:
    """Whether it computes in bfloat16 itself; true of those that are not asked, which are not x86."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
