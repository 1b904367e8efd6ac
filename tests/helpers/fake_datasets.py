"""The benchmarks in miniature: their real layouts on disk, tiny images, and a server to load them from.

Every ``make_...`` writes a dataset below a root and gives its training and test images the colour of their class. With
``size=None`` no image is written, so that lists as long as the real ones cost little. `Trap` is what a
hostile file holds.
"""

import colorsys
import hashlib
import os
import pickle
import tarfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image
from scipy.io import savemat

from tmkd_lightning.data.download import Archive

Counts = int | Sequence[int]  # for each class

# What the real ones hold, class by class
CUB = {"classes": 200, "train_per_class": [30] * 194 + [29] * 6, "test_per_class": [29] * 194 + [28] * 6}
RAF_DB = {
    "train_per_class": [1290, 281, 717, 4772, 1982, 705, 2524],
    "test_per_class": [329, 74, 160, 1185, 478, 162, 680],
}
DOGS = {"classes": 120, "train_per_class": 100, "test_per_class": [71, 72] * 60}
DTD = {"classes": 47, "per_class": 40, "partitions": 10}
CIFAR100 = {"classes": 100, "train_per_class": 500, "test_per_class": 100}


class Trap:
    """Makes a folder when it is unpickled, which nothing of ours may do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def colour(label: int) -> tuple[int, int, int]:
    """A colour for each class; the golden angle keeps neighbours apart."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.381966 % 1, 0.9, 0.8)
    return round(red * 255), round(green * 255), round(blue * 255)


def make_cub(
    root: Path, classes: int = 3, train_per_class: Counts = 4, test_per_class: Counts = 2, size: int | None = 16
) -> Path:
    """CUB-200-2011; the numbers of the images are not those of their lines, as in the real one."""
    folder = root / "CUB_200_2011"
    names = [f"{label + 1:03}.{_word(label)}_Bird" for label in range(classes)]
    rows = list(_rows(classes, train_per_class, test_per_class))
    numbers = np.random.default_rng(0).permutation(len(rows)) + 1
    images, labels, splits, boxes = [], [], [], []
    for number, (label, train, index) in zip(numbers, rows, strict=True):
        name = f"{names[label]}/{_word(label)}_Bird_{index:04}_{number}.jpg"
        images.append(f"{number} {name}")
        labels.append(f"{number} {label + 1}")
        splits.append(f"{number} {int(train)}")
        boxes.append(f"{number} 1.0 1.0 8.0 8.0")
        _image(folder / "images" / name, label, size)
    _lines(folder / "images.txt", images)
    _lines(folder / "image_class_labels.txt", labels)
    _lines(folder / "train_test_split.txt", splits)
    _lines(folder / "bounding_boxes.txt", boxes)
    _lines(folder / "classes.txt", [f"{label} {name}" for label, name in enumerate(names, start=1)])
    return folder


def make_rafdb(
    root: Path,
    train_per_class: Counts = 4,
    test_per_class: Counts = 2,
    size: int | None = 16,
    layout: str = "basic",
) -> Path:
    """RAF-DB; `layout` is ``basic``, ``raf-basic`` or an empty string for the list, ``DATASET`` for folders."""
    rows, seen = [], {True: 0, False: 0}
    for label, train, _ in _rows(7, train_per_class, test_per_class):
        seen[train] += 1
        rows.append((f"train_{seen[train]:05}" if train else f"test_{seen[train]:04}", label))
    folder = root / layout
    for name, label in rows:
        place = f"{name.split('_')[0]}/{label + 1}" if layout == "DATASET" else "Image/aligned"
        _image(folder / place / f"{name}_aligned.jpg", label, size)
    if layout != "DATASET":
        _lines(folder / "EmoLabel" / "list_patition_label.txt", [f"{name}.jpg {label + 1}" for name, label in rows])
    return folder


def make_dogs(
    root: Path, classes: int = 3, train_per_class: Counts = 4, test_per_class: Counts = 2, size: int | None = 16
) -> Path:
    """Stanford Dogs."""
    names = [f"n{2085620 + label:08}-{'Shih-' if label % 2 else 'big_'}{_word(label)}" for label in range(classes)]
    rows = list(_rows(classes, train_per_class, test_per_class))
    files = [f"{names[label]}/{names[label].split('-')[0]}_{index}.jpg" for label, _, index in rows]
    (root / "Images").mkdir(parents=True)
    for file, (label, _, _) in zip(files, rows, strict=True):
        _image(root / "Images" / file, label, size)
    for split, wanted in {"train": (True,), "test": (False,)}.items():  # file_list.mat, of both, is not read
        chosen = [(file, row[0]) for file, row in zip(files, rows, strict=True) if row[1] in wanted]
        write_mat(root / f"{split}_list.mat", [file for file, _ in chosen], [label + 1 for _, label in chosen])
    return root


