"""Streams: what is written, what comes out of them, and in which order; resuming within and between epochs."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from kornia.augmentation import RandomInvert
from PIL import Image

from helpers.fake_datasets import make_cub
from tmkd_lightning.cli.main import main as tmkd
from tmkd_lightning.data import CUB200DataModule, DataError, DigitsDataModule, ImageFolderDataModule, StreamDataModule
from tmkd_lightning.data.shards.index import INDEX
from tmkd_lightning.data.shards.writing import write_stream

pytest.importorskip("litdata")

TRAIN = 50


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """Fifty training images in several shards, and validation and test splits."""
    folder = tmp_path_factory.mktemp("streams") / "digits"
    write_stream(DigitsDataModule(train_samples=TRAIN), folder, shard_bytes=2500)
    return folder


def stream(root: Path | str, stage: str = "fit", **options) -> StreamDataModule:
    data = StreamDataModule(str(root), **{"batch_size": 8, "num_workers": 0, "image_size": 16, **options})
    data.prepare_data()
    data.setup(stage)
    return data


def epoch(loader, number: int = 0) -> list:
    """The batches of an epoch, as Lightning asks for them."""
    loader.sampler.set_epoch(number)
    return list(loader)


def rows(batches: list) -> list[int]:
    return [int(row) for batch in batches for row in batch[2]]


def same(one: list, other: list) -> bool:
    pairs = zip(one, other, strict=True)
    return all(np.array_equal(a, b) for left, right in pairs for a, b in zip(left, right, strict=True))


def test_images_labels_and_names_are_those_that_were_written(digits) -> None:
    source, data = DigitsDataModule(train_samples=TRAIN), stream(digits)
    assert (data.class_names, data.class_phrases) == (source.class_names, source.class_phrases)
    assert len(list((digits / "train").glob("*.bin"))) > 3
    for split in ("val", "test"):  # in their order
        written, read = source.samples(split), data.samples(split)
        assert len(written) == len(read)
        for (image, label), (other, found) in zip(written, read, strict=True):
            assert (np.asarray(other).transpose(2, 0, 1) == image.numpy()).all()
            assert label == found
    written, read = source.samples("train"), data.samples("train")  # in another
    order = np.random.RandomState(0).permutation(TRAIN)
    assert [label for _, label in read] == [written[index][1] for index in order] != [label for _, label in written]
    assert (np.asarray(read[3][0]).transpose(2, 0, 1) == written[order[3]][0].numpy()).all()


def test_files_are_stored_byte_by_byte(tmp_path, capsys) -> None:
    """JPEG stays JPEG, and is decoded as from the folder; a class of the test split alone is none of the stream's."""
    make_cub(tmp_path / "birds", classes=3, train_per_class=4, test_per_class=2)
    name = "tmkd_lightning.data.CUB200DataModule"
    out = tmp_path / "stream"
    tmkd(["data", "optimize", "--data", name, "--data.root", str(tmp_path / "birds"), "--output", str(out)])
    assert "train: 9 images in 1 shards" in capsys.readouterr().out
    source, data = CUB200DataModule(str(tmp_path / "birds")), stream(out)
    files = [path.read_bytes() for path, _ in source.samples("test").files]
    shard = b"".join(path.read_bytes() for path in (out / "test").glob("*.bin"))
    assert all(file in shard for file in files)
    for (image, label), (other, found) in zip(source.samples("test"), data.samples("test"), strict=True):
        assert (np.asarray(image) == np.asarray(other)).all()
        assert label == found
    tmkd(["data", "check", "--data", "tmkd_lightning.data.StreamDataModule", "--data.root", str(out)])
    assert "val: 3 images of 3 classes, 1 to 1 each" in capsys.readouterr().out


