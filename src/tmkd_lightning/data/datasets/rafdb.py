"""RAF-DB: basic emotions in faces."""

from pathlib import Path

from tmkd_lightning.data.datasets.listed import ListedImages, read_table
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
        """Tries the layouts in turn."""
        for folder in (self.root / "basic", self.root / "raf-basic", self.root):
            if (folder / _LIST).is_file():
                return list(self.CLASSES), [
                    (folder / "Image" / "aligned" / f"{Path(name).stem}_aligned.jpg", _NUMBERS[number])
                    for name, number in read_table(folder / _LIST).items()
                    if name.startswith(self.split)
                ]
        for folder in (self.root / "DATASET", self.root):
            if all((folder / split).is_dir() for split in ("train", "test")):
                return list(self.CLASSES), _read_folders(folder / self.split)
        raise DataError(
            f"{self.root} holds no RAF-DB, neither {_LIST} (there, in basic/ or in raf-basic/) nor train/ and test/ "
            "(there or in DATASET/): ask its authors at http://www.whdeng.cn/RAF/model1.html, and unpack it to "
            f"{self.root}/basic/{_LIST} and {self.root}/basic/Image/aligned/train_00001_aligned.jpg"
        )


def _read_folders(folder: Path) -> list[tuple[Path, int]]:
    files = []
    for number, label in _NUMBERS.items():
        if not (folder / number).is_dir():
            raise DataError(f"no folder {folder / number}: RAF-DB has a folder for each class from 1 to 7 there")
        files += [(path, label) for path in find_images(folder / number) if path.stem.endswith("_aligned")]
    return files
