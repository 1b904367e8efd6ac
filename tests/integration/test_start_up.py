"""What importing the package and starting ``tmkd`` may not import, and what the working folder may not replace."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tmkd_lightning

VERBS = ("lightning_cli", "embed", "figures", "predict", "report")
TRAINING = {"torch", "lightning", "torchvision", "kornia"}
HEAVY = {"open_clip", "wandb", "sklearn", "matplotlib", "timm", "onnx", "onnxruntime", "onnxscript", "scipy"}


def imported(*statements: str) -> list[set[str]]:
    """Which of these packages a fresh interpreter has loaded after each statement."""
    steps = "\n".join(
        f"try:\n    {statement}\nexcept SystemExit: pass\nprint('loaded:', *sys.modules)" for statement in statements
    )
    done = subprocess.run([sys.executable, "-c", f"import sys\n{steps}"], capture_output=True, text=True, check=True)
    found = [line.split() for line in done.stdout.splitlines() if line.startswith("loaded:")]
    return [(TRAINING | HEAVY) & set(names) for names in found]


def test_nothing_is_imported_before_it_is_needed() -> None:
    """And nothing heavy but what Lightning, torchvision and Kornia load by themselves, as matplotlib for torchmetrics.

    Views import Kornia when the first is made: a third of a second.
    """
    parts = ("callbacks", "data", "models", "export", *(f"cli.{verb}" for verb in VERBS))
    package, name, lightning, fit_help, kornia, everything = imported(
        "import tmkd_lightning",
        "from tmkd_lightning import WeightNet",
        "import lightning.pytorch.cli, torchvision",
        "from tmkd_lightning.cli.main import main; main(['fit', '--help'])",
        "import kornia",
        "; ".join(["from tmkd_lightning import *", *(f"import tmkd_lightning.{part}" for part in parts)]),
    )
    assert package == set()
    assert "torch" in name <= lightning
    assert fit_help <= lightning
    assert "kornia" not in fit_help
    assert everything <= kornia


@pytest.mark.parametrize("words", [["--help"], ["cache", "--help"], ["cache", "list", "--directory", "."], ["fti"]])
def test_verbs_that_need_no_network_import_none(words) -> None:
    assert imported(f"from tmkd_lightning.cli.main import main; main({words})") == [set()]


# Modules of the user's are found in the working folder, and take no package's place

SCRIPT = [str(Path(sys.executable).with_name("tmkd"))]
MODULE = [sys.executable, "-m", "tmkd_lightning"]
SHADOWS = ("kornia", "lightning", "numpy", "sklearn", "torch", "tqdm", "wandb", "yaml")  # sklearn is imported late
OWN = """
import torch, yaml, numpy, kornia
import tmkd_lightning


class Network(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10))
        print("own network with", yaml.__name__, kornia.__version__)
"""


RUN = """
model: {class_path: tmkd_lightning.ClassifierModule, init_args: {network: {class_path: own_network.Network}}}
data: {class_path: tmkd_lightning.data.DigitsDataModule, init_args: {image_size: 8}}
trainer:
  {accelerator: cpu, devices: 2, strategy: ddp, fast_dev_run: true, logger: false, enable_progress_bar: false}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with files that are called like packages, and a module of its own."""
    for name in SHADOWS:
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('the {name}.py of the working folder')")
    (tmp_path / "own_network.py").write_text(OWN)
    return tmp_path


def run(command: list[str], project: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    source = str(Path(tmkd_lightning.__file__).parent.parent)
    known = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    return subprocess.run(
        command, cwd=project, env=known | {"PYTHONPATH": source} | environment, capture_output=True, text=True
    )


@pytest.mark.skipif(not Path(SCRIPT[0]).is_file(), reason="the script tmkd is not installed beside this Python")
def test_files_that_are_called_like_packages_do_no_harm(project: Path) -> None:
    names = ["--class_names=[cat, dog]", "--encoder=tmkd_lightning.text.HashingTextEncoder", "--output=texts.npz"]
    ran = run([*SCRIPT, "embed", *names], project)
    assert ran.stdout.startswith("texts.npz: 6 prompts of 2 classes"), ran.stderr


@pytest.mark.slow
def test_a_class_path_of_the_users_own(project: Path) -> None:
    """Also in the second process, which Lightning starts."""
    for name in SHADOWS:
        (project / f"{name}.py").unlink()
    (project / "run.yaml").write_text(RUN)
    ran = run([*MODULE, "fit", "--config=run.yaml"], project, CUDA_VISIBLE_DEVICES="")
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.count("own network with yaml") == 2
