"""Another Trainer for code that imports its own."""

import functools
import importlib
import pkgutil
from collections.abc import Callable
from contextlib import suppress

import lightning.pytorch
import pytest
from lightning.pytorch import Trainer

import tmkd_lightning


def replace_trainer(patch: pytest.MonkeyPatch, trainer: Callable[..., Trainer]) -> None:
    """Replaces Lightning's Trainer, but not the library's own: what is first imported later would keep the other."""
    _import_library()
    patch.setattr(lightning.pytorch, "Trainer", trainer)


@functools.cache
def _import_library() -> None:
    for module in pkgutil.walk_packages(tmkd_lightning.__path__, "tmkd_lightning."):
        if not module.name.endswith("__main__"):
            with suppress(ModuleNotFoundError):  # Triton, which is not everywhere
                importlib.import_module(module.name)
