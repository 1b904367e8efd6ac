"""A CLIP of a few thousand weights in open_clip's own formats."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import open_clip
import pytest
import torch

TINY = {
    "embed_dim": 6,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}


def tiny_clip(**changes: object) -> open_clip.CLIP:
    torch.manual_seed(0)
    return open_clip.CLIP(**json.loads(json.dumps(TINY | changes))).eval()


def write_config(folder: Path, preprocessing: dict[str, object] | None = None, **changes: object) -> Path:
    """A folder as ``open_clip.push_to_hf_hub`` lays it out, but for its weights."""
    folder.mkdir()
    config = {"model_cfg": TINY | changes, "preprocess_cfg": preprocessing or {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def write_clip(folder: Path, preprocessing: dict[str, object] | None = None, **changes: object) -> Path:
    """A whole such folder."""
    write_config(folder, preprocessing, **changes)
    torch.save(tiny_clip(**changes).state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder


@contextmanager
def known_to_open_clip(folder: Path) -> Iterator[str]:
    """The name of an architecture that open_clip knows for a while."""
    factory = open_clip.factory
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))
        patch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
        (folder / "tiny-clip.json").write_text(json.dumps(TINY))
        open_clip.add_model_config(folder / "tiny-clip.json")
        yield "tiny-clip"
