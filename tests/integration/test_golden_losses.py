"""The first losses of the quickstart's configs, which no change of structure may move."""

import csv
from pathlib import Path

import pytest

from tmkd_lightning.cli.main import main as tmkd

EXAMPLES = Path(__file__).parents[2] / "examples"
SHORT = ["--trainer.max_steps", "3", "--trainer.limit_val_batches", "0", "--trainer.log_every_n_steps", "1"]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("config", "options", "expected"),
    [
        ("digits_student", [], [2.343794, 2.314277, 2.316846]),
        ("digits_kd", [], [2.358132, 2.483508, 2.431307]),
        ("digits_default", [], [16.036507, 9.87944, 4.427977]),
        ("digits_tmkd", [], [6.837626, 7.185854, 7.210457]),
        (
            "digits_tmkd",
            ["--model.distiller", "CATKD", "--model.fusion_objective", "distillation"],
            [5.981802, 5.12406, 5.221795],
        ),
    ],
)
def test_first_losses(tmp_path, monkeypatch, config, options, expected) -> None:
    monkeypatch.chdir(tmp_path)
    teacher = [] if config == "digits_student" else ["--model.teacher_checkpoint", "null"]
    tmkd(["fit", "--config", str(EXAMPLES / f"{config}.yaml"), *SHORT, *QUIET, *teacher, *options])
    (path,) = Path("runs").rglob("metrics.csv")
    losses = [float(row["train/loss"]) for row in csv.DictReader(path.open()) if row["train/loss"]]
    assert losses == pytest.approx(expected, rel=2e-5)
