"""``tmkd figures``: from trained runs, with or without their surroundings."""

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from tmkd_lightning import Extractor
from tmkd_lightning.cli import figures as verb
from tmkd_lightning.cli.figures import FinishedRun
from tmkd_lightning.cli.main import main
from tmkd_lightning.data import DigitsDataModule
from tmkd_lightning.figures import FIGURES
from tmkd_lightning.figures.curves import run_folder, run_name
from tmkd_lightning.models import wrn_16_2
from tmkd_lightning.modules.loading import load_module

EXAMPLES = Path(__file__).parents[2] / "examples"
SHORT = ["--trainer.max_epochs=2", "--trainer.limit_train_batches=2", "--trainer.log_every_n_steps=1"]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
DIGITS = ["--data", "tmkd_lightning.data.DigitsDataModule", "--data.image_size", "16", "--data.batch_size", "100"]
TMKD, KD = "runs/digits_tmkd/best.ckpt", "runs/digits_kd/best.ckpt"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with short runs of the quickstart's teacher and students."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for name in ("teacher", "kd", "tmkd"):
            main(["fit", "--config", str(EXAMPLES / f"digits_{name}.yaml"), *SHORT, *QUIET])
    return folder


@pytest.fixture
def here(trained, tmp_path, monkeypatch) -> Path:
    """A copy of it to work in."""
    shutil.copytree(trained / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that would be saved."""
    figures: list[Figure] = []
    monkeypatch.setattr(verb, "save_figures", lambda files: figures.extend(dict.fromkeys(files.values())))
    return figures


def caption(figure: Figure) -> str:
    return figure.get_supxlabel().replace("\n", " ")


def titles(figure: Figure) -> list[str]:
    """Names of the networks."""
    return [axis.get_title() for axis in figure.axes if axis.get_title() not in ("", "image")]


def epochs(figure: Figure) -> list[list[int]]:
    """Of the accuracy of each run, which is the last panel."""
    return [[int(x) - 1 for x in line.get_xdata()] for line in figure.axes[-1].lines]


def class_names(figure: Figure) -> list[str]:
    """Of a heat map of logits."""
    return [tick.get_text() for tick in figure.axes[0].get_xticklabels()]


def figures(*args: str) -> None:
    main(["figures", *args])


def altered(change: Callable[[dict[str, Any]], object], path: str = KD) -> None:
    """Changes what a checkpoint holds."""
    content = torch.load(KD, weights_only=True)
    change(content)
    torch.save(content, path)


def test_every_figure_of_two_runs_into_files_and_a_page(here, capsys) -> None:
    options = f"--checkpoint {TMKD} --against {KD} --output out --page all.pdf --formats [png] --batches 2"
    figures(*options.split())
    assert sorted(os.listdir("out")) == [f"{name}.png" for name in sorted(FIGURES)]
    assert Path("all.pdf").read_bytes().startswith(b"%PDF-")
    assert capsys.readouterr().out.split()[-6:][::5] == ["out/views.png", "all.pdf"]


def test_networks_are_those_of_the_runs_and_the_trained_teacher(here, drawn) -> None:
    figures("--checkpoint", TMKD, "--against", KD, "--which", "logits", *DIGITS)
    (figure,) = drawn
    assert titles(figure) == ["digits_tmkd", "teacher", "digits_kd"]
    assert class_names(figure)[:3] == ["zero", "one", "two"]
    digits = DigitsDataModule(image_size=16, batch_size=1000)  # all of them
    digits.setup("validate")
    image, label = next(iter(digits.val_dataloader()))
    paths = [TMKD, "runs/digits_teacher/best.ckpt", KD]
    for axis, path in zip(figure.axes, paths, strict=False):
        means = torch.from_numpy(axis.get_images()[0].get_array().data)
        with torch.no_grad():
            logits = load_module(path).eval()(image)
        for true in range(10):
            torch.testing.assert_close(means[true], logits[label == true].mean(0), atol=1e-4, rtol=1e-4)


def test_captions_say_run_checkpoint_and_seed_and_images_are_the_first_of_the_split(here, drawn) -> None:
    options = ["--which", "views,cam,curves", "--split", "test", "--examples", "3"]
    figures("--checkpoint", TMKD, "--against", "runs/digits_tmkd/last.ckpt", *options)
    step = torch.load(TMKD, weights_only=True)["global_step"]
    runs = (
        f"From run digits_tmkd, checkpoint best.ckpt (step {step}), seed 0, against run digits_tmkd, checkpoint "
        "last.ckpt (step 4), seed 0"
    )
    views, cam, curves = drawn
    assert caption(views).endswith(f"{runs}; test images.")
    assert caption(curves).endswith(f"{runs}.")
    assert [line.get_label() for line in curves.axes[-1].lines] == ["digits_tmkd best", "digits_tmkd last"]
    firsts = list(dict.fromkeys(label for _, label in DigitsDataModule(image_size=16).samples("test")))[:3]
    assert len(cam.axes) == 12  # the image, both students and the teacher
    assert [axis.get_ylabel() for axis in cam.axes[::4]] == [DigitsDataModule().class_names[label] for label in firsts]


def test_a_teacher_that_is_gone(here, drawn) -> None:
    """Its file is missed by figures that show it, and by no others."""
    shutil.move("runs/digits_teacher", "moved")
    figures("--checkpoint", TMKD, "--which", "curves")
    with pytest.raises(FileNotFoundError, match=r"no weights of the teacher at runs/digits_teacher/best\.ckpt.*false"):
        figures("--checkpoint", TMKD, "--which", "cam")
    figures("--checkpoint", TMKD, "--which", "logits", "--teacher", "false", "--batches", "1")
    figures("--checkpoint", TMKD, "--which", "logits", "--teacher", "moved/best.ckpt", "--batches", "1")
    assert list(map(titles, drawn)) == [[], ["digits_tmkd"], ["digits_tmkd", "teacher"]]


def test_networks_without_a_teacher_to_show(here, drawn, capsys) -> None:
    """A teacher without a file, which built again would have other weights than the one that taught; or none at all."""
    altered(lambda content: content["hyper_parameters"].update(teacher_checkpoint=None))
    figures("--checkpoint", KD, "--which", "logits", "--batches", "1")
    assert "no teacher of run digits_kd is drawn: the run names no file" in capsys.readouterr().out
    teacher = "runs/digits_teacher/best.ckpt"
    figures("--checkpoint", teacher, "--which", "logits", "--batches", "1")
    assert list(map(titles, drawn)) == [["digits_kd"], ["digits_teacher"]]
    with pytest.raises(ValueError, match=r"run digits_teacher has no teacher, so other\.ckpt has no place"):
        figures("--checkpoint", teacher, "--which", "logits", "--teacher", "other.ckpt")


def test_a_checkpoint_far_from_its_run(here, drawn) -> None:
    """It brings data and seed; its curves are where `run` says."""
    shutil.copy(TMKD, "student.ckpt")
    figures("--checkpoint", "student.ckpt", "--which", "logits", "--batches", "1")
    figures("--checkpoint", "student.ckpt", "--which", "curves", "--run", "runs/digits_tmkd")
    figures("--checkpoint", "student.ckpt", "--which", "curves", "--run", "runs/digits_tmkd/version_0/metrics.csv")
    logits, one, other = drawn
    assert class_names(logits)[:3] == ["zero", "one", "two"]
    assert epochs(one) == epochs(other) == [[0, 1]]
    assert [line.get_label() for line in one.axes[0].lines] == ["edge", "high frequency", "rgb"]
    assert all("seed 0" in caption(figure) for figure in drawn)
    with pytest.raises(ValueError, match=r"no metrics\.csv in \. or its version_<n>"):
        figures("--checkpoint", "student.ckpt", "--which", "curves")


def test_the_curve_of_a_resumed_run_is_whole_and_a_later_test_does_not_count(here, drawn) -> None:
    config = ["--config", str(EXAMPLES / "digits_kd.yaml"), *SHORT, *QUIET]
    main(["fit", *config, "--trainer.max_epochs=3", "--ckpt_path", "runs/digits_kd/last.ckpt"])
    for measure in ("validate", "test"):  # each logs to a further version
        main([measure, *config, "--ckpt_path", KD, "--seed_everything=5"])
    figures("--checkpoint", KD, "--which", "curves")
    files = [Path(f"runs/digits_kd/version_{version}/metrics.csv") for version in (0, 1)]
    rows = [row for file in files for row in csv.DictReader(file.read_text().splitlines()) if row["val/top1"]]
    expected = {int(row["epoch"]): float(row["val/top1"]) for row in rows}
    assert epochs(drawn[0]) == [list(expected)] == [[0, 1, 2]]
    assert drawn[0].axes[-1].lines[0].get_ydata() / 100 == pytest.approx(list(expected.values()))
    assert "seed 0" in caption(drawn[0])


def test_a_checkpoint_of_weights_alone(here, drawn) -> None:
    """Lightning's save_weights_only leaves the seed out; a module may leave its data out. Weights may be no numbers."""
    altered(lambda content: content["callbacks"]["StepSeeds"].update(seed=2**40), "by_chance.ckpt")
    assert FinishedRun(Path("by_chance.ckpt")).seed is None
    altered(lambda content: [content.pop(key) for key in ("callbacks", "datamodule_hyper_parameters")])
    with pytest.raises(ValueError, match=r"runs/digits_kd/best\.ckpt does not name its data: name them with data"):
        figures("--checkpoint", KD, "--which", "logits")
    figures("--checkpoint", KD, "--which", "logits", "--batches", "1", *DIGITS)
    assert "seed unknown" in caption(drawn[-1])
    altered(lambda content: [v.fill_(torch.nan) for k, v in content["state_dict"].items() if k.endswith("fc.bias")])
    with pytest.raises(ValueError, match="WideResNet returned logits that are not finite"):
        figures("--checkpoint", KD, "--which", "logits", *DIGITS)
    figures("--checkpoint", KD, "--which", "curves")


def test_what_a_run_has_nothing_for_is_left_out_and_said(here, drawn, capsys, monkeypatch) -> None:
    Path("runs/digits_kd/version_0/metrics.csv").unlink()
    figures("--checkpoint", KD, "--batches", "1")
    printed = capsys.readouterr().out
    assert "no figure of views: the run has one view, 'rgb'" in printed
    assert "no figure of curves: no metrics.csv in runs/digits_kd" in printed
    assert [caption(figure)[:5] for figure in drawn] == ["Class", "t-SNE", "Top: "]
    monkeypatch.setattr(verb, "plot_all", lambda *args, **options: {})
    with pytest.raises(ValueError, match=r"nothing to draw of runs/digits_kd/best\.ckpt"):
        figures("--checkpoint", KD)
    assert os.listdir("figures") == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ("--which views,roc", ValueError, "unknown figure 'roc': choose from"),
        ("--which views,curves --formats [svg]", ValueError, "unknown format 'svg': choose from"),
        ("--which views,curves --page all.jpeg", ValueError, "unknown format 'jpeg': choose from"),
        ("--output runs/digits_kd/best.ckpt", OSError, "best.ckpt is a file, not a folder"),
        ("--which views --against runs/nothing.ckpt", FileNotFoundError, "no checkpoint at runs/nothing.ckpt"),
        (
            "--which views --against foreign.ckpt",
            ValueError,
            "foreign.ckpt is not a checkpoint that can be read safely",
        ),
        ("--which curves --run runs/digits_tmkd/version_0/resolved_config.yaml", ValueError, "not a metrics.csv"),
        ("--which cam --output new --examples 0", ValueError, "examples must be at least 1"),
        ("--which curves,cam", IsADirectoryError, r"figures/cam\.png is a folder"),
        ("", IsADirectoryError, r"figures/cam\.png is a folder"),
    ],
)
def test_bad_input_is_refused_before_anything_is_drawn(here, drawn, options, error, message) -> None:
    Path("foreign.ckpt").write_bytes(b"hello")
    Path("figures/cam.png").mkdir(parents=True)
    Path("figures/curves.png").write_bytes(b"old")
    with pytest.raises(error, match=message):
        figures("--checkpoint", TMKD, *options.split())
    assert sorted(os.listdir("figures")) == ["cam.png", "curves.png"]
    assert Path("figures/curves.png").read_bytes() == b"old"
    assert not drawn


