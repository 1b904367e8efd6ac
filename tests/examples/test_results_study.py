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


def make_photos(root: Path) -> None:
    """As many files as the study takes of two classes, with nothing in them: they are listed, not read."""
    for folder, count in {"train": 2900, "test": 1}.items():
        for name in ("cat", "dog"):
            (of_class := root / "cifar10" / folder / name).mkdir(parents=True)
            for number in range(count):
                (of_class / f"{number:04}.jpg").touch()


def test_input_that_does_not_fit_is_named_before_anything_is_trained(refused, tmp_path) -> None:
    root = tmp_path / "photos"
    make_photos(root)
    vectors = np.ones((1, 4), np.float32)
    assert "No such file or directory" in refused("cifar10", tmp_path / "nowhere", cifar10=vectors)
    assert "cifar10.npz: no array 'cifar10_names', but ['cifar10']" in refused("cifar10", root, cifar10=vectors)
    few = refused("cifar10", root, cifar10=vectors, cifar10_names=np.array(["cat"]))
    assert few.endswith("the vectors 'cifar10' are those of ['cat'], and none is of ['dog']")
    both = np.array(["cat", "dog"])
    uneven = refused("cifar10", root, cifar10=vectors, cifar10_names=both)
    assert uneven.endswith("2 'cifar10_names' stand beside 1 vectors 'cifar10': each class wants one")
    for bad in (vectors[0], np.zeros((2, 4), np.float32), np.full((2, 4), np.nan)):
        flat = refused("cifar10", root, cifar10=bad, cifar10_names=both)
        assert f"'cifar10' has shape {bad.shape} of {bad.dtype}, where a row of numbers" in flat
    vectors = np.eye(2, dtype=np.float32)
    (gone := root / "cifar10" / "test" / "dog").rename(root / "elsewhere")
    assert str(gone) in refused("cifar10", root, cifar10=vectors, cifar10_names=both)
    (root / "elsewhere").rename(gone)
    lacking = refused("cifar10 cub50", root, cifar10=vectors, cifar10_names=both)  # before the first set is run
    assert "photos holds neither CUB_200_2011 nor" in lacking
    assert "--tune is for cifar10" in refused("cub50 --tune", root, cifar10=vectors)
    assert "--tune is for cifar10" in refused("--tune", root, cifar10=vectors)
    assert "['cub'] are none of the sets ['cifar10', " in refused("cub", root, cifar10=vectors)
    (output := tmp_path / "output" / "cifar10").mkdir(parents=True, exist_ok=True)
    (output / "teacher_views.json").write_text('{"top1": {}}')
    weightless = refused("cifar10", root, cifar10=vectors, cifar10_names=both)
    assert "teacher_views.json is of a teacher whose weights" in weightless
    assert "['kd+seem'] are none of cifar10's ['alone', " in refused("cifar10 --only kd+seem", root, cifar10=vectors)
    assert refused("cifar10 --jobs 0", root, cifar10=vectors).endswith("--jobs: invalid positive integer value: '0'")


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (None, "holds no finished run (JSONDecodeError('Expecting value"),
        ({"seed": 1}, "was run with the seed 1, and this study has 0: give a new --output"),
        ({"epochs": 2}, "was run with the epochs 2, and this study has 60: "),
        ({"record": {"photos": "others"}}, "was run with the photos others, and this study has "),
        (
            {"record": {"precision": "bf16-mixed"}},
            "was run with the precision bf16-mixed, and this study has 32-true: give a new",
        ),
        ({"record": {"vectors": "others"}}, "was run with the vectors others, and this study has "),
        (
            {"condition": {"name": "kd+plain", "method": "sp"}},
            "was run with the condition {'name': 'kd+plain', 'method': 'sp'}, ",
        ),
    ],
)
def test_a_study_does_not_go_on_beside_runs_that_were_run_otherwise(refused, tmp_path, run, message) -> None:
    make_photos(tmp_path / "photos")
    (output := tmp_path / "output" / "cifar10").mkdir(parents=True)
    (output / "kd+plain_0.json").write_text("" if run is None else json.dumps({"top1": 60, **run}))
    vectors = {"cifar10": np.eye(2, dtype=np.float32), "cifar10_names": np.array(["cat", "dog"])}
    assert f"kd+plain_0.json {message}" in refused("cifar10", tmp_path / "photos", **vectors)


def test_a_conditions_description_is_that_which_its_file_has(study) -> None:
    """So that it is found again as it was written: views and transforms are their names, tuples lists."""
    for condition in (*study.tuning(), *(one for images in study.SETS.values() for one in images.conditions)):
        found = study.train.described(condition)
        assert json.loads(json.dumps(found)) == found
        assert found.keys() == {"name", "method", "options", "texts", "longer"}
        assert "0x" not in str(found)  # an address, another in each process
    described = study.train.described(next(one for one in study.tuning() if one.name == "mixup"))
    assert described["options"]["mix"] == "MixUp"


