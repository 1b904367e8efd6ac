"""A run that reads the teacher's outputs is the run that computes them in every step."""

from __future__ import annotations

import copy
import errno
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from torch import nn
from torchvision.models import VisionTransformer
from torchvision.transforms import v2

from helpers.methods import METHODS as EVERY
from helpers.methods import NUMBERED, PAPER, slow_unless
from helpers.subprocess_run import run_script
from helpers.tiny import TMKD, tmkd_module
from tmkd_lightning import ClassifierModule, Extractor, TMKDModule
from tmkd_lightning.callbacks import PromptEmbeddings, TeacherAccuracyCheck, TeacherCache
from tmkd_lightning.cli.main import main
from tmkd_lightning.data import DigitsDataModule
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.models import wide_resnet as wrn
from tmkd_lightning.modules import loading
from tmkd_lightning.teacher.cache import CacheError
from tmkd_lightning.teacher.cache.serialization import array_dtypes, from_arrays, to_arrays
from tmkd_lightning.teacher.frozen import FrozenTeacher
from tmkd_lightning.teacher.multi_view_teacher import MultiViewTeacher
from tmkd_lightning.text import HashingTextEncoder

PLAIN: dict[str, Any] = {"views": ["rgb"], "feature_weight": 0, "logit_weight": 0, "text_weight": 0}
REPLICAS = 2
METHODS = {**EVERY, **NUMBERED}


class Losses(Callback):
    """Every step's loss, and whether the teacher ran in it."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.asked: list[bool] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.asked.append(False)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.teacher.frozen.register_forward_hook(self._note)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.values.append(outputs["loss"].item())

    def _note(self, module: Any, args: Any, output: Any) -> None:
        if self.asked:
            self.asked[-1] = True


def teacher() -> nn.Module:
    torch.manual_seed(1)
    return wrn.WideResNet(depth=10, widen_factor=2, num_classes=10)


def student() -> nn.Module:
    return wrn.WideResNet(depth=10, widen_factor=1, num_classes=10)


def make(method: str = "none", plain: bool = False, **options: Any) -> TMKDModule:
    seed_everything(0, verbose=False)
    options = {"distiller": METHODS[method]() if method in METHODS else None, **options}
    kind, asked = options.pop("kind", TMKDModule), options.pop("teacher", None) or teacher()
    sgd = partial(torch.optim.SGD, lr=0.02, momentum=0.9)
    return kind(asked, student(), **(TMKD | {"optimizer": sgd} | (PLAIN if plain else {}) | options))


def digits(kind: type[DigitsDataModule] = DigitsDataModule, **options: Any) -> DigitsDataModule:
    """44 digits, whose last batch is smaller."""
    numbers = {"train_samples": 44, "batch_size": 12, "augmentation_replicas": REPLICAS}
    return kind(image_size=16, **{**numbers, **options})


@pytest.fixture
def run(fit, tmp_path):
    """Trains on digits, and gives losses and module."""

    def train(module: TMKDModule, cache: TeacherCache | None = None, **options: Any) -> tuple[Losses, TMKDModule]:
        losses = Losses()
        prompts = PromptEmbeddings(HashingTextEncoder(), cache_dir=str(tmp_path / "texts"))
        callbacks = [losses, prompts, TeacherAccuracyCheck(0), *options.pop("callbacks", [])]
        callbacks += [cache] if cache else []
        data = options.pop("data", None) or digits()
        options = {"max_epochs": 4, "limit_val_batches": 0, **options}
        fit(module, datamodule=data, callbacks=callbacks, **options)
        return losses, module

    return train


@pytest.fixture(scope="module")
def shared() -> list[Any]:
    """Losses and module of one run, and the cache that it filled."""
    return []


@pytest.fixture
def filled(run, shared, tmp_path, tmp_path_factory) -> tuple[Losses, TMKDModule, Path]:
    """Those that all tests share, with a copy of the cache of their own."""
    if not shared:
        directory = tmp_path_factory.mktemp("filled")
        shared.extend([*run(make(), TeacherCache(str(directory))), directory])
    losses, module, directory = shared
    return losses, module, shutil.copytree(directory, tmp_path / "cache")


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(a.equal(b) for a, b in pairs)


OF_THEIR_KIND = ("none", *PAPER, "at", "review_kd", "crd", "simkd", "queue_kl")  # by what they read and keep


@pytest.mark.parametrize(
    ("method", "plain"),
    [
        *((method, False) for method in OF_THEIR_KIND),
        *(("kd", True), ("cat_kd", True)),
        *(pytest.param(method, False, marks=pytest.mark.slow) for method in METHODS if method not in OF_THEIR_KIND),
    ],
)
def test_cached_equals_live_bit_for_bit(run, tmp_path, method: str, plain: bool) -> None:
    live, expected = run(make(method, plain), max_epochs=3)
    for turn in ("filling", "reading"):
        cache = TeacherCache(str(tmp_path / "cache"), "float32", maps=True)
        losses, module = run(make(method, plain), cache, max_epochs=3)
        assert losses.values == live.values, turn
        assert same_weights(module, expected), turn
        steps = 4 * REPLICAS if turn == "filling" else 0
        assert losses.asked == [True] * steps + [False] * (12 - steps)
    assert all(live.asked)


class Both(TMKDModule):
    """Trains as it is, and notes what each loss would be with outputs rounded to half precision, all else equal."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        state, distiller = torch.get_rng_state(), copy.deepcopy(self.distiller)
        loss = super().training_step(batch, batch_idx)
        torch.set_rng_state(state)  # the same noise
        self.distiller, distiller = distiller, self.distiller  # and the same queue
        self.teacher.forward_views = self.rounded
        rounded = super().training_step(batch, batch_idx)
        del self.teacher.forward_views
        self.distiller = distiller
        self.apart = [*getattr(self, "apart", []), abs(rounded.item() - loss.item()) / loss.item()]
        return loss

    def rounded(self, image: torch.Tensor) -> Any:
        views, frozen = len(self.views), self.teacher.frozen
        maps = [layer.name for layer in frozen.extractor.map_layers] if "maps" in self.distiller.reads else []
        types = array_dtypes(True, "feature_map" in self.distiller.reads, frozen.map_size, "float16", maps=maps)
        outputs = MultiViewTeacher.forward_views(self.teacher, image)
        return from_arrays(to_arrays(outputs, views, types), frozen, image, views)


