"""Fills the module's PromptBank before training; the text encoder is not in memory after that."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_info

from tmkd_lightning.text import OpenCLIPTextEncoder, TextEncoder
from tmkd_lightning.text import class_names as classes
from tmkd_lightning.text.embedding_cache import cached_embeddings, default_cache_dir
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
        self.cache_dir = default_cache_dir() if cache_dir is None else Path(cache_dir).expanduser()

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Fills the bank before training, if the module has one."""
        bank = pl_module.prompt_bank
        if stage != "fit":
            return
        if bank is None:
            if pl_module.teacher is not None:  # a classifier alone may share the callbacks of its students
                rank_zero_info("PromptEmbeddings: no texts are encoded, as neither text_weight nor a fusion reads any")
            return
        data = classes.datamodule_of(trainer)
        names = classes.names_for_prompts(pl_module, data, self.class_names, "PromptEmbeddings")
        names = classes.check_class_names(names, len(bank.anchors))
        views = pl_module.views.templates
        templates = view_templates({"rgb": TEMPLATES["rgb"], **views}, self.templates)
        prompts = [prompt for view in [*views, "rgb"] for prompt in prompts_of(templates[view], names)]
        embeddings = cached_embeddings(self.encoder, prompts, self.cache_dir).unflatten(0, (-1, len(names)))
        bank.fill(embeddings[:-1], embeddings[-1])
