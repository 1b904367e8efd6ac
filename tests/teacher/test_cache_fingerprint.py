"""Whatever decides a teacher's outputs decides which cache is theirs."""

from __future__ import annotations

import copy
import json
import shutil
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.nn.utils import prune, spectral_norm, weight_norm
from torchvision.models import VisionTransformer

from helpers.tiny import Net
from tmkd_lightning import Extractor, MultiView, View
from tmkd_lightning.models import Pretrained
from tmkd_lightning.teacher.cache import CacheError, CacheFolder
from tmkd_lightning.teacher.cache.fingerprint import teacher_fingerprint, views_fingerprint
from tmkd_lightning.teacher.cache.folder import read_manifest
from tmkd_lightning.views import edge, high_frequency, rgb


def identity(network: torch.nn.Module, checkpoint: Path | None = None, **options: Any) -> Any:
    return teacher_fingerprint(Extractor(network, **options), checkpoint and str(checkpoint))


def test_one_teacher_has_one_identity(net) -> None:
    teacher = Extractor(net())
    first = teacher_fingerprint(teacher, None)
    assert teacher_fingerprint(copy.deepcopy(teacher), None) == first
    teacher.confirm(torch.rand(2, 3, 8, 8))  # by which the map has been found
    assert teacher_fingerprint(teacher, None) == first
    teacher.network.register_full_backward_hook(lambda *_: None)
    teacher.network.to(memory_format=torch.channels_last).compile()
    assert teacher_fingerprint(teacher.eval(), None) == first
    json.dumps(first)  # plain values
    teacher.network.bn.running_var[3] += 1e-6
    assert teacher_fingerprint(teacher, None) != first  # a single weight or statistic counts


@pytest.mark.parametrize(
    "other", [{"width": 9}, {"mean": (0.5, 0.5, 0.5)}, {"std": (0.5, 0.5, 0.5)}, {"feature_map": "bn"}], ids=str
)
def test_another_teacher_has_another(net, other) -> None:
    found = []
    for options in ({}, dict(other)):
        torch.manual_seed(0)
        found.append(identity(net(options.pop("width", 8)), **options))
    assert found[0] != found[1]


def test_code_and_numbers_behind_equal_weights_count() -> None:
    """Attention with one head or four has the same weights, and says something else."""
    one, four = (VisionTransformer(32, 16, 1, heads, 16, 32, num_classes=3) for heads in (1, 4))
    four.load_state_dict(one.state_dict())
    assert identity(one) != identity(four)
    assert identity(copy.deepcopy(one)) == identity(one) == identity(one.eval())


class Louder(Net):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(image)


class Doubled(Extractor):
    def normalize(self, image: torch.Tensor) -> torch.Tensor:
        return 2 * super().normalize(image)


def test_code_of_ones_own_counts(net) -> None:
    one, other = net(), Louder()
    other.load_state_dict(one.state_dict())
    other._get_name = lambda: "Net"  # prints the same
    assert repr(one) == repr(other)
    assert identity(one) != identity(other)
    assert identity(one) != teacher_fingerprint(Doubled(one), None)


class Scaled(Net):
    def __init__(self, act=F.relu, scale: float = 1.0) -> None:
        super().__init__()
        self.act = act
        self.register_buffer("scale", torch.tensor(scale), persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(image).mean((2, 3)))

    def features(self, image: torch.Tensor) -> torch.Tensor:
        return self.scale * self.act(self.bn(self.conv(image)))


class Shifted(Scaled):
    def features(self, image: torch.Tensor) -> torch.Tensor:
        return self.scale * self.act(self.bn(self.conv(image - 1)))


Shifted.__qualname__ = Shifted.__name__ = "Scaled"


@pytest.mark.parametrize(
    "build", [lambda: Scaled(F.gelu), lambda: Scaled(scale=5.0), Shifted], ids=["function", "buffer", "method"]
)
def test_what_forward_calls_and_what_no_checkpoint_holds_counts(build) -> None:
    one, other = Scaled(), build()
    other.load_state_dict(one.state_dict())
    assert repr(one) == repr(other)
    identities = [identity(network) for network in (one, other, copy.deepcopy(one))]
    assert identities[0] == identities[2] != identities[1]