@pytest.mark.parametrize("method", slow_unless(["none", *METHODS], {"none", "kd", "cat_kd", "at"}.__contains__))
def test_half_precision_moves_no_loss_by_a_thousandth(run, method: str) -> None:
    """At equal weights, in every step of a run; over many steps training itself enlarges any difference."""
    _, module = run(make(method, kind=Both))
    assert len(module.apart) == 16
    assert 0 < max(module.apart) < 1e-3


def test_maps_are_stored_if_asked_for(run, tmp_path) -> None:
    """Beside the embeddings, which a method without maps goes on to read."""
    with pytest.raises(ValueError, match=r"^AT reads maps of several layers, which a TeacherCache stores only"):
        run(make("at"), TeacherCache(str(tmp_path / "cache")))
    run(make("at"), TeacherCache(str(tmp_path / "cache"), maps=True))
    files = {path.name.partition(".float16")[0] for path in (tmp_path / "cache").glob("*/*.npy")}
    assert {"maps_groups.0", "maps_groups.1", "maps_relu", "embedding"} <= files
    read, _ = run(make("kd"), TeacherCache(str(tmp_path / "cache")))
    assert not any(read.asked)


def test_maps_of_other_layers_are_others(run, tmp_path) -> None:
    """They were found on another size of images, or are named now: the maps that are there are not those."""

    def at(layers: list[str] | None) -> TMKDModule:
        named = [Extractor(network, maps=layers) for network in (teacher(), student())]
        seed_everything(0, verbose=False)
        return tmkd_module(*named, distiller=METHODS["at"](), **PLAIN)

    cache = str(tmp_path / "cache")
    for layers in (None, ["groups.0.0.conv1", "groups.1.0.conv1", "groups.2.0.conv1"]):
        live, _ = run(at(layers))
        for _ in ("filling", "reading"):
            losses, _ = run(at(layers), TeacherCache(cache, "float32", maps=True))
            assert losses.values == live.values
    assert not any(losses.asked)
    assert len(list((tmp_path / "cache").iterdir())) == 1  # one teacher, whose embeddings are stored once


