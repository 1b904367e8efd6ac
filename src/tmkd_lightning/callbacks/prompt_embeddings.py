"""Fills the module's PromptBank before the first step; the text encoder is gone before it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.nn import functional as F

from tmkd_lightning.text import EmbeddingFile, OpenCLIPTextEncoder, TextEncoder, write_embeddings
from tmkd_lightning.text.class_names import ClassList, check_same_classes
from tmkd_lightning.text.embedding_file import have_direction
from tmkd_lightning.text.prompts import (
    ANCHOR_TEMPLATE,
    PromptBank,
    check_class_names,
    datamodule_of,
    fitting_names,
    known_class_names,
    prompts_of,
    view_templates,
)


class PromptEmbeddings(Callback):
    """Encodes the prompts of every view and class once, and keeps them in a file for the next run.

    Each process reads the file or makes it, on its own: there is nothing to wait for.

    Args:
        encoder: the text teacher.
        class_names: what to write into the prompts, in the order of the labels; by default the module's
            `class_names`, else the datamodule's `class_phrases` or `class_names`, else those of the checkpoint.
        templates: prompt templates by view name, or one for all views and the anchors, instead of the views' own.
        cache_dir: folder of the files, by default ``$XDG_CACHE_HOME/tmkd_lightning`` or ``~/.cache/tmkd_lightning``;
            where there is no home folder either, nothing is kept.

    Raises:
        TypeError: `encoder` is not a TextEncoder.
        ValueError: no class names anywhere, names that do not fit the classes, or embeddings of another width than
            the module's `text_dim` (raised in `setup`).
    """

    def __init__(
        self,
        encoder: TextEncoder | None = None,
        class_names: Sequence[str] | None = None,
        templates: Mapping[str, str] | str | None = None,
        cache_dir: str | None = None,
    ) -> None:
        encoder = OpenCLIPTextEncoder() if encoder is None else encoder
        if not isinstance(encoder, TextEncoder):
            raise TypeError(f"encoder must be a TextEncoder (methods identity and encode), got {type(encoder)}")
        self.encoder = encoder
        self.class_names = class_names
        self.templates = templates
        self.cache_dir = _default_cache_dir() if cache_dir is None else Path(cache_dir).expanduser()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Fills the bank, if the module has one and is about to train."""
        module: Any = pl_module  # with a prompt_bank, views and class_names
        bank: PromptBank | None = module.prompt_bank
        if stage != "fit" or bank is None:
            return
        names = self._class_names(datamodule_of(trainer), module)
        check_class_names(names, num_classes=bank.anchors.shape[0])
        prompts, anchors = self._prompts(module.views.templates, names)
        embeddings = self._embeddings([*(prompt for view in prompts for prompt in view), *anchors])
        views = embeddings[: -len(names)].unflatten(0, (len(prompts), len(names)))
        bank.fill(views, embeddings[-len(names) :])

    def _class_names(self, data: object, module: Any) -> list[str]:
        if self.class_names is not None:
            given = ClassList("PromptEmbeddings", [str(name) for name in self.class_names])
            for source, known in (("TMKDModule", module.class_names), ("the data", getattr(data, "class_names", None))):
                names = fitting_names(known, len(given.names))
                check_same_classes([ClassList(source, names)] if names else [], given, None)  # other words are welcome
            return list(given.names)
        for names in known_class_names(module, data, phrases=True):
            return names
        raise ValueError(
            "no class names to write prompts with: pass TMKDModule(class_names=...), "
            "PromptEmbeddings(class_names=...), or a datamodule with a class_names property"
        )

    def _prompts(self, views: Mapping[str, str], names: Sequence[str]) -> tuple[list[list[str]], list[str]]:
        chosen = view_templates({"rgb": ANCHOR_TEMPLATE, **views}, self.templates)
        return [prompts_of(chosen[view], names) for view in views], prompts_of(chosen["rgb"], names)

    def _embeddings(self, prompts: list[str]) -> Tensor:
        unique = list(dict.fromkeys(prompts))
        identity = self.encoder.identity()
        key = hashlib.sha256(json.dumps([identity, unique]).encode()).hexdigest()[:32]
        path = None if self.cache_dir is None else self.cache_dir / f"prompts-{key}.npz"
        known = _read_cache(path, unique)
        if known is None:
            rank_zero_info(f"Encoding {len(unique)} prompts with {identity}")
            new = self.encoder.encode(unique)
            without_direction = new.ndim == 2 and not have_direction(new).all()
            if new.ndim != 2 or len(new) != len(unique) or without_direction:
                raise ValueError(
                    f"{type(self.encoder).__name__}.encode must give {len(unique)} finite rows, one for each prompt, "
                    f"but gave shape {tuple(new.shape)}" + " with rows that are zero or not finite" * without_direction
                )
            _write_cache(path, unique, new, identity)
            known = _read_cache(path, unique)  # so that the first run and the next compute with the same bits
            known = F.normalize(new.float(), dim=1) if known is None else known
        row = {prompt: index for index, prompt in enumerate(unique)}
        return known[torch.tensor([row[prompt] for prompt in prompts])]


def _default_cache_dir() -> Path | None:
    folder = Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache"))
    return None if folder.parts[:1] == ("~",) else folder / "tmkd_lightning"  # a container's user may have no home


def _read_cache(path: Path | None, prompts: list[str]) -> Tensor | None:
    if path is None or not os.path.isfile(path):  # Path.is_file raises in the home folder of somebody else
        return None
    try:
        return EmbeddingFile(path).encode(prompts)
    except ValueError as error:
        rank_zero_warn(f"The cached text embeddings {path} cannot be used and are made anew: {error}")
        return None


def _write_cache(path: Path | None, prompts: list[str], embeddings: Tensor, identity: str) -> None:
    if path is None:
        rank_zero_warn(
            "The text embeddings are not kept, so the next run encodes them anew: there is no home folder to keep them "
            "in. Set HOME or XDG_CACHE_HOME, or pass PromptEmbeddings(cache_dir=...)"
        )
        return
    try:
        write_embeddings(path, prompts, embeddings, identity)
    except OSError as error:
        rank_zero_warn(f"The text embeddings could not be kept in {path}; the next run encodes them anew: {error}")
