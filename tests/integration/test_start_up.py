"""What importing the package may not bring along."""

import subprocess
import sys

HEAVY = ("open_clip", "wandb", "sklearn", "matplotlib", "timm", "onnx", "onnxruntime", "onnxscript", "scipy")
BASE = "import lightning.pytorch, torchvision, kornia"


def imported(statement: str) -> set[str]:
    """Which heavy packages a fresh interpreter has loaded after a statement."""
    code = f"{statement}; import sys; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_package_brings_nothing_heavy_of_its_own() -> None:
    """Beyond what Lightning, torchvision and Kornia load by themselves, such as matplotlib through torchmetrics."""
    parts = ("callbacks", "data", "models", "export", "cli")
    ours = "; ".join(["import tmkd_lightning", *(f"import tmkd_lightning.{part}" for part in parts)])
    assert imported(ours) <= imported(BASE)