def test_an_epoch_has_each_image_once_in_an_order_of_its_own(digits) -> None:
    data = stream(digits, augmentation_replicas=3)
    loader = data.train_dataloader()
    first, second = epoch(loader, 0), epoch(loader, 1)
    assert [len(batch[1]) for batch in first] == [8] * 6 + [2]
    assert sorted(rows(first)) == list(range(TRAIN)) != rows(first)
    assert sorted(rows(second)) == list(range(TRAIN, 2 * TRAIN))
    assert [row - TRAIN for row in rows(second)] != rows(first)
    assert same(epoch(data.train_dataloader(), 1), second)  # whatever came before
    images, _, chosen = next(iter(data.cache_dataloader(np.array([rows(second)[0], rows(first)[1]]))))
    assert chosen.tolist() == [rows(second)[0], rows(first)[1]]
    assert images.equal(torch.stack([second[0][0][0], first[0][0][1]]))
    assert rows(epoch(stream(digits, seed=1, augmentation_replicas=3).train_dataloader())) != rows(first)


def test_augmentation_follows_from_seed_epoch_and_index(digits) -> None:
    """So it is the same for any number of workers, though their order is not, and as a SeededDataset draws it."""
    drawn = []
    for workers in (0, 2):
        data = stream(digits, num_workers=workers)
        data.number_samples()
        batches = epoch(data.train_dataloader(), 5)
        drawn.append({int(row): image for images, _, rows in batches for row, image in zip(rows, images, strict=True)})
    assert all(drawn[0][row].equal(image) for row, image in drawn[1].items())
    alone = data._datasets["train"]
    assert all(image.equal(alone.draw(5, row)[0]) for row, image in drawn[0].items())
    assert not drawn[0][0].equal(alone.draw(4, 0)[0])
    assert (images := drawn[0][0]).dtype == torch.uint8
    assert images.shape == (3, 16, 16)


def test_what_the_device_does_follows_from_them_too(digits) -> None:
    data = stream(digits, num_workers=2, device_augmentations=[RandomInvert(p=0.5)])
    data.number_samples()
    batches = epoch(data.train_dataloader(), 5)
    augmented = [data.on_after_batch_transfer(batch, 0) for batch in batches]
    images, rows = (np.concatenate([batch[place] for batch in augmented]) for place in (0, 2))
    alone, inverted = data._datasets["train"], 0
    for row, image in zip(rows.tolist(), torch.from_numpy(images), strict=True):
        plain = alone.draw(5, row)[0]
        assert image.equal(alone.augmentation(plain[None], *alone.for_device(5, row, plain))[0])
        inverted += image.equal(255 - plain)
    assert TRAIN // 4 < inverted < TRAIN * 3 // 4


@pytest.mark.parametrize(("workers", "after"), [(0, range(1, 8)), (2, (3,))])
def test_the_rest_of_an_epoch_is_what_an_undisturbed_run_sees(digits, workers, after) -> None:
    """At every place with one process; with workers, each of which has shards of its own, at some."""
    options = {"num_workers": workers, "augmentation_replicas": 2}
    whole = epoch(stream(digits, **options).train_dataloader(), 1)
    assert sorted(rows(whole)) == list(range(TRAIN, 2 * TRAIN))
    for steps in after:
        data = stream(digits, **options)
        data._samples_seen = lambda seen=8 * steps: seen
        loader = data.train_dataloader()
        assert same(epoch(loader, 1), whole[steps:]), steps
    loader.samples_seen = lambda: 0
    assert workers or sorted(rows(epoch(loader, 2))) == list(range(TRAIN))


