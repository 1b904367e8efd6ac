"""Fills the module's PromptBank before training; the text encoder is not in memory after that."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.nn import functional as F

from tmkd_lightning.text import EmbeddingFile, OpenCLIPTextEncoder, TextEncoder, write_embeddings
from tmkd_lightning.text import class_names as classes
from tmkd_lightning.text.embedding_file import can_normalize
from tmkd_lightning.text.prompts import TEMPLATES, prompts_of, view_templates


class PromptEmbeddings(Callback):
    """Encodes the prompts of every view and class once, and caches them in a file for the next run.

    Under DDP each process reads or makes the file by itself.

    Args:
        encoder: the text encoder; CLIP by default.
        class_names: words for the prompts, in the order of the labels; by default the module's `class_names`, else the
            datamodule's `class_phrases` or `class_names`, else those of the checkpoint.
        templates: prompt templates by view name, or one for all views and the anchors, instead of the views' own.
        cache_dir: folder of the files, by default ``$XDG_CACHE_HOME/tmkd_lightning`` or ``~/.cache/tmkd_lightning``;
            without a home folder nothing is cached.
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
        home = Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache"))
        default = None if home.parts[:1] == ("~",) else home / "tmkd_lightning"  # a container's user may have no home
        self.cache_dir = default if cache_dir is None else Path(cache_dir).expanduser()

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Fills the bank before training, if the module has one."""
        bank = pl_module.prompt_bank
        if stage != "fit" or bank is None:
            return
        names = self._class_names(classes.datamodule_of(trainer), pl_module)
        names = classes.check_class_names(names, len(bank.anchors))
        views = pl_module.views.templates
        templates = view_templates({"rgb": TEMPLATES["rgb"], **views}, self.templates)
        prompts = [prompt for view in [*views, "rgb"] for prompt in prompts_of(templates[view], names)]
        embeddings = self._embeddings(prompts).unflatten(0, (-1, len(names)))
        bank.fill(embeddings[:-1], embeddings[-1])

    def _class_names(self, data: object, module: Any) -> Sequence[object]:
        if self.class_names is not None:
            given = classes.ClassList("PromptEmbeddings", [str(name) for name in self.class_names])
            for source, known in (("TMKDModule", module.class_names), ("the data", getattr(data, "class_names", None))):
                names = classes.parse_class_names(known, len(given.names))
                learned = [classes.ClassList(source, names)] if names else []
                classes.check_same_classes(learned, given, None)  # may rename, not reorder
            return self.class_names
        of_data = (getattr(data, attribute, None) for attribute in ("class_phrases", "class_names"))
        for names in (module.class_names, *of_data, module.saved_class_names):
            if isinstance(names, (list, tuple)):
                return names
        raise ValueError(
            "no class names to write prompts with: pass TMKDModule(class_names=...), "
            "PromptEmbeddings(class_names=...), or a datamodule with a class_names property"
        )

    def _embeddings(self, prompts: list[str]) -> Tensor:
        """Embeddings ``(N, E)`` from the file; encodes and writes them first where there is none."""
        unique = list(dict.fromkeys(prompts))
        identity = self.encoder.identity()
        key = hashlib.sha256(json.dumps([identity, unique]).encode()).hexdigest()[:32]
        path = None if self.cache_dir is None else self.cache_dir / f"prompts-{key}.npz"
        if path is not None and os.path.isfile(path):  # Path.is_file raises in another user's home folder
            try:
                return EmbeddingFile(path).encode(prompts)
            except ValueError as error:
                rank_zero_warn(f"The cached text embeddings {path} cannot be used and are made anew: {error}")
        rank_zero_info(f"Encoding {len(unique)} prompts with {identity}")
        new = self.encoder.encode(unique)
        if new.ndim != 2 or len(new) != len(unique) or not can_normalize(new).all():
            raise ValueError(
                f"{type(self.encoder).__name__}.encode must give {len(unique)} finite rows other than zero, one for "
                f"each prompt, but gave shape {tuple(new.shape)}, or rows that are zero or not finite"
            )
        try:
            if path is None:
                raise FileNotFoundError("no home folder: set HOME, XDG_CACHE_HOME or PromptEmbeddings(cache_dir=...)")
            write_embeddings(path, unique, new, identity)
        except OSError as error:
            rank_zero_warn(f"The text embeddings could not be cached, so the next run encodes them anew: {error}")
        row = {prompt: index for index, prompt in enumerate(unique)}
        return F.normalize(new.float()[[row[prompt] for prompt in prompts]], dim=1)  # the same bits as from the file
