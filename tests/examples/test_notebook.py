"""The notebook runs as a script, and its page in the documentation has its cells and what they gave."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from helpers.doc_pages import ROOT, blocks
from helpers.replaced_trainer import replace_trainer
from tmkd_lightning.data import DigitsDataModule
from tmkd_lightning.export import report

SCRIPT = ROOT / "examples" / "digits.py"
PAGE = ROOT / "docs" / "notebook.md"
FIGURES = ROOT / "docs" / "images" / "notebook"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The script's variables after an epoch of two batches for each network, with 40 digits to measure on."""
    folder = tmp_path_factory.mktemp("notebook")
    limits = {"max_epochs": 1, "limit_train_batches": 2, "log_every_n_steps": 1}
    samples = DigitsDataModule.samples
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        replace_trainer(patch, lambda **options: Trainer(**options | limits))
        patch.setattr(
            DigitsDataModule, "samples", lambda self, split: samples(self, split)[: 100 if split == "train" else 40]
        )
        patch.setattr(report, "_SECONDS", 0)  # of measuring a latency
        return runpy.run_path(str(SCRIPT)) | {"runs": folder / "runs" / "notebook"}


def test_the_students_differ_in_their_lessons_alone(ran) -> None:
    start, again = (ran["make_student"]().state_dict() for _ in range(2))
    assert all(torch.equal(value, again[name]) for name, value in start.items())
    logs = {
        name: (ran["runs"] / name / "version_0" / "metrics.csv").read_text()
        for name in ("alone", "kd", "default", "tmkd")
    }
    terms = {name: set(re.findall(r"(?:train|fusion)/(\w+)", log.split("\n")[0])) for name, log in logs.items()}
    views = {"rgb", "edge", "high_frequency"}
    assert terms["alone"] == {"loss", "ce"}
    assert terms["kd"] == {"loss", "ce", "kd"}
    assert terms["default"] == {"loss", "ce", "kd", "feature"}
    assert terms["tmkd"] == {"loss", "ce", "kd", "feature", "text"} | views
    taught = ran["lessons"].network.state_dict()
    assert not torch.equal(taught["fc.weight"], ran["WideResNet"](16, 2, 10).state_dict()["fc.weight"])
    for module in (ran["kd"], ran["default"], ran["tmkd"]):  # all have the teacher that was trained before
        theirs = module.teacher.extractor.network.state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in taught.items())


def test_it_leaves_figures_curves_and_the_student(ran) -> None:
    assert {file.stem for file in ran["runs"].glob("*.png")} == {"views", "cam", "tsne", "curves"}
    assert [list(history.accuracy) for history in ran["histories"].values()] == [[0]] * 4
    logits = ran["default"].extractor.eval()(ran["images"] / 255).logits
    exported = torch.export.load(ran["runs"] / "student.pt2").module()(ran["images"] / 255)
    assert torch.allclose(exported, logits, atol=1e-4)


# The page


def script_cells() -> list[tuple[str, str]]:
    """Kind and text of each cell, read without jupytext."""
    parts = re.split(r"^# %%(.*)\n", SCRIPT.read_text(), flags=re.M)
    assert parts[0] == ""
    cells = []
    for head, text in zip(parts[1::2], parts[2::2], strict=True):
        if "[markdown]" in head:
            text = re.sub(r"^# ?", "", text, flags=re.M).replace("](../docs/", "](")
        cells.append(("markdown" if "[markdown]" in head else "code", text.replace("# %matplotlib", "%matplotlib")))
    return [(kind, text.strip()) for kind, text in cells]


def test_the_page_has_every_cell_of_the_script_in_order() -> None:
    """If not: make notebook."""
    page = PAGE.read_text()
    cells = script_cells()
    assert [kind for kind, _ in cells].count("code") > 10
    code = [block.code.strip() for block in blocks(page) if block.language == "python"]
    assert code == [text for kind, text in cells if kind == "code"]
    without = re.sub(r"^<!-- not run: .*?^```$\n|^!\[[^\n]*\n", "", page, flags=re.M | re.S)
    assert re.sub(r"\n\n+", "\n\n", without).strip() == "\n\n".join(text for kind, text in cells if kind == "markdown")