NET = """
import torch
from helpers.tiny import Net
SLOPE = 0.0
def act(x): return torch.nn.functional.leaky_relu(x, SLOPE)
class Own(Net):
    def forward(self, image): return self.fc(act(self.conv(image)).mean((2, 3)))
"""


@pytest.mark.parametrize(("old", "new"), [("0.0", "0.9"), ("leaky_relu(x, SLOPE)", "silu(x)")])
def test_a_helper_of_the_teachers_code_counts(old: str, new: str) -> None:
    """Edited between two runs, in the module beside the class or behind a constant of it."""
    identities = []
    for text in (NET, NET.replace(old, new), NET):
        module = types.ModuleType("mynet")
        exec(text, vars(module))
        torch.manual_seed(0)
        identities.append(identity(module.Own()))
    assert identities[0] == identities[2] != identities[1]


def test_a_hook_on_a_layer_counts_and_the_extractors_own_do_not(net) -> None:
    one, other, again = net(), net(), net()
    for network in (other, again):
        network.load_state_dict(one.state_dict())
    other.conv.register_forward_hook(lambda module, args, output: 3 * output)
    identities = [identity(network) for network in (one, other, again)]
    assert identities[0] == identities[2] != identities[1]
    Extractor(again)  # which taps it once more
    assert identity(again) == identities[0]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
@pytest.mark.parametrize(
    "wrap", [weight_norm, spectral_norm, lambda layer: prune.random_unstructured(layer, "weight", 2)]
)
def test_a_weight_that_a_hook_computes_does_not_count_as_code(net, wrap, tmp_path: Path) -> None:
    """The checkpoint says what it follows from: two seeds with one checkpoint are one teacher."""
    (tmp_path / "weights").write_bytes(b"some")
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        network = net()
        wrap(network.conv)
        found.append(identity(network, tmp_path / "weights"))
    assert found[0] == found[1] != identity(net(), tmp_path / "weights")


def test_of_a_checkpoint_the_bytes_count(net, tmp_path: Path) -> None:
    """So that the weights need not be read; the network's own, which they will replace, do not matter."""
    path = tmp_path / "teacher.ckpt"
    path.write_bytes(b"one")
    first = identity(net(), path)
    assert identity(net(), path) == first
    network = Pretrained("resnet18", weights="IMAGENET1K_V1", num_classes=3)
    pending = identity(network, path)
    network.load_state_dict({key: value.clone() for key, value in network.state_dict().items()})
    assert not network.pending  # as at the second of two runs with one module
    assert identity(network, path) == pending
    path.write_bytes(b"two")
    assert identity(net(), path) != first


def negative(image: torch.Tensor) -> torch.Tensor:
    return 1 - image


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["rgb", "edge"], ["edge", "rgb"]),
        (["rgb"], ["rgb", "edge"]),
        ([rgb(), edge(alpha=0.5)], [rgb(), edge(alpha=0.4)]),
        ([high_frequency()], [high_frequency(sigma=1.5)]),
        ([edge()], [edge(rounds=500)]),  # draws the same, and is still another function
        ([View("own", negative, "{class}")], [View("own", lambda image: image, "{class}")]),
    ],
    ids=["order", "number", "alpha", "sigma", "rounds", "function"],
)
def test_views_differ_by_order_numbers_and_function(one, other) -> None:
    assert views_fingerprint(MultiView(one)) != views_fingerprint(MultiView(other))
    assert views_fingerprint(MultiView(one)) == views_fingerprint(MultiView(list(one)))


