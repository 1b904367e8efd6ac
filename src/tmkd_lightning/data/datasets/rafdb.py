"""RAF-DB: basic emotions in faces."""

from __future__ import annotations

from pathlib import Path

from tmkd_lightning.data.datasets.listed import ListedImages, look_up, read_table
from tmkd_lightning.data.errors import DataError
from tmkd_lightning.data.image_files import find_images

_LIST = "EmoLabel/list_patition_label.txt"  # sic
_NUMBERS = {str(number): number - 1 for number in range(1, 8)}


class RAFDB(ListedImages):
    """Real-world Affective Faces Database, basic emotions: 12,271 training and 3,068 test images of 7 classes.

    The images are 100×100 pixels, aligned; the classes are heavily imbalanced. The authors send the data on request
    only, for research, so `download` has no effect. Two layouts are read, in `root` or the folder in brackets:

    - ``Image/aligned/train_00001_aligned.jpg`` and ``EmoLabel/list_patition_label.txt`` (``basic``, ``raf-basic``);
    - ``train/1/train_00001_aligned.jpg``, a folder for each class from 1 to 7, and ``test`` likewise (``DATASET``).

    Takes the arguments of `ListedImages`.

    Source: Li et al., Reliable Crowdsourcing and Deep Locality-Preserving Learning for Expression Recognition in the
    Wild, CVPR 2017; http://www.whdeng.cn/RAF/model1.html.
    """

    CLASSES = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")

    def read(self) -> tuple[list[str], list[tuple[Path, int]]]:
        """Tries the layouts in turn; see `ListedImages`."""
        for folder in (self.root / "basic", self.root / "raf-basic", self.root):
            if (folder / _LIST).is_file():
                return list(self.CLASSES), _read_list(folder, self.split)
        for folder in (self.root / "DATASET", self.root):
            if all((folder / split).is_dir() for split in ("train", "test")):
                return list(self.CLASSES), _read_folders(folder / self.split)
        raise DataError(
            f"{self.root} holds no RAF-DB. Looked for {_LIST} in {self.root}, its basic/ and its raf-basic/, and for "
            f"train/ and test/ in {self.root} and its DATASET/. The authors hand it out on request only: ask at "
            f"http://www.whdeng.cn/RAF/model1.html, and unpack it so that there are {self.root}/basic/{_LIST} and "
            f"{self.root}/basic/Image/aligned/train_00001_aligned.jpg"
        )


def _read_list(folder: Path, split: str) -> list[tuple[Path, int]]:
    table = read_table(folder / _LIST)
    files = []
    for name in table:
        path = folder / "Image" / "aligned" / f"{Path(name).stem}_aligned.jpg"
        label = look_up(table, name, folder / _LIST, _NUMBERS)
        if not name.startswith(("train_", "test_")):
            raise DataError(f"{folder / _LIST}: {name} is neither a train_ nor a test_ image")
        if name.startswith(split):
            files.append((path, label))
    return files


def _read_folders(folder: Path) -> list[tuple[Path, int]]:
    for number in _NUMBERS:
        if not (folder / number).is_dir():
            raise DataError(f"no folder {folder / number}: RAF-DB has a folder for each class from 1 to 7 there")
    paths = ((path, label) for number, label in _NUMBERS.items() for path in find_images(folder / number))
    return [(path, label) for path, label in paths if path.stem.endswith("_aligned")]