def test_many_maps_keep_their_order() -> None:
    maps = tuple(torch.full((2, 1, 1, 1), float(place)) for place in range(12))
    types = array_dtypes(False, False, None, "float32", maps=[f"blocks.{place}" for place in range(12)])
    arrays = to_arrays(Output(torch.zeros(2, 3), maps=maps), 1, types)
    read = from_arrays(arrays, FrozenTeacher(Extractor(teacher())), torch.zeros(2, 3, 8, 8), 1)
    assert [one[0].item() for one in read.maps] == list(range(12))


def test_half_precision_is_the_same_whether_read_or_written(run, filled) -> None:
    losses, module, directory = filled
    read, again = run(make(), TeacherCache(str(directory)))
    assert read.values == losses.values
    assert same_weights(again, module)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_other_precisions_read_what_they_wrote(run, tmp_path, precision: str) -> None:
    filled, module = run(make("cat_kd"), TeacherCache(str(tmp_path / "cache")), precision=precision)
    read, again = run(make("cat_kd"), TeacherCache(str(tmp_path / "cache")), precision=precision)
    assert not any(read.asked)
    assert read.values == filled.values
    assert same_weights(again, module)


def test_a_complete_cache_needs_no_weights_of_the_teacher(run, tmp_path, monkeypatch) -> None:
    torch.save(teacher().state_dict(), tmp_path / "teacher.pt")
    untrained = wrn.WideResNet(depth=10, widen_factor=2, num_classes=10)

    def train(*cache: TeacherCache) -> tuple[Losses, TMKDModule]:
        return run(
            make("kd", teacher=copy.deepcopy(untrained), teacher_checkpoint=str(tmp_path / "teacher.pt")), *cache
        )

    live, expected = train()
    train(TeacherCache(str(tmp_path / "c"), "float32"))
    read: list[str] = []
    monkeypatch.setattr(loading, "load_weights", lambda *args, **_: read.append(args[1]))
    losses, module = train(TeacherCache(str(tmp_path / "c"), "float32"))
    assert read == []
    assert losses.values == live.values
    assert same_weights(module, expected)


def test_methods_students_and_seeds_share_one_cache(run, filled, tmp_path) -> None:
    directory = str(filled[2])
    options = {"temperature": 2.0, "fusion": "mean"}
    losses, _ = run(make("rkd", **options), TeacherCache(directory), data=digits(batch_size=9, seed=3))
    assert not any(losses.asked)
    losses, _ = run(make("cat_kd"), TeacherCache(directory))  # reads maps too, which are not there yet
    assert losses.asked == [True] * 8 + [False] * 8
    assert len(list((tmp_path / "cache").iterdir())) == 1
    (folder,) = (tmp_path / "cache").iterdir()
    arrays = {path.name: np.load(path).shape for path in folder.glob("*.float16.npy")}
    assert arrays == {"embedding.float16.npy": (88, 3, 128), "map_2x2.float16.npy": (88, 3, 128, 2, 2)}


def changed_teacher() -> nn.Module:
    """Of the same name."""
    other = teacher()
    with torch.no_grad():
        other.fc.bias[0] += 1
    return other


