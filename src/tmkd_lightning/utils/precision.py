"""Float32 or better for softmaxes and metrics, and a warning where bfloat16 is slow."""

import platform

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor


def at_least_float32(value: Tensor) -> Tensor:
    """Casts half-precision tensors to float32; others stay as they are."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def warn_of_slow_precision(precision: str | int | None, device: torch.device) -> None:
    """Warns if the Trainer's precision is bfloat16 on a CPU that only emulates it."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    if device.type != "cpu" or not str(precision).startswith("bf16") or not x86:
        return
    if not torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported():
        slow = "this CPU has no instructions for bfloat16 (avx512_bf16 or amx), so"
        rank_zero_warn(f"{slow} precision={precision} is several times slower than 32-true: use 32-true")