class Nameless(DigitsDataModule):
    class_names, num_classes = None, 10


def test_data_without_names_and_data_that_do_not_fit(here, drawn) -> None:
    """The names are those of the checkpoint. Others are of other classes, and without the split that is asked for."""
    data = ["--data", f"{__name__}.Nameless", *DIGITS[2:]]
    figures("--checkpoint", TMKD, "--which", "logits", "--batches", "1", *data)
    assert class_names(drawn[0])[:3] == ["zero", "one", "two"]
    photos = ["--data", "tmkd_lightning.data.ImageFolderDataModule", "--data.root", "photos"]
    for classes in (2, 10):
        for name in range(classes):
            Path(f"photos/train/{name}").mkdir(parents=True, exist_ok=True)
            for index in range(2):
                Image.new("RGB", (16, 16)).save(f"photos/train/{name}/{index}.png")
        split = ["--split", "test"] if classes == 10 else []
        message = (
            "no folder photos/test"
            if split
            else "the data has 2 classes, but student WideResNet was built for 10: name data with the classes"
        )
        with pytest.raises(ValueError, match=message):
            figures("--checkpoint", TMKD, "--which", "logits", *split, *photos)


def test_runs_that_do_not_fit(here, monkeypatch) -> None:
    def other(path):
        module = load_module(path)
        if "digits_kd" in str(path):
            module.extractor = Extractor(wrn_16_2(num_classes=7))
        return module

    for part in ("hyper_parameters", "datamodule_hyper_parameters", "callbacks"):
        altered(lambda content, part=part: content.update({part: [3]}), "damaged.ckpt")
        with pytest.raises(ValueError, match=f"^damaged.ckpt is damaged, or of other code: its {part} should be a map"):
            figures("--checkpoint", "damaged.ckpt")
    monkeypatch.setattr(verb, "load_module", other)
    with pytest.raises(ValueError, match=r"digits_kd \(WideResNet\) has 7 classes, but there are 10"):
        figures("--checkpoint", TMKD, "--against", KD, "--which", "logits")


def test_the_folder_of_a_run(tmp_path) -> None:
    folder = tmp_path / "logs/version_3"
    (folder / "checkpoints").mkdir(parents=True)
    assert run_folder(folder / "checkpoints/last.ckpt") == folder
    assert run_name(folder) == "logs/version_3"
    torch.save({"state_dict": {}}, folder / "checkpoints/last.ckpt")
    source = "run logs/version_3, checkpoint last.ckpt (step unknown), seed unknown"
    assert FinishedRun(folder / "checkpoints/last.ckpt").source == source