@pytest.mark.parametrize(
    ("module", "data", "trainer", "told"),
    [
        ({"views": ["rgb", "high_frequency", "edge"]}, {}, {}, "views"),
        ({"teacher": Extractor(teacher(), mean=(0.5, 0.5, 0.5))}, {}, {}, "teacher.mean, teacher.network"),
        ({"teacher": changed_teacher()}, {}, {}, "teacher.weights"),
        ({}, {"train_samples": 45}, {}, "data.augmented, data.content, data.images"),
        ({}, {"augmentation_replicas": 3}, {}, "data.augmented, data.replicas"),
        ({}, {}, {"precision": "bf16-mixed"}, "precision"),
    ],
    ids=["views", "statistics", "weights", "images", "replicas", "precision"],
)
def test_whatever_differs_is_another_cache(run, filled, tmp_path, caplog, module, data, trainer, told: str) -> None:
    """Whoever expects a full cache is told why it is not read."""
    (full,) = (tmp_path / "cache").iterdir()
    farther = tmp_path / "cache" / "farther"  # differs in more
    farther.mkdir()
    (farther / "identity.json").write_text('{"format": 1}')
    cache = TeacherCache(str(filled[2]))
    losses, _ = run(make(**copy.deepcopy(module)), cache, data=digits(**data), max_epochs=1, **trainer)
    assert all(losses.asked)
    assert len(list((tmp_path / "cache").iterdir())) == 3
    assert f"Teacher cache: the closest other one, {full.name}, differs in {told}" in caplog.messages


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_run_that_broke_off_while_filling_goes_on_exactly(run, tmp_path, dtype: str) -> None:
    class Stop(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.current_epoch == 1 and batch_idx == 2:
                raise KeyError("power failure")

    def train(directory: str, **options: Any) -> tuple[Losses, TMKDModule]:
        return run(make("kd", noise_scale=0.0), TeacherCache(str(tmp_path / directory), dtype), **options)

    undisturbed, expected = train("one")
    checkpoint = ModelCheckpoint(tmp_path, filename="last", enable_version_counter=False)
    with pytest.raises(KeyError):
        train("two", callbacks=[checkpoint, Stop()], enable_checkpointing=True)
    losses, module = train("two", ckpt_path=tmp_path / "last.ckpt")
    assert losses.values == undisturbed.values[4:]
    assert same_weights(module, expected)
    assert losses.asked == [False, False, True, True, *[False] * 8]  # two batches of that epoch had been written


def damage(directory: Path, at: int) -> None:
    """Flips a bit of the embeddings."""
    (path,) = directory.glob("*/embedding.float16.npy")
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_damage_in_a_complete_cache_is_noticed_and_mended(run, filled, capsys) -> None:
    expected, _, directory = filled
    damage(directory, 128 + 43 * 3 * 128 * 2)
    with pytest.raises(CacheError, match=r"was complete and is damaged now.*tmkd cache check"):
        run(make(), TeacherCache(str(directory)))
    with pytest.raises(SystemExit, match="1 damage"):
        main(["cache", "check", "--directory", str(directory)])
    assert "87 rows are whole, DAMAGED and erased: [43]" in capsys.readouterr().out
    main(["cache", "check", "--directory", str(directory)])
    losses, _ = run(make(), TeacherCache(str(directory)))
    assert losses.values == expected.values
    assert sum(losses.asked) == 1


def test_damage_while_the_teacher_is_there_is_made_anew_by_itself(run, filled, tmp_path) -> None:
    run(make(), TeacherCache(str(tmp_path / "one")), max_epochs=1)
    damage(tmp_path / "one", 128)  # in the first row
    losses, _ = run(make(), TeacherCache(str(tmp_path / "one")))
    assert losses.values == filled[0].values
    assert sum(losses.asked) == 1 + 4


def test_a_disk_that_fills_up_costs_the_cache_and_not_the_run(run, filled, tmp_path, monkeypatch) -> None:
    written = os.pwrite

    def full(descriptor: int, content: Any, offset: int) -> int:
        if offset > 20_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(descriptor, content, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.warns(UserWarning, match=r"not filled any further, and the teacher goes on running: .*No space left"):
        losses, _ = run(make(), TeacherCache(str(tmp_path / "two")))
    assert losses.values == filled[0].values
    assert all(losses.asked[:8])


def test_what_cannot_be_kept_is_refused(run, tmp_path, fit, loader, net, prompts) -> None:
    cache = TeacherCache(str(tmp_path))
    with pytest.raises(ValueError, match=r"set augmentation_replicas of the datamodule, .* to 1 or more \(it is 0"):
        run(make(), cache, data=digits(augmentation_replicas=0))
    with pytest.raises(
        ValueError,
        match=r"but a loader without a datamodule has no method training_fingerprint: .* subclass ImageDataModule",
    ):
        fit(tmkd_module(net(), net()), callbacks=[prompts(), cache])
    vit = VisionTransformer(16, 8, 1, 2, 16, 32, num_classes=10)
    with pytest.raises(ValueError, match=r"reads feature_map, but VisionTransformer has no 4-D map"):
        run(make("sp", teacher=vit), cache)
    assert not list(tmp_path.glob("*/*.npy"))
    loud = teacher()
    with torch.no_grad():
        loud.bn.weight.mul_(1e9)
    with pytest.raises(CacheError, match=r"embedding cannot be kept in float16.*use dtype float32"):
        run(make(teacher=loud, noise_scale=0.0), cache, max_epochs=1)
    with pytest.raises(ValueError, match="dtype must be float16 or float32, got 'bfloat16'"):
        TeacherCache(str(tmp_path), dtype="bfloat16")


@pytest.mark.parametrize("how", ["removed", "cut off"])
def test_a_directory_that_vanishes_costs_the_cache_and_not_the_run(run, filled, tmp_path, how: str) -> None:
    class Vanish(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 0 and how == "removed":
                shutil.rmtree(tmp_path / "two")
            elif trainer.current_epoch == 0:
                for path in (tmp_path / "two").glob("*/*.npy"):
                    os.truncate(path, 10)

    with pytest.warns(UserWarning, match=r"the teacher goes on running: .*(is gone|damaged or cut off)"):
        losses, _ = run(make(), TeacherCache(str(tmp_path / "two")), callbacks=[Vanish()])
    assert losses.values == filled[0].values
    assert all(losses.asked)


def test_other_batches_are_asked_for_their_rows(net) -> None:
    module = tmkd_module(net(), net(), text_weight=0)
    with pytest.raises(TypeError, match=r"expected \(images, labels, rows\), got a dict .* override sample_ids"):
        module.sample_ids({"pixels": 1})
    with pytest.raises(TypeError, match=r"got a list \(int, int\)"):
        module.sample_ids([1, 2])


def test_a_copy_of_the_module_shares_the_cache(run, tmp_path) -> None:
    """Weight averaging copies the module in setup; the files must not be copied into memory with it."""
    losses, module = run(make(), TeacherCache(str(tmp_path), "float32"), callbacks=[WeightAveraging()])
    assert copy.deepcopy(module).teacher_cache is module.teacher_cache
    assert losses.asked == [True] * 8 + [False] * 8


def test_the_teacher_is_not_measured_where_it_does_not_run(run, tmp_path, caplog) -> None:
    printed = []
    for _ in range(2):
        caplog.clear()
        options = {"max_epochs": 1, "limit_val_batches": 1, "callbacks": [TeacherAccuracyCheck(1)]}
        with caplog.at_level("INFO"):
            run(make(), TeacherCache(str(tmp_path)), data=digits(augmentation_replicas=1), **options)
        printed.append("validation images, top-1" in caplog.text)
    assert printed == [True, False]


def test_one_callback_serves_several_runs_and_keeps_nothing_of_the_last(run, fit, net, tmp_path) -> None:
    cache = TeacherCache(str(tmp_path / "cache"))
    with pytest.warns(UserWarning, match="TeacherCache has nothing to keep"):
        fit(ClassifierModule(net()), callbacks=[cache])  # without a teacher
    assert not (tmp_path / "cache").exists()
    expected, _ = run(make("kd"), cache)
    with pytest.warns(UserWarning, match="nothing to keep"):
        fit(ClassifierModule(net()), callbacks=[cache])
    with pytest.warns(UserWarning, match="nothing to keep"):
        run(make(feature_weight=0, logit_weight=0), cache, max_epochs=1)
    losses, _ = run(make("kd"), cache)
    assert losses.values == expected.values
    assert not any(losses.asked)


class Flips(DigitsDataModule):
    """Changes images behind the dataset, which cannot know."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        image, *rest = batch
        return [image.flip(3), *rest]


def test_images_that_are_changed_behind_the_dataset_are_noticed(run, filled) -> None:
    with pytest.raises(CacheError, match=r"12 of 12 images are not those .* was filled with: something changes them"):
        run(make(), TeacherCache(str(filled[2])), data=digits(Flips))


def test_another_normalisation_is_another_cache(run, tmp_path) -> None:
    for std in (1.0, 2.0):
        resize = v2.Compose([v2.Resize((16, 16)), v2.ToDtype(torch.float32, scale=True), lambda image: image / 2])
        module = make(normalized_with=((0.0, 0.0, 0.0), (std, std, std)))
        losses, _ = run(module, TeacherCache(str(tmp_path)), data=digits(train_transform=resize), max_epochs=1)
        assert all(losses.asked)


class Opened(DigitsDataModule):
    """Counts the images of the training split that this process opens."""

    opened = 0

    def samples(self, split: str) -> Any:
        return Counted(self, super().samples(split)) if split == "train" else super().samples(split)


class Counted:
    def __init__(self, data: Opened, samples: Any) -> None:
        self.data, self.labelled = data, samples

    def __len__(self) -> int:
        return len(self.labelled)

    def __getitem__(self, index: int) -> Any:
        self.data.opened += 1
        return self.labelled[index]


class Epochs(Callback):
    """Images that were opened in each epoch."""

    def __init__(self) -> None:
        self.opened: list[int] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.before = trainer.datamodule.opened

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.opened.append(trainer.datamodule.opened - self.before)


class Pairs(DigitsDataModule):
    """Labels with a second part, of which a batch makes a list of two tensors."""

    def samples(self, split: str) -> Any:
        return [(image, (label, 0)) for image, label in super().samples(split)]


class BreaksOff(Callback):
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        raise RuntimeError("breaks off")


def jitter(image: torch.Tensor) -> torch.Tensor:
    """An augmentation of one's own, of another size than image_size."""
    return (image.repeat_interleave(2, 1).repeat_interleave(2, 2) + torch.randint(0, 9, (1,))).to(torch.uint8)[:, :12]


@pytest.mark.parametrize("transform", [None, jitter], ids=["default", "own"])
def test_stored_images_change_nothing_and_are_not_opened(run, tmp_path, transform: Any) -> None:
    live, expected = run(make("kd"), data=digits(train_transform=transform))
    for opened in ([44, 44, 0, 0], [0, 0, 0, 0]):
        cache, epochs = TeacherCache(str(tmp_path / "cache"), "float32", images=True), Epochs()
        losses, module = run(make("kd"), cache, data=digits(Opened, train_transform=transform), callbacks=[epochs])
        assert epochs.opened == opened
        assert losses.values == live.values
        assert same_weights(module, expected)
    (path,) = (tmp_path / "cache").glob("*/image.uint8.npy")
    assert np.load(path).shape == (88, 3, *((16, 16) if transform is None else (12, 16)))
    run(make("kd"), TeacherCache(str(tmp_path / "cache"), "float32"), data=(data := digits(Opened)), max_epochs=1)
    assert data.opened >= 44  # without the option, images are decoded


def test_images_join_a_cache_that_is_there(run, filled, tmp_path, caplog) -> None:
    """The teacher does not run for them; persistent workers read in the third epoch what was written in the first."""
    expected, module, directory = filled
    (directory / "other").mkdir()
    (directory / "other" / "identity.json").write_text('{"format": 1}')
    for start in (0, 88):
        caplog.clear()
        with caplog.at_level("INFO"):
            cache = TeacherCache(str(directory), images=True)
            losses, again = run(make(), cache, data=digits(num_workers=2))
        assert not any(losses.asked)
        assert losses.values == expected.values
        assert same_weights(again, module)
        assert f"{start} of 88 images are there" in caplog.text
        assert "the closest other one" not in caplog.text  # no other cache is started
    shutil.rmtree(directory / "other")
    main(["cache", "check", "--directory", str(directory)])
    damage_image = next(directory.glob("*/image.uint8.npy"))
    content = bytearray(damage_image.read_bytes())
    content[-1] ^= 1
    damage_image.write_bytes(content)
    epochs = Epochs()
    losses, _ = run(make(), TeacherCache(str(directory), images=True), data=digits(Opened), callbacks=[epochs])
    assert losses.values == expected.values
    assert epochs.opened == [0, 1, 0, 0]


def test_images_that_cannot_be_stored_are_refused(run, tmp_path, fit, loader, net, prompts, monkeypatch) -> None:
    cache = TeacherCache(str(tmp_path / "cache"), images=True)
    to_float = v2.Compose([v2.Resize((16, 16)), v2.ToDtype(torch.float32, scale=True)])
    with pytest.raises(ValueError, match=r"stores uint8 images, and train_transform gives float32 \(3, 16, 16\): let"):
        run(make(), cache, data=digits(train_transform=to_float))
    with pytest.raises(ValueError, match=r"stores one array or number for the label of a sample, .* has a tuple: give"):
        run(make(), cache, data=digits(Pairs))
    message = r"needs an ImageDataModule with augmentation_replicas, .*, and got a loader without a datamodule: leave"
    with pytest.raises(ValueError, match=message):
        fit(tmkd_module(net(), net()), callbacks=[prompts(), cache])
    with pytest.raises(ValueError, match=r"set augmentation_replicas of the datamodule, .* to 1 or more \(it is 0"):
        run(make(), cache, data=digits(augmentation_replicas=0))
    free = 88 * (3 * 16 * 16 + 4 + 8 + 4)  # of images, labels and their checksums; nothing for the outputs
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, free))
    with pytest.raises(CacheError, match=r"'embedding': \(3, 128\)} in .*left: take .*, no images, or a method"):
        run(make(), cache)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, free - 1))
    with pytest.raises(CacheError, match=r"needs 88 rows of {'image': \(3, 16, 16\), 'label': \(\)} in 69.0kB, but"):
        run(make(), TeacherCache(str(tmp_path / "other"), images=True))


