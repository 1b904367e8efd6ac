"""The sets of the study: which birds there are, and where their teachers come from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from helpers.doc_commands import importing_from
from helpers.fake_datasets import make_cub

RESULTS = Path(__file__).parents[2] / "examples" / "results"
LITE0 = "tf_efficientnet_lite0"


@pytest.fixture
def sets(monkeypatch) -> Iterator[ModuleType]:
    """With one copy of each bird, and teachers that are trained a little."""
    with importing_from(RESULTS):
        import birds
        import sets

        monkeypatch.setattr(birds, "COPIES", 1)
        monkeypatch.setattr(sets.CUB50, "teacher_epochs", 1)
        monkeypatch.setattr(sets.CUB50, "teacher_lr", 1e-4)
        yield sets


def weights(classes: int, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return timm.create_model(LITE0, num_classes=classes).state_dict()


def test_teachers_of_birds_are_fine_tuned_once_and_given_ones_never(sets, tmp_path, monkeypatch):
    make_cub(tmp_path, classes=51, train_per_class=[2, 2] + 49 * [0], test_per_class=1)
    made, imagenet = tmp_path / "made", weights(1000, seed=1)
    made.mkdir()
    save_file(imagenet, tmp_path / f"{LITE0}_imagenet.safetensors")
    images = sets.CUB50(tmp_path, made)

    assert len(images.data().class_names) == 50
    assert sorted(label for _, label in images.data().samples("test")) == list(range(50))

    before = images.data().samples("test")[0][0]
    path, _ = images.data().files("test")[0]
    original = path.read_bytes()
    Image.new("RGB", (300, 300), (255, 0, 0)).save(path)
    assert images.data().samples("test")[0][0].float().mean((1, 2)).tolist() != before.float().mean((1, 2)).tolist()
    path.write_bytes(original)
    assert torch.equal(images.data().samples("test")[0][0], before)

    with pytest.warns(match="all was loaded but the head"):
        trained = images.teacher("views").network.state_dict()
    before, after = (state["conv_stem.weight"].flatten() for state in (imagenet, trained))
    assert 0.9 < F.cosine_similarity(before, after, dim=0) < 1  # about 0 for other random weights

    monkeypatch.setattr(sets, "fit", lambda *_: pytest.fail("trained again"))
    torch.testing.assert_close(images.teacher("views").network.state_dict(), trained, rtol=0, atol=0)

    given = weights(50, seed=2)
    save_file(given, tmp_path / f"cub50_{LITE0}_multi_seed0.safetensors")
    torch.testing.assert_close(images.teacher("views").network.state_dict(), given, rtol=0, atol=0)
