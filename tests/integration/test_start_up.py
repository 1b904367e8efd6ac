"""What importing the package and starting ``tmkd`` may not import."""

import subprocess
import sys

import pytest

VERBS = ("lightning_cli", "embed", "figures", "predict", "report")
TRAINING = {"torch", "lightning", "torchvision", "kornia"}
HEAVY = {"open_clip", "wandb", "sklearn", "matplotlib", "timm", "onnx", "onnxruntime", "onnxscript", "scipy"}


def imported(statement: str) -> set[str]:
    """Which of these packages a fresh interpreter has loaded after a statement."""
    code = f"import sys\ntry:\n    {statement}\nexcept SystemExit: pass\nprint('loaded:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return (TRAINING | HEAVY) & set(done.stdout.split("loaded:")[1].split())


def test_the_package_brings_nothing_heavy_of_its_own() -> None:
    """Beyond what Lightning, torchvision and Kornia load by themselves, such as matplotlib through torchmetrics."""
    parts = ("callbacks", "data", "models", "export", *(f"cli.{verb}" for verb in VERBS))
    ours = "; ".join(["from tmkd_lightning import *", *(f"import tmkd_lightning.{part}" for part in parts)])
    assert imported(ours) <= imported("import lightning.pytorch.cli, torchvision, kornia")


@pytest.mark.parametrize("words", [["--help"], ["cache", "--help"], ["cache", "list", "--directory", "."], ["fti"]])
def test_verbs_that_need_no_network_import_none(words) -> None:
    assert imported(f"from tmkd_lightning.cli.main import main; main({words})") == set()


def test_public_names_are_imported_on_first_use() -> None:
    assert imported("import tmkd_lightning") == set()
    assert "torch" in imported("from tmkd_lightning import WeightNet")