def test_a_datamodule_that_served_a_cache_serves_another_run(run, filled) -> None:
    """Also where the run broke off, after which Lightning tears no callback down: no stored image is read."""
    data = digits(Opened)
    cache = TeacherCache(str(filled[2]), images=True)
    run(make(), cache, data=data, max_epochs=2)
    with pytest.raises(RuntimeError, match="breaks off"):
        run(make(), cache, data=data, max_epochs=2, callbacks=[BreaksOff()])
    data.opened = 0
    losses, _ = run(make(), TeacherCache(str(filled[2])), data=data, max_epochs=1)
    assert data.opened >= 2 * 44  # looked at for the fingerprint, then decoded
    assert losses.values == filled[0].values[:4]


def test_two_processes_fill_one_cache_and_train_one_student(tmp_path) -> None:
    """Both start cold; in the second epoch each reads what the other wrote."""
    run_script(Path(__file__).with_name("ddp_teacher_cache.py"), tmp_path)
    students = torch.load(tmp_path / "students.pt", weights_only=True)
    for one, other in zip(students["live"].values(), students["cached"].values(), strict=True):
        assert one.equal(other)
    (path,) = (tmp_path / "cache").glob("*/embedding.float32.written.npy")
    assert np.load(path).all()


@pytest.mark.slow
def test_two_processes_store_each_others_images(tmp_path) -> None:
    """In the second epoch each reads images that the other wrote."""
    run_script(Path(__file__).with_name("ddp_teacher_cache.py"), tmp_path, "images")
    students = torch.load(tmp_path / "students.pt", weights_only=True)
    for one, other in zip(students["live"].values(), students["cached"].values(), strict=True):
        assert one.equal(other)
    for name in ("image.uint8", "label.int64", "embedding.float32"):
        (path,) = (tmp_path / "cache").glob(f"*/{name}.written.npy")
        assert np.load(path).all()
