"""The students' images of the study, kept at their size: the same as those that are made anew."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tmkd_lightning.feature_extraction.image_size import resize
from tmkd_lightning.views import RandomView

RESULTS = Path(__file__).parents[2] / "examples" / "results"
SIZE = (8, 8)


@pytest.fixture
def modules() -> Iterator[tuple[Any, Any]]:
    before = list(sys.path)
    sys.path.insert(0, str(RESULTS))
    try:
        import other_views
        import stored

        yield stored, other_views
    finally:
        sys.path[:] = before
        for name in ("stored", "other_views"):
            sys.modules.pop(name, None)


def show(view: RandomView, images: torch.Tensor, rows: list[int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    view.rows = np.array(rows)  # type: ignore[assignment]
    torch.manual_seed(seed)
    return view(images[rows])


def test_images_that_are_kept_are_those_that_are_made_anew(modules, tmp_path):
    stored, other = modules
    images = torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain = RandomView(["rgb", "edge", other.OTHER["noise"]], [0.5, 0.3, 0.2])
    kept = stored.StoredViews(plain, SIZE, tmp_path, len(images))
    assert set(kept.files) == {"rgb", "edge"}  # noise is another each time

    for seed in range(6):  # first what is made, then what is read, and both in a batch
        rows = torch.randperm(12, generator=torch.Generator().manual_seed(seed))[:7].tolist()
        seen, drawn = show(kept, images, rows, seed)
        expected, of_plain = show(plain, images, rows, seed)
        assert torch.equal(drawn, of_plain)
        assert torch.equal(seen, resize(expected, SIZE))

    written = kept.files["edge"].is_written
    assert 0 < written.sum() < 12
    changed = images.clone()
    changed[written] = 0  # so that a view of them would be another
    row = int(np.flatnonzero(written)[0])
    seen, _ = show(stored.StoredViews(RandomView(["edge"]), SIZE, tmp_path, 12), changed, [row], 0)
    assert torch.equal(seen, resize(RandomView(["edge"])(images[[row]])[0], SIZE))


def test_random_views_are_not_kept(modules):
    stored, other = modules
    assert not stored._repeats(other.OTHER["trivial"])
    assert not stored._repeats(other.OTHER["noise"])
    assert stored._repeats(other.OTHER["low_pass"])
