"""``tmkd report``: from trained runs, with or without the teacher's file and the data."""

from __future__ import annotations

import html
import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
from lightning.pytorch import Trainer

from helpers.wandb_file import read_run
from tmkd_lightning.cli.main import main
from tmkd_lightning.data import DigitsDataModule
from tmkd_lightning.export import report as measuring
from tmkd_lightning.modules.loading import load_module

EXAMPLES = Path(__file__).parents[2] / "examples"
SHORT = ["--trainer.max_epochs=1", "--trainer.log_every_n_steps=1"]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
STUDENT, TEACHER = "runs/digits_tmkd/best.ckpt", "runs/digits_teacher/best.ckpt"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with short runs of the quickstart's teacher and of TMKD."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for name in ("teacher", "tmkd"):
            main(["fit", "--config", str(EXAMPLES / f"digits_{name}.yaml"), *SHORT, *QUIET])
    return folder


@pytest.fixture
def here(trained, tmp_path, monkeypatch) -> Path:
    """A copy of it to work in, where no clock is waited for."""
    monkeypatch.setattr(measuring, "_SECONDS", 0.0)
    monkeypatch.setattr(measuring, "_RUNS", 2)
    shutil.copytree(trained / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def untested(monkeypatch) -> None:
    """Accuracy takes the longest."""
    accuracy = dict.fromkeys(("top1", "top5", "recall"), 0.5)
    roles = ("teacher", "student", "network")
    monkeypatch.setattr(measuring, "_test", lambda *args, **options: dict.fromkeys(roles, accuracy))


def report(*args: str, checkpoint: str = STUDENT) -> dict[str, Any]:
    main(["report", "--checkpoint", checkpoint, "--accelerator", "cpu", "--batch_sizes", "[1,2]", *args])
    return json.loads(Path("report.json").read_text())


def by_lightning(checkpoint: str) -> dict[str, float]:
    """What ``tmkd test`` says of a checkpoint."""
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    data = DigitsDataModule(image_size=16, batch_size=300)
    (found,) = trainer.test(load_module(checkpoint), datamodule=data, verbose=False)
    return {name: pytest.approx(found[f"test/{name}"], abs=1e-6) for name in ("top1", "top5", "recall")}


def test_the_students_gain_over_the_trained_teacher(here, capsys) -> None:
    found = report()
    teacher, student = found["networks"]["teacher"], found["networks"]["student"]
    assert (teacher["accuracy"], student["accuracy"]) == (by_lightning(TEACHER), by_lightning(STUDENT))
    assert teacher["accuracy"]["top1"] != student["accuracy"]["top1"]
    assert (teacher["parameters"], student["parameters"]) == (691_674, 77_850)
    assert [one["batch_size"] for one in student["latency"]] == [1, 2]
    assert (found["checkpoint"], found["data"]["image_size"], found["data"]["test_images"]) == (STUDENT, 16, 599)
    assert (found["device"]["type"], found["device"]["threads"]) == ("cpu", torch.get_num_threads())
    assert found["versions"]["torch"] == torch.__version__
    text = Path("report.md").read_text()
    assert f"\n- checkpoint: {STUDENT}\n" in text
    assert text in capsys.readouterr().out


def test_without_the_teachers_file_its_size_alone(here) -> None:
    Path(TEACHER).rename("elsewhere.ckpt")
    teacher = report()["networks"]["teacher"]
    assert (teacher["parameters"], teacher["accuracy"]) == (691_674, None)
    assert teacher["not_measured"] == f"no weights of the teacher at {TEACHER}: name their file with --teacher"
    assert report("--teacher", "elsewhere.ckpt")["networks"]["teacher"]["accuracy"] == by_lightning("elsewhere.ckpt")
    with pytest.raises(FileNotFoundError, match=r"no weights of the teacher at gone\.ckpt"):
        report("--teacher", "gone.ckpt")


def test_a_classifier_has_no_teacher(here, untested) -> None:
    found = report(checkpoint=TEACHER)
    assert (list(found["networks"]), found["ratio"]) == (["network"], None)
    with pytest.raises(ValueError, match=rf"the run has no teacher, so {STUDENT} has no place"):
        report("--teacher", STUDENT, checkpoint=TEACHER)


def test_images_of_another_size(here, untested, capsys) -> None:
    macs = report()["networks"]["student"]["macs"]
    found = report("--image_size", "32")
    assert found["networks"]["student"]["macs"] == pytest.approx(4 * macs, rel=0.01)  # all but the head
    assert capsys.readouterr().err.count("WARNING: the images of the data are 16 pixels, not 32") == 1


def without_data(path: str) -> None:
    content = torch.load(path, weights_only=True)
    content["datamodule_hyper_parameters"].clear()
    torch.save(content, path)


def test_a_checkpoint_that_does_not_name_its_data(here, untested) -> None:
    without_data(STUDENT)
    with pytest.raises(ValueError, match=f"{STUDENT} does not say how large its images were: pass --image_size"):
        report()
    assert not Path("report.json").exists()
    found = report("--image_size", "16")["networks"]["student"]
    assert found["accuracy"] is None
    assert found["not_measured"] == f"{STUDENT} does not name its data: name them with --data"
    data = ["--data", "tmkd_lightning.data.DigitsDataModule", "--data.image_size", "16"]
    found = report(*data)
    assert found["data"]["datamodule"] == "tmkd_lightning.data.datamodules.digits.DigitsDataModule"
    assert found["networks"]["student"]["accuracy"]["top1"] == 0.5


def texts(page: str) -> str:
    """What a reader of a page sees, without its style."""
    return html.unescape(re.sub(r"<style>.*?</style>|<[^>]*>", "", page, flags=re.DOTALL))


def test_a_page_of_the_same_numbers(here, capsys) -> None:
    found = report("--html", "pages/run.html", "--mistakes", "5")
    assert capsys.readouterr().out.split()[-1] == "pages/run.html"
    page = Path("pages/run.html").read_text()
    cells = [html.unescape(cell) for cell in re.findall(r"<td>([^<]+)</td>", page)]
    table = [cell for row in measuring.table_rows(found)[1:] for cell in row[1:]]
    assert cells[: len(table)] == table
    wrong = round(599 * (1 - found["networks"]["student"]["accuracy"]["top1"]))
    assert f"The student has {wrong} of 599 test images wrong" in texts(page)
    assert page.count('alt="Test image ') == 5
    assert "From run digits_tmkd, checkpoint best.ckpt (step 4), seed 0" in texts(page)
    assert "Not drawn" not in page


def test_a_page_says_what_is_missing(here, untested) -> None:
    shutil.move(TEACHER, "elsewhere.ckpt")
    shutil.move(STUDENT, "student.ckpt")
    without_data("student.ckpt")
    report("--image_size", "16", "--html", "run.html", checkpoint="student.ckpt")
    page = texts(Path("run.html").read_text())
    assert page.count("Not measured: student.ckpt does not name its data: name them with --data.") == 2
    assert "no metrics.csv in . or its version_<n>" in page
    report("--image_size", "16", "--html", "run.html", "--run", "runs/digits_tmkd", checkpoint="student.ckpt")
    assert "no metrics.csv" not in texts(Path("run.html").read_text())


def test_weights_and_biases_get_the_page_too(here, monkeypatch) -> None:
    for name in ("DIR", "DATA_DIR", "CACHE_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(here / "wandb_files"))
    # wandb reads WANDB_DIR once a process, and another test may have come before
    monkeypatch.setattr(wandb, "init", partial(wandb.init, dir=str(here / "wandb_files")))
    report("--wandb", "tests", "--mistakes", "3", checkpoint=TEACHER)
    (file,) = here.glob("wandb_files/wandb/offline-run-*/run-*.wandb")
    _, history = read_run(file)
    (row,) = [row for row in history if any(key.startswith("report/") for key in row)]
    tables = [json.loads(path.read_text()) for path in file.parent.glob("files/media/table/report/mistakes*.json")]
    assert [len(table["data"]) for table in tables] == [3]
    assert {"report/networks", "report/cam"} <= {key.split(".")[0] for key in row}


def test_weights_and_biases_refuse(here, untested, monkeypatch) -> None:
    """The report is written all the same."""

    def refuse(**options: Any) -> None:
        assert options == {"project": "tests", "name": "digits_tmkd", "job_type": "report"}
        raise wandb.errors.UsageError("No API key configured.")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(
        ValueError, match=r"opens no run in 'tests' \(No API key configured\.\): log in with wandb login"
    ):
        report("--wandb", "tests")
    assert Path("report.json").exists()


def test_what_fails_leaves_an_older_report_as_it_was(here) -> None:
    Path("report.md").write_text("older")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at gone\.ckpt: is the path right"):
        report(checkpoint="gone.ckpt")
    with pytest.raises(ValueError, match="batch_sizes must be a whole number, at least 1, got 0"):
        report("--batch_sizes", "[0]")
    with pytest.raises(ValueError, match=r"accelerator '\w+' cannot be used here"):
        report("--accelerator", "mps" if torch.cuda.is_available() else "cuda")
    with pytest.raises(ValueError, match="mistakes must be a whole number, at least 0, got -1"):
        report("--mistakes", "-1")
    Path("folder.html").mkdir()
    with pytest.raises(IsADirectoryError, match=r"folder\.html is a folder: give the name of a file"):
        report("--html", "folder.html")
    Path("page").write_text("")
    with pytest.raises(NotADirectoryError, match="page is a file, not a folder"):
        report("--output", "page/report")
    assert Path("report.md").read_text() == "older"
    assert not Path("report.json").exists()