class Darken:
    """Turns dark images over: which ones is in a number that the probe images do not tell."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return torch.where(image.mean((1, 2, 3), keepdim=True) < self.threshold, 1 - image, image)


def test_numbers_of_a_view_that_is_an_object_count_and_words_do_not() -> None:
    """The teacher does not read words; the fusion does, and it acts on what is kept."""
    one, again, other = (
        views_fingerprint(MultiView(["rgb", View("dark", Darken(threshold), template)]))
        for threshold, template in ((0.01, "a dark {class}"), (0.01, "the {class}"), (0.02, "a dark {class}"))
    )
    assert one == again != other
    assert one[1][2] == other[1][2]  # the probe images look the same


def test_views_that_draw_are_refused_and_leave_the_generator_alone() -> None:
    noisy = View("noisy", lambda image: (image + torch.rand_like(image)).clamp(0, 1), "{class}")
    torch.manual_seed(0)
    with pytest.raises(CacheError, match="view 'noisy' makes another image each time"):
        views_fingerprint(MultiView([noisy]))
    first = torch.rand(1)
    torch.manual_seed(0)
    assert torch.rand(1).equal(first)


# Folders


def folder(tmp_path: Path, names=("embedding",), dtype: str = "float32", **identity) -> CacheFolder:
    return CacheFolder(tmp_path, {"teacher": "t", **identity}, dict.fromkeys(names, dtype))


def test_each_identity_has_a_folder_of_its_own(tmp_path: Path) -> None:
    paths = {folder(tmp_path, **options).path for options in ({}, {"seed": 1}, {"seed": 2}, {"teacher": "u"})}
    assert len(paths) == 4
    assert folder(tmp_path, dtype="float16").path == folder(tmp_path, names=("embedding", "map")).path


def fill(one: CacheFolder, rows: int = 3) -> CacheFolder:
    one.create(rows, dict.fromkeys(one.dtypes, (2,)))
    one.write(np.arange(rows), {name: np.full((rows, 2), 7.0) for name in one.dtypes})
    one.write_head(weight=np.eye(2))
    return one


def test_arrays_are_added_beside_each_other(tmp_path: Path) -> None:
    assert fill(folder(tmp_path)).complete
    both = folder(tmp_path, names=("embedding", "map"))
    assert (both.complete, both.written, both.read(np.array([0]))) == (False, 0, None)
    assert fill(both).complete
    read = {kind: value.tolist() for kind, value in both.read(np.array([1])).items()}
    assert read == {"embedding": [[7.0, 7.0]], "map": [[7.0, 7.0]]}
    assert folder(tmp_path).complete


@pytest.mark.parametrize("lost", ["embedding.float32.npy", "head.npz"])
def test_what_is_gone_is_made_anew(tmp_path: Path, lost: str) -> None:
    (fill(folder(tmp_path)).path / lost).unlink()
    assert not folder(tmp_path).complete


def test_the_head_comes_back(tmp_path: Path) -> None:
    one = fill(folder(tmp_path))
    one.write_head(weight=np.array([[1.0, 2.0]]), bias=np.array([3.0]))
    head = {name: value.tolist() for name, value in one.read_head().items()}
    assert head == {"weight": [[1.0, 2.0]], "bias": [3.0]}
    (one.path / "head.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(CacheError, match=r"head.npz is damaged .*remove it"):
        one.read_head()


def test_a_disk_that_is_too_full_is_known_before_anything_is_made(tmp_path: Path, monkeypatch) -> None:
    one = folder(tmp_path)
    fill(folder(tmp_path, names=("map",), dtype="float64"), rows=5000)  # of another kind, whose space is not free
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    message = r"needs 1000 rows of {'embedding': \(2,\)} in 12.0kB, but .* has 1.00kB left: take few"
    with pytest.raises(CacheError, match=message):
        one.create(1000, {"embedding": (2,)})
    assert not list(one.path.glob("embedding*"))
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=r"cannot be written to .*/file/.*name another directory"):
        folder(tmp_path / "file").create(3, {"embedding": (2,)})


def test_a_folder_that_says_something_else_is_refused(tmp_path: Path) -> None:
    one = fill(folder(tmp_path))
    (one.path / "identity.json").write_text('{"teacher": "u"}')
    with pytest.raises(CacheError, match="does not say what the folder's name does: remove"):
        folder(tmp_path)
    (one.path / "identity.json").write_text('{"teac')
    with pytest.raises(CacheError, match=r"identity.json cannot be read"):
        read_manifest(one.path)
