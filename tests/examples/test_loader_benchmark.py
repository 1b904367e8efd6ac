"""The benchmark of the loader."""

import json
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from helpers.fake_datasets import make_cub
from tmkd_lightning.data.resize import resize_folder

LOADER = Path(__file__).parents[2] / "examples" / "benchmarks" / "loader.py"


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    birds, small = tmp_path / "birds", tmp_path / "small"
    make_cub(birds, size=300)
    resize_folder(birds, small)
    monkeypatch.chdir(tmp_path)
    roots = [str(tmp_path / name) for name in ("birds", "small")]
    options = ["--workers", "0", "--batch_size", "4", "--rounds", "1", "--clock", "cpu"]
    monkeypatch.setattr(sys, "argv", ["loader.py", "--roots", *roots, *options])
    monkeypatch.syspath_prepend(LOADER.parent)  # as Python does for a script
    runpy.run_path(str(LOADER), run_name="__main__")
    result = json.loads((tmp_path / "runs" / "loader.json").read_text())
    bare = ["bare, PIL", "bare, torchvision", *["bare, TurboJPEG"] * (find_spec("simplejpeg") is not None)]
    ours = [*roots, "colours by workers", "colours on the device", "stored"]
    names = [*bare, *(f"ours, {each}" for each in ours)]
    assert [row["loader"] for row in result["rows"]] == names
    lines = capsys.readouterr().out.splitlines()[-1 - len(names) :]
    assert [line.split()[0] for line in lines] == ["loader", *["bare,"] * len(bare), *["ours,"] * len(ours)]
    assert result["command"][1:] == sys.argv[1:]