def write_mat(path: Path, files: list[str], labels: list[int]) -> None:
    """One list of Stanford Dogs: a column of cells, and labels in single bytes."""
    cells = np.empty((len(files), 1), dtype=object)
    cells[:, 0] = files
    savemat(path, {"file_list": cells, "labels": np.array(labels, dtype=np.uint8).reshape(-1, 1)})


def make_dtd(root: Path, classes: int = 3, per_class: int = 2, partitions: int = 1, size: int | None = 16) -> Path:
    """DTD: `per_class` images of each class in each of the three splits, dealt anew for each partition."""
    folder = root / "dtd" / "dtd"
    (folder / "images").mkdir(parents=True)
    names = [f"{_word(label).lower()}-ed" for label in range(classes)]
    images = {name: [f"{name}/{name}_{index:04}.jpg" for index in range(3 * per_class)] for name in names}
    for label, name in enumerate(names):
        for image in images[name]:
            _image(folder / "images" / image, label, size)
    for partition in range(1, partitions + 1):
        deal = np.random.default_rng(partition).permutation(3 * per_class)
        for place, split in enumerate(("train", "val", "test")):
            chosen = deal[place * per_class : (place + 1) * per_class]
            lines = [images[name][index] for name in names for index in sorted(chosen)]
            _lines(folder / "labels" / f"{split}{partition}.txt", lines)
    return folder


class _Zeros:
    """An array of zeros that takes a few bytes in a pickle."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def __reduce__(self) -> tuple[object, ...]:
        return np.zeros, (self.shape, np.uint8)


def make_cifar100(
    root: Path, classes: int = 3, train_per_class: int = 4, test_per_class: int = 2, black: bool = False
) -> Path:
    """CIFAR-100; torchvision opens it after `trust_cifar100`. `black` images make large ones small."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for split, per_class in {"train": train_per_class, "test": test_per_class}.items():
        labels = [label for _ in range(per_class) for label in range(classes)]
        data = _Zeros(len(labels), 3072)
        if not black:
            data = np.repeat(np.array([colour(label) for label in labels], dtype=np.uint8), 1024, axis=1)
            data[:, 0] = np.arange(len(labels)) + (0 if split == "train" else 128)  # no two are the same
        entry = {"data": data, "fine_labels": labels, "coarse_labels": [0] * len(labels)}
        (folder / split).write_bytes(pickle.dumps(entry))
    names = [f"{_word(label).lower()}_thing" for label in range(classes)]
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names, "coarse_label_names": ["all"]}))
    return folder


def trust_cifar100(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Lets torchvision take the files of a fake for genuine: it looks at their md5 before it unpickles them."""
    dataset = torchvision.datasets.CIFAR100
    monkeypatch.setattr(dataset, "train_list", [["train", md5(folder / "train")]])
    monkeypatch.setattr(dataset, "test_list", [["test", md5(folder / "test")]])
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": md5(folder / "meta")})


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def pack(archive: Path, folder: Path, names: Sequence[str], url: str = "http://localhost:1") -> Archive:
    """Packs entries of a folder, and says what `Archive` they are at a server."""
    with tarfile.open(archive, "w:gz" if archive.name.endswith("gz") else "w") as tar:
        for name in names:
            tar.add(folder / name, name)
    return Archive(archive.name, f"{url}/{archive.name}", md5(archive), tuple(names))


def _word(label: int) -> str:
    """A name for each class, of letters only, in alphabetical order."""
    return f"{chr(65 + label // 26)}{chr(97 + label % 26)}"


def _rows(classes: int, train_per_class: Counts, test_per_class: Counts) -> Iterator[tuple[int, bool, int]]:
    """Label, whether it is for training, and index within the class, of each image."""
    for label in range(classes):
        train, test = (count if isinstance(count, int) else count[label] for count in (train_per_class, test_per_class))
        yield from ((label, index < train, index) for index in range(train + test))


def _image(path: Path, label: int, size: int | None) -> None:
    if size is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), colour(label)).save(path, quality=95)


def _lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


class Server(ThreadingHTTPServer):
    """Serves a folder's files and can misbehave."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.breaks: list[int] = []  # after how many bytes the next answers break off, one entry an answer
        self.pause = 0.0  # seconds between one piece of an answer and the next, of 4 KiB
        self.status = 200  # answered if it is another
        self.asked: list[str] = []  # name of the file of each request

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: Server
    stopped = threading.Event()  # never set: to wait for

    def do_GET(self) -> None:
        name = self.path.strip("/").split("?")[0]
        self.server.asked.append(name)
        if self.server.status != 200:
            return self.send_error(self.server.status)
        content = (self.server.folder / name).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        stop = self.server.breaks.pop(0) if self.server.breaks else len(content)
        for place in range(0, min(stop, len(content)), 4096):
            self.wfile.write(content[place : min(place + 4096, stop)])
            self.stopped.wait(self.server.pause)

    def log_message(self, *args: object) -> None:
        """Stays silent."""


@contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """Runs a server in a thread."""
    with Server(folder) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
