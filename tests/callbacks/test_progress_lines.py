"""What a run says where there is no terminal: lines that a log file can hold."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar

from helpers.doc_pages import ROOT
from tmkd_lightning import ClassifierModule
from tmkd_lightning.callbacks import ProgressLines
from tmkd_lightning.cli.lightning_cli import show_lines
from tmkd_lightning.cli.main import main
from tmkd_lightning.utils import progress


@pytest.fixture
def slow(monkeypatch) -> list[float]:
    """A clock on which every look takes a second."""
    now = [0.0]

    def monotonic() -> float:
        now[0] += 1.0
        return now[0]

    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=monotonic))
    return now


def test_a_run_prints_a_line_an_epoch_with_its_metrics(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    short = ["--trainer.max_epochs=2", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=2"]
    main(["fit", "--config", str(ROOT / "examples/digits_student.yaml"), *short, "--trainer.accelerator=cpu"])
    printed = "".join(capsys.readouterr())
    assert "\r" not in printed
    lines = [line for line in printed.splitlines() if line.startswith("Epoch") and "batch" not in line]
    assert [line[:12] for line in lines] == ["Epoch 1 of 2", "Epoch 2 of 2"]
    columns, *rows = (line.split(",") for line in Path("runs/digits_student/version_0/metrics.csv").read_text().split())
    logged = [row[columns.index("val/top1")] for row in rows if row[columns.index("val/top1")]]
    assert [float(re.search(r"val/top1 ([\d.]+)", line)[1]) for line in lines] == [
        pytest.approx(float(value), rel=1e-3) for value in logged
    ]


def test_long_epochs_and_tests_say_where_they_are(net, fit, loader, slow, capsys) -> None:
    """24 batches at a second each."""
    fit(
        ClassifierModule(net()),
        train=loader(96, 4),
        val=loader(24, 4),
        max_epochs=1,
        enable_progress_bar=True,
        num_sanity_val_steps=0,
        callbacks=[ProgressLines()],
    )
    lines = capsys.readouterr().err.splitlines()
    within = [line for line in lines if re.match(r"Epoch 1 of 1: batch \d+ of 24, \d+ s, train/loss \d", line)]
    assert 2 <= len(within) <= 5
    assert any(re.match(r"Epoch 1 of 1: validation, batch \d of 6, \d+ s$", line) for line in lines)
    trainer = Trainer(callbacks=[ProgressLines()], logger=False, accelerator="cpu", enable_model_summary=False)
    trainer.test(ClassifierModule(net()), loader(96, 4), verbose=False)
    assert re.search(r"^Test, batch \d+ of 24, \d+ s$", capsys.readouterr().err, re.M)


class Own(TQDMProgressBar):
    """A bar of the user's."""


@pytest.mark.parametrize("terminal", [True, False])
def test_lines_take_the_place_of_lightnings_own_bar_alone(monkeypatch, terminal) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    for given, kind in (([Own()], Own), ([], ProgressBar if terminal else ProgressLines)):
        trainer = Trainer(logger=False, accelerator="cpu", callbacks=given)
        before = trainer.progress_bar_callback
        show_lines(trainer)
        assert isinstance(trainer.progress_bar_callback, kind)
        assert (trainer.progress_bar_callback is before) == (terminal or kind is Own)
    quiet = Trainer(logger=False, accelerator="cpu", enable_progress_bar=False)
    show_lines(quiet)
    assert quiet.progress_bar_callback is None


def test_a_bar_that_the_config_names_stays(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=2"]
    words = ["fit", "--config", str(ROOT / "examples/digits_student.yaml"), *short, "--trainer.accelerator=cpu"]
    main([*words, "--trainer.callbacks+", "TQDMProgressBar"])
    printed = "".join(capsys.readouterr())
    assert "\rEpoch 0: 100%" in printed
    assert "Epoch 1 of 1" not in printed