@pytest.mark.parametrize(("images", "sizes"), [(17, [8, 8]), (18, [8, 8, 2])])
def test_a_last_batch_of_one_image_is_left_out(tmp_path, images, sizes) -> None:
    write_stream(DigitsDataModule(train_samples=images), tmp_path / "a", shard_bytes=2500)
    loader = stream(tmp_path / "a").train_dataloader()
    assert [len(batch[1]) for batch in epoch(loader)] == sizes
    assert len(loader) == len(sizes)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_get_as_many_batches_each(digits, processes, monkeypatch) -> None:
    """What is left over, less than a batch for each, is left out, and is another part in every epoch."""
    monkeypatch.setenv("WORLD_SIZE", str(processes))  # which LitData reads
    seen: dict[int, list[int]] = {0: [], 1: []}
    for rank in range(processes):
        monkeypatch.setenv("GLOBAL_RANK", str(rank))
        data = StreamDataModule(str(digits), batch_size=4, num_workers=0, image_size=16, augmentation_replicas=1)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=processes)
        data.setup("fit")
        data._samples_seen = lambda: 0
        for number, found in seen.items():
            batches = epoch(data.train_dataloader(), number)
            assert [len(batch[1]) for batch in batches] == [4] * (TRAIN // (4 * processes))
            found += rows(batches)
    left = [set(range(TRAIN)) - set(found) for found in seen.values()]
    assert [len(set(found)) for found in seen.values()] == [len(found) for found in seen.values()]
    assert left[0] != left[1]
    data.batch_size = 26
    with pytest.raises(DataError, match=rf"holds 50 image\(s\), fewer than a batch in each of {processes} processes"):
        data.train_dataloader()


def test_other_workers_within_an_epoch_are_refused(digits) -> None:
    data = stream(digits, num_workers=0)
    batches = SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(ready=2)))
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, fit_loop=SimpleNamespace(epoch_loop=batches))
    data.load_state_dict({**data.state_dict(), "num_workers": 2})
    with pytest.raises(DataError, match=r"after 2 steps .*'num_workers': 2.*'num_workers': 0"):
        epoch(data.train_dataloader())


def test_a_bucket_is_copied_shard_by_shard(digits, tmp_path) -> None:
    """LitData's ``local:`` has a folder take the part of the bucket."""
    options = {"augmentation_replicas": 1, "num_workers": 0}
    far = stream(f"local:{digits}", cache_dir=str(tmp_path / "cache"), **options)
    near = stream(digits, **options)
    assert same(epoch(far.train_dataloader()), epoch(near.train_dataloader()))
    copies = {path.name for path in (tmp_path / "cache").rglob("*.bin")}
    assert copies == {path.name for path in (digits / "train").glob("*.bin")}
    assert same(list(far.val_dataloader()), list(near.val_dataloader()))
    assert far.training_fingerprint() == near.training_fingerprint()


@pytest.fixture
def copy(digits, tmp_path) -> Path:
    """A stream to be damaged."""
    import shutil

    return Path(shutil.copytree(digits, tmp_path / "copy"))


def test_a_home_folder_is_found(tmp_path, monkeypatch) -> None:
    """LitData would make a folder that is called ~."""
    monkeypatch.setenv("HOME", str(tmp_path))
    data = StreamDataModule("~/digits", cache_dir="~/shards")
    assert (data.root, data.cache_dir) == (str(tmp_path / "digits"), str(tmp_path / "shards"))


def test_a_folder_without_index_or_with_a_damaged_one(copy, tmp_path) -> None:
    index = copy / "stream_index.json"
    for content, message in (
        (index.read_text().replace('"nine"', '"ten"'), r"stream_index.json is damaged \(it is not as it was written\)"),
        (index.read_text()[:-9], r"stream_index.json is damaged"),
        (index.read_text().replace('"format": 1', '"format": 2'), "has the format 2, this version reads 1"),
        ("[]", "stream_index.json is damaged"),
    ):
        index.write_text(content)
        with pytest.raises(DataError, match=message):
            stream(copy)
    index.unlink()
    with pytest.raises(DataError, match=rf"{copy} has no stream_index.json: it is no stream, or a half-written one"):
        stream(copy)
    with pytest.raises(DataError, match=r"local:/nowhere has no stream_index.json"):
        stream("local:/nowhere")
    assert INDEX.endswith("index.json")  # other files LitData fetches by threads, which workers do not survive


def test_shards_that_are_not_those_of_the_index(copy, tmp_path) -> None:
    shard = copy / "val" / "chunk-0-1.bin"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DataError, match=rf"the shard {shard} has \d+ bytes instead of \d+: copy the stream again"):
        stream(copy)
    shard.unlink()
    with pytest.raises(DataError, match=rf"the shard {shard} is missing"):
        stream(copy)
    write_stream(DigitsDataModule(train_samples=30), tmp_path / "other", shard_bytes=2500)
    (tmp_path / "other" / "train").rename(tmp_path / "train")
    (copy / "train").rename(tmp_path / "old")
    (tmp_path / "train").rename(copy / "train")
    with pytest.raises(DataError, match=r"the shards in .*train are not those that .*stream_index.json describes"):
        stream(copy)


