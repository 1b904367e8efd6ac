"""Keeps text embeddings in a file, so that the next run encodes nothing."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.nn import functional as F

from tmkd_lightning.text.embedding_file import EmbeddingFile, can_normalize, write_embeddings
from tmkd_lightning.text.encoder import TextEncoder


def default_cache_dir() -> Path | None:
    """``$XDG_CACHE_HOME/tmkd_lightning`` or ``~/.cache/tmkd_lightning``; None for a user without a home folder."""
    home = Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache"))
    return None if home.parts[:1] == ("~",) else home / "tmkd_lightning"  # a container's user may have no home


def cached_embeddings(encoder: TextEncoder, prompts: Sequence[str], cache_dir: Path | None) -> Tensor:
    """Embeddings ``(N, E)``, L2-normalised, from a file in `cache_dir`; encodes and writes them first if it is missing.

    With `cache_dir` None nothing is written. A ValueError tells of an encoder that gives other rows than it should.
    """
    unique = list(dict.fromkeys(prompts))
    identity = encoder.identity()
    key = hashlib.sha256(json.dumps([identity, unique]).encode()).hexdigest()[:32]
    path = None if cache_dir is None else cache_dir / f"prompts-{key}.npz"
    if path is not None and os.path.isfile(path):  # Path.is_file raises in another user's home folder
        try:
            return EmbeddingFile(path).encode(prompts)
        except ValueError as error:
            rank_zero_warn(f"The cached text embeddings {path} cannot be used and are made anew: {error}")
    rank_zero_info(f"Encoding {len(unique)} prompts with {identity}")
    new = encoder.encode(unique)
    if new.ndim != 2 or len(new) != len(unique) or not can_normalize(new).all():
        raise ValueError(
            f"{type(encoder).__name__}.encode must give {len(unique)} finite rows other than zero, one for "
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
