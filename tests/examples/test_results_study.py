"""The study as a command: what is wrong is said before anything is trained, and what failed is not taken for done."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from helpers.doc_commands import importing_from

RESULTS = Path(__file__).parents[2] / "examples" / "results"


@pytest.fixture
def study() -> Iterator[ModuleType]:
    with importing_from(RESULTS):
        import study

        yield study


@pytest.fixture
def refused(study, monkeypatch, tmp_path, capsys) -> Callable[..., str]:
    """Runs the command, and returns with what message it ends; each array of vectors is in a file of its own."""

    def run(name: str, root: Path, **vectors: np.ndarray) -> str:
        files = [str(tmp_path / f"{array}.npz") for array in vectors]
        for file, (array, values) in zip(files, vectors.items(), strict=True):
            np.savez(file, **{array: values})
        options = [f"--root={root}", f"--work={tmp_path}", f"--output={tmp_path / 'output'}", "--vectors", *files]
        monkeypatch.setattr("sys.argv", ["study.py", *name.split(), *options])
        monkeypatch.setattr(study, "run_all", lambda *_: pytest.fail("something was run"))
        with pytest.raises(SystemExit) as ended:
            study.main()
        assert ended.value.code == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    return run


def test_input_that_does_not_fit_is_named_before_anything_is_trained(refused, tmp_path) -> None:
    root = tmp_path / "photos"
    for folder in ("train/cat", "train/dog"):
        (root / "cifar10" / folder).mkdir(parents=True)
    vectors = np.ones((1, 4), np.float32)
    assert "No such file or directory" in refused("cifar10", tmp_path / "nowhere", cifar10=vectors)
    assert "cifar10.npz: no array 'cifar10_names', but ['cifar10']" in refused("cifar10", root, cifar10=vectors)
    few = refused("cifar10", root, cifar10=vectors, cifar10_names=np.array(["cat"]))
    assert few.endswith("the vectors 'cifar10' are those of ['cat'], and none is of ['dog']")
    both = np.array(["cat", "dog"])
    lacking = refused("cifar10 cub50", root, cifar10=vectors, cifar10_names=both)  # before the first set is run
    assert "photos holds neither CUB_200_2011 nor" in lacking
    assert "--tune is for cifar10" in refused("cub50 --tune", root, cifar10=vectors)
    assert "--tune is for cifar10" in refused("--tune", root, cifar10=vectors)
    assert "['cub'] are none of the sets ['cifar10', " in refused("cub", root, cifar10=vectors)
    (output := tmp_path / "output" / "cifar10").mkdir(parents=True, exist_ok=True)
    (output / "teacher_views.json").write_text("{}")
    gone = refused("cifar10", root, cifar10=vectors, cifar10_names=both)
    assert "teacher_views.json is of a teacher whose weights" in gone
    assert "['kd+seem'] are none of cifar10's ['alone', " in refused("cifar10 --only kd+seem", root, cifar10=vectors)


def test_a_class_with_too_few_photos_is_refused(study, tmp_path) -> None:
    (folder := tmp_path / "cifar10" / "train" / "cat").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(folder / "1.jpg")
    data = study.SETS["cifar10"](tmp_path, tmp_path).data()
    with pytest.raises(ValueError, match="cat has 1 images, and the study takes those up to 400"):
        data.samples("train")


def test_a_run_that_fails_is_told_of_and_has_no_file(study, tmp_path) -> None:
    runs = {"good": partial(dict, top1=1), "bad": partial(int, "x"), "done": partial(int, "y")}
    (tmp_path / "done.json").write_text("{}")
    assert study.run_all(runs, tmp_path, 1, {"commit": "abc"}) == ["bad"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["done.json", "good.json"]
    assert json.loads((tmp_path / "good.json").read_text()) == {"top1": 1, "record": {"commit": "abc"}}
