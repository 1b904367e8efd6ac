"""Folders of images as people have them, with all that is wrong with them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tmkd_lightning.data import DataError, ImageFolderDataModule

COLOURS = {"ant": (250, 10, 10), "bee_eater": (10, 250, 10), "cat": (10, 10, 250)}


def write(
    path: Path, colour: tuple[int, ...] = (1, 2, 3), side: tuple[int, int] = (12, 10), mode: str = "RGB", **save: object
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", side, colour).convert(mode).save(path, **save)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes of ten training images, each class in its colour."""
    for name, colour in COLOURS.items():
        for index in range(10):
            write(tmp_path / "images" / "train" / name / f"{index}.png", colour)
    return tmp_path / "images"


def module(root: Path, **options: object) -> ImageFolderDataModule:
    return ImageFolderDataModule(str(root), **{"batch_size": 4, "num_workers": 0, "image_size": 8, **options})


def files(data: ImageFolderDataModule, split: str) -> list[tuple[str, int]]:
    return [(path.relative_to(data.root).as_posix(), label) for path, label in data.samples(split).files]


def evaluated(root: Path, **options: object) -> Tensor:
    """The only image for validation, as the network sees it."""
    data = module(root, **options)
    data.setup("validate")
    ((image, _),) = data.val_dataloader()
    assert image.dtype == torch.uint8
    return image[0]


def colour_of(image: Tensor) -> list[int]:
    return [round(value) for value in image.float().mean((-2, -1)).tolist()]


def test_a_part_of_every_class_is_held_out(root: Path) -> None:
    train, val = (files(module(root, val_fraction=0.2), split) for split in ("train", "val"))
    assert [sum(label == wanted for _, label in train) for wanted in range(3)] == [8, 8, 8]
    assert [sum(label == wanted for _, label in val) for wanted in range(3)] == [2, 2, 2]
    assert len(dict(train + val)) == 30
    splits = []
    for seed in (0, 0, 1, 2):
        torch.manual_seed(len(splits))  # the machine's does not count
        splits.append(tuple(files(module(root, val_seed=seed), "val")))
    assert splits[0] == splits[1]
    assert len(set(splits)) > 1
    for fraction in (0.0, 1.0):
        with pytest.raises(ValueError, match="val_fraction must be above 0 and below 1"):
            module(root, val_fraction=fraction)


def test_a_part_of_every_class_is_held_out_for_testing(root: Path) -> None:
    """Of 10 images of a class 3 for testing, of the other 7 again a fifth, 1.4; a folder `test` comes first."""
    data = module(root, val_fraction=0.2, test_fraction=0.3)
    parts = {split: files(data, split) for split in ("train", "val", "test")}
    assert {split: [label for _, label in part].count(1) for split, part in parts.items()} == {
        "train": 6,
        "val": 1,
        "test": 3,
    }
    assert len({file for part in parts.values() for file, _ in part}) == 30
    assert files(module(root, val_seed=1, test_fraction=0.3), "test") != parts["test"]
    another_run = module(root, seed=1, val_fraction=0.2, test_fraction=0.3)  # as of a student whose teacher has seed 0
    assert {split: files(another_run, split) for split in parts} == parts
    write(root / "val" / "ant" / "x.png", (9, 9, 9))
    assert (len(files(data, "train")), len(files(data, "val")), files(data, "test")) == (21, 1, parts["test"])
    write(root / "test" / "ant" / "x.png", (9, 9, 9))
    assert (len(files(data, "train")), files(data, "test")) == (30, [("test/ant/x.png", 0)])
    with pytest.raises(ValueError, match="test_fraction must be above 0 and below 1, got 1"):
        module(root, test_fraction=1)


def test_classes_may_lie_in_the_root(root: Path) -> None:
    flat = (root / "train").rename(root.parent / "insects")
    (flat / "readme.md").write_text("# Insects")
    assert module(flat).class_names == ["ant", "bee eater", "cat"]
    assert [len(files(module(flat), split)) for split in ("train", "val")] == [27, 3]
    assert files(module(flat, classes=["cat", "ant", "bee_eater"]), "val")[0][1] == 0
    with pytest.raises(DataError, match=f"no folder {flat}/test"):
        module(flat).samples("test")
    write(flat / "cat" / "deep" / "x.png")
    assert len(files(module(flat), "train")) == 28


@pytest.mark.parametrize("name", ["val/ant/0.png", "notes/readme.md", "set/train/ant/0.png"])
def test_folders_in_the_root_that_are_not_all_classes(root: Path, name: str) -> None:
    """A split, a folder without images, and another data set: a wrong root is still noticed."""
    flat = (root / "train").rename(root.parent / "insects")
    write(flat / name, format="PNG")
    with pytest.raises(DataError, match=f"no folder {flat}/train"):
        module(flat).samples("train")
    with pytest.raises(DataError, match="train/train"):
        module(flat.rename(root / "train")).samples("train")


