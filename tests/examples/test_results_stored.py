"""The students' images of the study, kept at their size: the same as those that are made anew."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, seed_everything

from helpers.doc_commands import importing_from
from tmkd_lightning import Extractor
from tmkd_lightning.data import DigitsDataModule
from tmkd_lightning.distillers import KD
from tmkd_lightning.feature_extraction.image_size import resize
from tmkd_lightning.models import WideResNet
from tmkd_lightning.views import RandomView

RESULTS = Path(__file__).parents[2] / "examples" / "results"
SIZE = (8, 8)


@pytest.fixture
def modules() -> Iterator[tuple[Any, Any]]:
    with importing_from(RESULTS):
        import other_views
        import stored

        yield stored, other_views


class Losses(Callback):
    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.values.append(outputs["loss"].item())


def show(view: RandomView, images: torch.Tensor, rows: list[int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    view.rows = np.array(rows)  # type: ignore[assignment]
    torch.manual_seed(seed)
    return view(images[rows])


def test_images_that_are_kept_are_those_that_are_made_anew(modules, tmp_path):
    stored, other = modules
    images = torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain = RandomView(["rgb", "edge", other.OTHER["noise"]], [0.5, 0.3, 0.2])
    kept = stored.StoredViews(plain, SIZE, tmp_path, images.numpy())
    assert set(kept.files) == {"rgb", "edge"}  # noise is another each time

    for seed in range(6):  # first what is made, then what is read, and both in a batch
        rows = torch.randperm(12, generator=torch.Generator().manual_seed(seed))[:7].tolist()
        seen, drawn = show(kept, images, rows, seed)
        expected, of_plain = show(plain, images, rows, seed)
        assert torch.equal(drawn, of_plain)
        assert torch.equal(seen, resize(expected, SIZE))

    written = kept.files["edge"].is_written
    assert 0 < written.sum() < 12
    row = int(np.flatnonzero(written)[0])
    again = stored.StoredViews(RandomView(["edge"]), SIZE, tmp_path, images.numpy())
    seen, _ = show(again, torch.zeros_like(images), [row], 0)  # of which a view would be another
    assert torch.equal(seen, resize(RandomView(["edge"])(images[[row]])[0], SIZE))


def test_other_images_have_files_of_their_own(modules, tmp_path):
    stored, _ = modules
    views, images = RandomView(["rgb"]), np.zeros((2, 3, 16, 16), np.float32)
    files = {
        stored.StoredViews(views, size, tmp_path, some).files["rgb"].path
        for size in (SIZE, (4, 4))
        for some in (images, images + 1)
    }
    assert len(files) == 4


def test_a_run_that_keeps_its_images_is_the_run_that_does_not(modules, tmp_path, fit):
    """Over shuffled epochs, the last batch of which is smaller."""
    stored, _ = modules
    import shares

    losses = []
    for keep in (False, True):
        seed_everything(0, verbose=False)
        data = DigitsDataModule(image_size=16, train_samples=44, batch_size=12, augmentation_replicas=1)
        student = Extractor(WideResNet(10, 1, 10), image_size=8)
        sgd = partial(torch.optim.SGD, lr=0.02)
        seen = {"student_views": ["rgb", "edge"], "student_view_shares": [0.5, 0.5]}
        module = shares.Measured(WideResNet(10, 1, 10), student, distiller=KD(), optimizer=sgd, **seen)
        if keep:
            module.student_views = stored.StoredViews(module.student_views, SIZE, tmp_path, np.zeros((44, 1)))
        fit(module, datamodule=data, max_epochs=3, limit_val_batches=0, callbacks=[recorder := Losses()])
        losses.append(recorder.values)
    assert len(losses[0]) == 12
    assert losses[0] == losses[1]


def test_random_views_are_not_kept(modules):
    stored, other = modules
    assert not stored._repeats(other.OTHER["trivial"])
    assert not stored._repeats(other.OTHER["noise"])
    assert stored._repeats(other.OTHER["low_pass"])