def test_every_code_cell_that_shows_something_shows_it_on_the_page() -> None:
    page = PAGE.read_text()
    for kind, text in script_cells():
        if kind == "code":
            below = page.split(text + "\n```\n\n", 1)[1]
            expected = "![" if text.split("\n")[-1].startswith("show(") else "<!-- not run: output -->"
            shows = "print(" in text or "show(" in text.split("\n")[-1]
            assert below.startswith(expected) == shows, text
    assert "Traceback" not in page


def test_figures_are_those_of_the_page_and_small() -> None:
    named = re.findall(r"!\[.+\]\(images/notebook/(\w+)\.png\)", PAGE.read_text())
    files = list(FIGURES.iterdir())
    assert sorted(file.name for file in files) == sorted(f"{name}.png" for name in named)
    assert sum(file.stat().st_size for file in files) < 300_000
    assert all(Image.open(file).getcolors(16) is None for file in files)  # none is blank


# What writes the page

CELLS = """# %% [markdown]
# See [there](../docs/there.md).

# %%
# %matplotlib inline
from matplotlib.figure import Figure
print("one")
print("two")
6 * 7

# %% name="line" alt="A line"
figure = Figure()
figure.subplots().plot([0, 1])
figure
"""


@pytest.fixture
def renderer(monkeypatch: pytest.MonkeyPatch) -> Any:
    for package in ("jupytext", "nbclient", "ipykernel"):
        pytest.importorskip(package, reason=f"{package} is not installed: it comes with the extra dev")
    return runpy.run_path(str(ROOT / "examples" / "render_notebook.py"))


@pytest.mark.filterwarnings("ignore")  # of Jupyter's packages, about their own
def test_a_notebook_becomes_a_page_with_what_it_gave(renderer, tmp_path: Path) -> None:
    script = tmp_path / "cells.py"
    script.write_text(CELLS)
    text, figures = renderer["render"](renderer["run"](script, tmp_path))
    assert text.startswith("See [there](there.md).\n\n<!-- not run: notebook -->\n```python\n%matplotlib inline\n")
    outputs = [block.code for block in blocks(text) if block.reason == "output"]
    assert outputs == ["one\ntwo\n", "42\n"]
    assert text.endswith("figure\n```\n\n![A line](images/notebook/line.png)\n")
    assert figures["line"].startswith(b"\x89PNG")


def test_a_warning_gets_onto_no_page(renderer) -> None:
    from nbformat.v4 import new_code_cell, new_notebook, new_output

    cell = new_code_cell("f()", outputs=[new_output("stream", name="stderr", text="FutureWarning: f")])
    with pytest.raises(ValueError, match="printed to the error stream:\nFutureWarning: f"):
        renderer["render"](new_notebook(cells=[cell]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Jupyter's packages, about their own
def test_a_whole_run_gives_the_page_again(renderer, tmp_path: Path) -> None:
    """But for accuracies and clocks, and the widths of their columns, which depend on the machine."""
    text, figures = renderer["render"](renderer["run"](SCRIPT, tmp_path))
    ours, written = (re.sub(r"[\d ]|(?<=-)-", "", page.split("| latency")[0]) for page in (text, PAGE.read_text()))
    assert ours == written
    assert sorted(figures) == sorted(file.stem for file in FIGURES.iterdir())
    top1 = {
        name: float(value) for name, value in re.findall(r"^(teacher|student alone|KD|TMKD): ([\d.]+)%", text, re.M)
    }
    assert top1["teacher"] > 95
    assert all(65 < value < top1["teacher"] for name, value in top1.items() if name != "teacher")