def test_other_splits_are_used_whole_with_the_labels_of_train(root: Path) -> None:
    for name in ("val/cat/x.png", "val/ant/x.png", "test/cat/x.png"):  # not every class need be there
        write(root / name, COLOURS[name.split("/")[1]])
    data = module(root)
    assert (data.class_names, data.class_phrases) == (["ant", "bee eater", "cat"], data.class_names)
    assert len(files(data, "train")) == 30
    assert files(data, "val") == [("val/ant/x.png", 0), ("val/cat/x.png", 2)]
    data.setup("test")
    ((image, label),) = data.test_dataloader()
    assert (colour_of(image[0]), label.tolist()) == ([10, 10, 250], [2])


def test_labels_belong_to_the_images(root: Path) -> None:
    data = module(root)
    data.setup("fit")
    for loader in (data.train_dataloader(), data.val_dataloader()):
        for image, label in loader:
            assert (image.shape[1:], image.dtype) == ((3, 8, 8), torch.uint8)
            expected = [list(list(COLOURS.values())[y]) for y in label.tolist()]
            assert [colour_of(one) for one in image] == expected


def test_junk_is_ignored(root: Path) -> None:
    before = files(module(root), "train")
    (root / "train" / ".ipynb_checkpoints").mkdir()
    (root / "train" / "ant" / "folder.png").mkdir()
    for name in (".DS_Store", "ant/.DS_Store", "ant/Thumbs.db", "ant/notes.txt", "labels.csv", "ant/._0.png"):
        (root / "train" / name).write_bytes(b"junk")
    write(root / "train/ant/.ipynb_checkpoints/0-checkpoint.png")
    (root / "readme.md").write_text("# Insects")
    assert files(module(root), "train") == before
    assert module(root).class_names == ["ant", "bee eater", "cat"]
    for name in ("a/0.png", "a/1.png", "A/0.png", "A/1.png"):
        write(root / "train" / name)
    module(root).setup("fit")
    assert module(root).class_names[:2] == ["A", "a"]  # letters may be told apart by their case


FRAMES = {"save_all": True, "append_images": [Image.new("RGB", (12, 10))]}  # of several the first is read


@pytest.mark.parametrize(
    ("name", "mode", "colour", "tolerance", "options"),
    [
        ("x.png", "RGB", [200, 100, 50], 0, {}),
        ("x.png", "L", [124, 124, 124], 1, {}),  # 0.299 R + 0.587 G + 0.114 B
        ("x.png", "RGBA", [200, 100, 50], 0, {}),
        ("x.png", "LA", [124, 124, 124], 1, {}),
        ("x.png", "P", [200, 100, 50], 3, {}),
        ("x.png", "1", [255, 255, 255], 0, {}),
        ("x.jpg", "CMYK", [200, 100, 50], 3, {}),
        ("x.jpg", "L", [124, 124, 124], 1, {}),
        ("x.tiff", "CMYK", [200, 100, 50], 3, {}),
        ("x.jpg", "RGBA", [200, 100, 50], 0, {"format": "PNG"}),  # a JPEG by its name alone
        ("x.jpg", "RGB", [200, 100, 50], 3, {"format": "GIF", **FRAMES}),
        ("x.jpg", "RGB", [200, 100, 50], 3, {"format": "WEBP", "lossless": True, **FRAMES}),
    ],
)
def test_colour_modes(root: Path, name: str, mode: str, colour: list[int], tolerance: int, options: dict) -> None:
    given = (255, 255, 255) if mode == "1" else (200, 100, 50)
    path = write(root / "val" / "ant" / name, given, mode=mode, **options)
    with Image.open(path) as image:
        assert image.mode == mode or options
    assert module(root).samples("val")[0][0].mode == "RGB"  # what a transform of one's own is given
    image = evaluated(root)
    assert image.shape == (3, 8, 8)
    assert np.abs(np.array(colour_of(image)) - colour).max() <= tolerance


@pytest.mark.parametrize("side", [(300, 7), (7, 300), (1, 1), (8, 8)])
def test_images_of_any_shape(root: Path, side: tuple[int, int]) -> None:
    for split in ("train", "val"):
        write(root / split / "ant" / "x.png", (9, 99, 199), side=side)
    assert colour_of(evaluated(root)) == [9, 99, 199]
    data = module(root)
    data.setup("fit")
    assert {tuple(image.shape[1:]) for image, _ in data.train_dataloader()} == {(3, 8, 8)}


def test_evaluation_looks_at_the_middle(root: Path) -> None:
    """224 of 256 pixels, and in proportion: at 28 px the image is resized to 32 and cut by 2 on each side."""
    frame = np.zeros((32, 32, 3), dtype=np.uint8)
    frame[2:30, 2:30] = np.random.default_rng(0).integers(1, 255, (28, 28, 3))
    Image.fromarray(frame).save(write(root / "val" / "ant" / "x.png"))
    image = evaluated(root, image_size=28)
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), frame[2:30, 2:30])
    ramp = np.linspace(0, 65535, 16).reshape(4, 4)  # sixteen bits are scaled to eight
    Image.fromarray(ramp.astype(np.uint16)).save(root / "val" / "ant" / "x.png")
    image, _ = module(root).samples("val")[0]
    np.testing.assert_allclose(np.asarray(image)[..., 0], ramp / 257, atol=1)