def test_published_runs_are_those_that_the_study_would_run_again(study) -> None:
    """Whoever edits a condition, or a constant that it stands on, makes another one of what has run."""
    planned = {condition.name: condition for condition in (*study.SETS["cifar10"].conditions, *study.further())}
    tuning = {condition.name: condition for condition in study.tuning()}
    files = [file for file in RESULTS.glob("c*/**/*.json") if not file.stem.startswith("teacher_")]
    assert len(files) > 350
    for file in files:
        found, (name, _, seed) = json.loads(file.read_text()), file.stem.rpartition("_")
        assert (found["condition"]["name"], found["seed"]) == (name, int(seed))
        condition = (tuning if file.parent.name == "tuning" else planned)[name]
        assert found["condition"] == study.train.described(condition)


def test_an_array_that_two_files_have_and_a_file_of_none_are_refused(study, tmp_path) -> None:
    for file in ("one.npz", "two.npz"):
        np.savez(tmp_path / file, names=["cat"])
    np.save(tmp_path / "bare.npy", np.ones(2))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "one.npz").read_bytes()[:-30])
    keep = partial(study.train.keep_vectors, array="vectors", names="names", classes=["cat"], folder=tmp_path)
    with pytest.raises(ValueError, match=r"one\.npz and .*two\.npz both have an array 'names'"):
        keep([tmp_path / "one.npz", tmp_path / "two.npz"])
    for file in ("bare.npy", "cut.npz"):
        with pytest.raises(ValueError, match=f"{file} is no .npz file of arrays"):
            keep([tmp_path / file])


def test_texts_of_other_classes_and_turned_ones(study, tmp_path) -> None:
    """Of four classes each gets the text of the third before it; a rotation keeps all angles, and not the vectors."""
    vectors = np.eye(5, dtype=np.float32)[:4] * [[1], [2], [3], [4]] + [0, 0, 0, 0, 1]
    names = ["ant", "bee", "cat", "dog"]
    np.savez(tmp_path / "vectors.npz", vectors=vectors, names=names)
    which = study.train.keep_vectors([tmp_path / "vectors.npz"], "vectors", "names", names, tmp_path)
    read = {}
    for kind in ("genuine", "permuted", "random"):
        with np.load(tmp_path / f"texts_{kind}_{which}.npz") as file:
            read[kind] = file["embeddings"]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(read["genuine"], unit, rtol=1e-6)
    np.testing.assert_allclose(read["permuted"], unit[[1, 2, 3, 0]], rtol=1e-6)
    np.testing.assert_allclose(read["random"] @ read["random"].T, unit @ unit.T, atol=1e-6)
    assert (np.sum(read["random"] * unit, axis=1) < 0.9).all()


def test_tuning_is_measured_on_training_images_that_no_student_or_teacher_has(study, tmp_path) -> None:
    make_photos(tmp_path)
    for name in ("cat", "dog"):
        for number in range(2900, 5000):
            (tmp_path / "cifar10" / "train" / name / f"{number:04}.jpg").touch()
    images = study.SETS["cifar10"](tmp_path, tmp_path, held_out=True)
    measured, student, teacher = (
        {path for path, _ in data.files(split)}
        for data, split in ((images.data(), "test"), (images.data(), "train"), (images.teacher_data(), "train"))
    )
    assert (len(measured), len(student), len(teacher)) == (1000, 800, 5000)
    assert {path.parent.parent.name for path in measured} == {"train"}
    assert len(measured | student | teacher) == len(measured) + len(student) + len(teacher)


def test_a_class_with_too_few_photos_is_refused(study, tmp_path) -> None:
    (folder := tmp_path / "cifar10" / "train" / "cat").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(folder / "1.jpg")
    data = study.SETS["cifar10"](tmp_path, tmp_path).data()
    with pytest.raises(ValueError, match="cat has 1 images, and the study takes those up to 400"):
        data.samples("train")


def test_a_run_that_fails_is_told_of_and_has_no_file(study, tmp_path) -> None:
    runs = {
        "bad": partial(int, "x"),
        "unwritable": partial(dict, top1=object),
        "good": partial(dict, top1=1),
        "done": partial(int, "y"),
    }
    (tmp_path / "done.json").write_text("{}")
    assert study.run_all(runs, tmp_path, 1, {"precision": "16"}) == ["bad", "unwritable"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["done.json", "good.json"]
    found = json.loads((tmp_path / "good.json").read_text())
    assert found == {"top1": 1, "record": {"precision": "16", **study.versions()}}