def test_a_half_written_stream_has_no_index_and_is_not_written_over(tmp_path) -> None:
    class Broken(DigitsDataModule):
        def samples(self, split):
            if split == "val":
                raise KeyboardInterrupt
            return super().samples(split)

    with pytest.raises(KeyboardInterrupt):
        write_stream(Broken(train_samples=20), tmp_path / "half")
    with pytest.raises(DataError, match=r"half has no stream_index.json: it is no stream, or a half-written one"):
        stream(tmp_path / "half")
    with pytest.raises(DataError, match=r"half holds something already, perhaps a half-written stream"):
        write_stream(DigitsDataModule(train_samples=20), tmp_path / "half")


def test_broken_images_are_all_named_and_nothing_is_left(tmp_path, capsys) -> None:
    root, out = tmp_path / "photos", tmp_path / "out"
    for index, (split, name) in enumerate([(s, n) for s in ("train", "val") for n in ("a", "b") for _ in range(3)]):
        (root / split / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (index, 0, 0)).save(root / split / name / f"{index}.png")
    broken = [root / "train" / "a" / "0.png", root / "val" / "b" / "9.png"]
    for path in broken:
        path.write_text("<html>")
    words = ["data", "optimize", "--data", "tmkd_lightning.data.ImageFolderDataModule", "--data.root", str(root)]
    with pytest.raises(SystemExit, match="2 problem"):
        tmkd([*words, "--output", str(out)])
    printed = capsys.readouterr().out
    assert all(f"{path} cannot be read as an image" in printed for path in broken)
    assert not any(out.iterdir())
    for path in broken:
        path.unlink()
    tmkd([*words, "--output", str(out)])
    assert list(json.loads((out / "stream_index.json").read_text())["splits"]) == ["train", "val"]
    with pytest.raises(DataError, match=r"out has no split 'test': it holds train, val"):
        stream(out, "test")


def test_without_validation_images_nothing_is_validated(tmp_path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "root").mkdir()
    for index in range(4):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / "photos" / f"{index}.png")
    source = ImageFolderDataModule(
        str(tmp_path / "root"), unlabelled=str(tmp_path / "photos"), classes=["a", "b"], num_workers=0
    )
    write_stream(source, tmp_path / "out")
    data = stream(tmp_path / "out")
    assert data.val_dataloader() == []
    assert epoch(data.train_dataloader())[0][1].tolist() == [-1] * 4


def test_the_extra_is_named(digits, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tmkd_lightning.data.shards.index.find_spec", lambda name: None)
    monkeypatch.setattr("tmkd_lightning.data.shards.writing.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'tmkd-lightning\[stream\]'"):
        stream(digits)
    with pytest.raises(ImportError, match=r"pip install 'tmkd-lightning\[stream\]'"):
        write_stream(DigitsDataModule(train_samples=20), tmp_path / "out")


def test_a_broken_or_displaced_image_is_named(digits, monkeypatch) -> None:
    data = stream(digits).samples("train")
    with pytest.raises(IndexError, match="has 50 images, there is no image 50"):
        data[50]
    there = data._dataset()[4]
    monkeypatch.setattr(data, "_dataset", lambda: {4: there, 5: there, 6: {**there, "image": b"x", "index": 6}})
    with pytest.raises(DataError, match=r"image 5 of .*train says that it is 4: write the stream again"):
        data[5]
    with pytest.raises(DataError, match=r"image 6 of .*train cannot be read \(cannot identify"):
        data[6]
    with pytest.raises(DataError, match=r"image 7 of .*train cannot be read \(KeyError: 7\): copy the stream again"):
        data[7]


def test_a_stream_stores_no_images(digits) -> None:
    with pytest.raises(
        ValueError, match=r"TeacherCache\(images=True\) stores images that come from files, and a stream"
    ):
        stream(digits, augmentation_replicas=1).store_samples(None)