def test_augmentation_does_not_depend_on_workers(root: Path) -> None:
    for path in root.rglob("*.png"):  # so that crops differ
        noise = np.random.default_rng(int(path.stem)).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    runs = []
    for workers in (0, 2):
        data = module(root, num_workers=workers)
        data.setup("fit")
        loader = data.train_dataloader()
        loader.sampler.set_epoch(1)
        runs.append([image for image, _ in loader])
    assert all(one.equal(other) for one, other in zip(*runs, strict=True))


def cut(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:1000])


NO_IMAGE = [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"\xff\xd8\xff\xe0"]


@pytest.mark.parametrize(
    ("damage", "workers"),
    [(cut, 0), (cut, 1), (Path.unlink, 0)]  # a file may move away after setup
    + [(lambda path, content=content: path.write_bytes(content), 0) for content in NO_IMAGE],
)
def test_a_file_that_is_no_image_is_named(root: Path, damage: Callable[[Path], object], workers: int) -> None:
    path = write(root / "val" / "ant" / "broken.jpg")
    data = module(root, num_workers=workers)
    data.setup("validate")
    damage(path)
    with pytest.raises(DataError, match=f"{path} cannot be read as an image .*: replace or remove it"):
        list(data.val_dataloader())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["readme.png"], "no folder {root}/train: .* {root}/train/<class>/"),
        (["train/x.png"], "{root}/train holds no folders"),
        (["train/ant/0.png", "train/dog/notes.txt"], r"train/dog holds no image \(\.jpg, "),
        *((["train/ant/0.png", f"{split}/ant/x"], f"/{split}/ant holds no image") for split in ("val", "test")),
        *(
            (["train/ant/0.png", f"{split}/ant/x.png", f"{split}/dog/x.png"], f"{split}/dog is a class that .*n lacks")
            for split in ("val", "test")
        ),
        (["train/ant/0.png", "train/ant/1.png", "train/cat/0.png"], "class 'cat' has one image: it cannot be split"),
        *(
            (
                [f"train/{name}/{index}.png" for name in pair for index in range(2)],
                f"classes {min(pair)!r} and {max(pair)!r} would both be called 'a b'",
            )
            for pair in (("a_b", "a b"), ("a_b", "a__b"), ("a b", "a b "))
        ),
        (["train/ant/x.png", "val/ant/x.png"], r"the training split holds 1 image\(s\)"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        write(tmp_path / name, format="PNG")

    def use() -> None:
        data.prepare_data()
        data.setup("fit")
        data.train_dataloader()

    data = module(tmp_path)
    with pytest.raises(DataError, match=message.format(root=tmp_path)):
        use()


def test_folders_that_are_missing(root: Path, tmp_path: Path) -> None:
    """One for testing matters only there."""
    for use in (lambda data: data.class_names, lambda data: data.setup("fit")):
        with pytest.raises(DataError, match=rf"no folder {tmp_path}/train: "):
            use(module(tmp_path))
    data = module(root)
    data.prepare_data()
    data.setup("fit")
    for stage in ("test", "predict"):
        with pytest.raises(DataError, match=f"no folder {root}/test"):
            data.setup(stage)


def test_images_without_a_class_join_the_training_images(root: Path, tmp_path: Path) -> None:
    for index in range(3):
        write(tmp_path / "photos" / "deep" / f"{index}.png", (9, 9, 9))
    data = module(root, unlabelled=str(tmp_path / "photos"))
    data.prepare_data()
    assert [label for _, label in data.samples("train").files] == [0] * 9 + [1] * 9 + [2] * 9 + [-1] * 3
    assert sorted(label for _, label in data.samples("val").files) == [0, 1, 2]
    alone = module(tmp_path / "photos" / "deep", unlabelled=str(tmp_path / "photos"), classes=["ant", "bee"])
    alone.prepare_data()
    alone.setup("fit")
    assert next(iter(alone.train_dataloader()))[1].tolist() == [-1] * 3
    assert (alone.val_dataloader(), alone.class_names) == ([], ["ant", "bee"])


@pytest.mark.parametrize("place", [".", "test", "train/ant", "nowhere", "empty"])
def test_unlabelled_images_that_cannot_be_used(root: Path, place: str) -> None:
    write(root / "test" / "ant" / "0.png", (9, 9, 9))
    (root.parent / "empty").mkdir()
    folder = root.parent / place if place in ("nowhere", "empty") else root / place
    message = {"nowhere": "is no folder", "empty": "holds no image"}.get(place, r"shares images with .*: name a folder")
    with pytest.raises(DataError, match=message):
        module(root, unlabelled=str(folder)).samples("train")
