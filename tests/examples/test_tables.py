"""Grids, and the tables made of what their cells leave: the numbers worked out by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.tiny import TABLES
from tmkd_lightning.cli.main import main as tmkd

EXAMPLES = Path(__file__).parents[2] / "examples"
GRIDS = sorted(path for path in TABLES.glob("*.yaml") if path.name != "paper.yaml")


@pytest.fixture
def small(tmp_path) -> Path:
    return write(
        tmp_path / "small.yaml",
        seeds=[0, 1, 2],
        pairs=[{"name": "pair", "title": "Big → small", "config": "digits_tmkd", "teacher": "digits_teacher"}],
        methods=["kd", "kd_tmkd"],
    )


def write(path: Path, **content: Any) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


def finish(tables, cell, root: Path, best: float, last: float, classes: int = 10) -> Path:
    """Leaves what a finished cell leaves, with accuracies of our choice."""
    folder = root / cell.id
    known = {"id": cell.id, "hash": cell.hash, "folder": str(folder.resolve()), "config": cell.config}
    tables.cell.write_json(folder / "cell.json", known)
    record = {"started": "now", "git": {"library": "abc"}, "versions": {"torch": "2"}, "hardware": {"cpu": "a"}}
    metrics = {
        which: {"epoch": 1, "test/top1": value / 100, "test/top5": 0.9, "test/recall": 0.5}
        for which, value in (("best", best), ("last", last))
    }
    done = {"id": cell.id, "hash": cell.hash, "num_classes": classes, "metrics": metrics}
    tables.cell.write_json(folder / "done.json", {**done, "attempts": 1, "seconds": 1.0, "record": record})
    return folder


# Grids


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_shipped_grids_are_read(tables, path) -> None:
    grid = tables.grid.read_grid(path)
    assert len(grid.cells) == len(grid.columns) * len(grid.rows) * len(grid.seeds)
    assert len({cell.id for cell in grid.cells}) == len({cell.hash for cell in grid.cells}) == len(grid.cells)
    for cell in grid.cells:
        assert cell.config["seed_everything"] == cell.config["data"]["init_args"]["seed"] == cell.seed


def test_the_papers_numbers_stand_beside_cells_that_exist(tables) -> None:
    paper = yaml.safe_load((TABLES / "paper.yaml").read_text())
    for name, pairs in paper.items():
        grid = tables.grid.read_grid(TABLES / f"{name}.yaml")
        assert set(pairs) == set(grid.columns)
        for methods in pairs.values():
            assert set(methods) - {"teacher"} <= {row.name for row in grid.rows}
            assert all(set(metrics) == set(grid.metrics) for metrics in methods.values())
    gains = [
        methods[f"{name}_tmkd"]["top1"] - methods[name]["top1"]
        for methods in paper["table2"].values()
        for name in ("kd", "rkd", "sp", "cat_kd", "tekap")
    ]
    assert (round(min(gains), 2), round(max(gains), 2)) == (0.18, 4.49)  # as the paper's text sums them up


def test_tables_share_the_cells_that_they_have_in_common(tables) -> None:
    two, four, five = (tables.grid.read_grid(TABLES / f"table{number}.yaml") for number in (2, 4, 5))
    known = {cell.id: cell.hash for cell in two.cells}
    assert all(known[cell.id] == cell.hash for cell in four.cells)
    assert [known[cell.id] == cell.hash for cell in five.cells if cell.id in known] == [True] * 3
    assert len({teacher.hash for teacher in two.teachers.values()}) == 2  # five pairs, two teachers


def test_axes_multiply_and_later_settings_win(tables, tmp_path) -> None:
    path = write(
        tmp_path / "axes.yaml",
        seeds=[3, 4],
        pairs=[{"name": "one", "config": "digits_tmkd", "set": {"trainer": {"max_epochs": 1}}}],
        methods=["rkd_tmkd", {"name": "mine", "files": ["methods/kd"], "set": {"trainer": {"max_epochs": 2}}}],
        variants=[{"name": "a"}, {"name": "b", "set": {"trainer": {"max_epochs": 3}}}],
        overrides={"students": {"trainer": {"log_every_n_steps": 9}}},
    )
    grid = tables.grid.read_grid(path)
    epochs = {cell.id: cell.config["trainer"]["max_epochs"] for cell in grid.cells}
    assert list(epochs) == [
        f"one/{method}@{variant}/seed{seed}" for method in ("rkd_tmkd", "mine") for variant in "ab" for seed in (3, 4)
    ]
    assert list(epochs.values()) == [1, 1, 3, 3, 2, 2, 3, 3]
    assert all(cell.config["trainer"]["log_every_n_steps"] == 9 for cell in grid.cells)
    assert [row.title for row in grid.rows] == ["RKD + TMKD, a", "RKD + TMKD, b", "mine, a", "mine, b"]
    assert grid.cells[0].config["trainer"]["callbacks"] == [  # without the two that name a folder
        {
            "class_path": "tmkd_lightning.callbacks.PromptEmbeddings",
            "init_args": {"encoder": "tmkd_lightning.text.HashingTextEncoder"},
        }
    ]


def test_a_hash_knows_config_seed_and_teacher_and_not_where_the_data_are(tables, small) -> None:
    content = yaml.safe_load(small.read_text())

    def first(**change: Any) -> str:
        return tables.grid.read_grid(write(small, **{**content, **change})).cells[0].hash

    hashes = [first()]
    hashes.append(first(seeds=[1]))
    hashes.append(first(overrides={"students": {"model": {"init_args": {"temperature": 2}}}}))
    hashes.append(first(overrides={"teachers": {"trainer": {"max_epochs": 9}}}))
    assert len(set(hashes)) == 4
    assert first(overrides={"all": {"data": {"init_args": {"root": "x", "num_workers": 2}}}}) == hashes[0]


@pytest.mark.parametrize(
    ("base", "overlay"), [("digits_tmkd", "methods/cat_kd"), ("cub_resnet50_vgg8", "ablations/views_rgb_edge")]
)
def test_configs_are_laid_over_each_other_as_the_command_line_does(
    tables, base, overlay, capsys, tmp_path, monkeypatch
) -> None:
    files = [EXAMPLES / f"{name}.yaml" for name in (base, overlay)]
    merged = tmp_path / "merged.yaml"
    merged.write_text(yaml.safe_dump(tables.config.merge(*map(tables.config.load, files))))

    monkeypatch.setattr(sys, "argv", ["tmkd"])

    def resolved(*configs: Path) -> Any:
        with pytest.raises(SystemExit):
            tmkd(["fit", *(f"--config={path}" for path in configs), "--print_config"])
        return yaml.safe_load(capsys.readouterr().out)

    assert resolved(merged) == resolved(*files)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": [0, 0]}, "a seed stands twice"),
        ({"seeds": "three"}, "seeds must be a list of whole numbers"),
        ({"methods": ["kd", "kd"]}, "'kd' stands there twice"),
        ({"methods": ["kdd"]}, r"no config .*methods/kdd.yaml"),
        ({"methods": [{"name": "kd", "fils": []}]}, r"methods: \['fils'\] not understood"),
        ({"methods": ["kd", {"name": "kd_tmkd", "base": "rkd"}]}, "the base 'rkd' of 'kd_tmkd' is no other method"),
        ({"pairs": [{"title": "none"}]}, r"pairs: \['config'\] missing"),
        ({"metrics": ["top2"]}, "metrics must be a list of some of"),
        ({"sedes": [0]}, r"\['sedes'\] not understood"),
    ],
)
def test_a_misspelt_grid_names_what_is_wrong(tables, small, change, message) -> None:
    with pytest.raises(SystemExit, match=message):
        tables.grid.read_grid(write(small, **{**yaml.safe_load(small.read_text()), **change}))


def test_two_teachers_of_one_name_are_refused(tables, small) -> None:
    content = yaml.safe_load(small.read_text())
    other = {"name": "digits_teacher", "set": {"trainer": {"max_epochs": 1}}}
    content["pairs"].append({"name": "other", "config": "digits_tmkd", "teacher": other})
    with pytest.raises(SystemExit, match="two different teachers are called 'digits_teacher'"):
        tables.grid.read_grid(write(small, **content))


# Numbers


def test_mean_deviation_and_paired_interval_by_hand(tables) -> None:
    base, better = {0: 60.0, 1: 64.0, 2: 62.0}, {0: 63.0, 1: 65.0, 2: 64.0}
    estimate = tables.stats.summary(base)
    assert (estimate.mean, estimate.spread, estimate.count) == (62.0, 2.0, 3)
    estimate = tables.stats.gain(better, base)  # differences 3, 1, 2: sd 1, and t(0.975, 2) = 4.30265
    assert (estimate.mean, estimate.count) == (2.0, 3)
    assert estimate.spread == pytest.approx(4.302653 / 3**0.5, rel=1e-6)


def test_a_gain_pairs_seeds_and_says_what_one_seed_cannot(tables) -> None:
    estimate = tables.stats.gain({0: 5.0, 1: 7.0}, {1: 4.0, 2: 0.0})
    assert (estimate.mean, estimate.spread, estimate.count) == (3.0, None, 1)
    assert tables.stats.gain({0: 5.0}, {1: 4.0}) is None


def test_the_table_of_finished_single_and_missing_cells(tables, small, tmp_path) -> None:
    grid = tables.grid.read_grid(small)
    root = tmp_path / "runs"
    cells = {cell.id: cell for cell in grid.cells}
    for seed, (best, last) in enumerate([(60, 50), (64, 51), (62, 52)]):
        finish(tables, cells[f"pair/kd/seed{seed}"], root, best, last)
    finish(tables, cells["pair/kd_tmkd/seed1"], root, 65, 55)
    results = tables.results.read_results(grid, root)
    paper = {"pair": {"kd": {"top1": 65.2}, "kd_tmkd": {"top1": 67.05}, "teacher": {"top1": 70.0}}}
    assert tables.table.table(grid, results, paper, "best") == [
        ["", "Big → small"],
        ["Teacher", "missing (70.00)"],
        ["KD", "62.00 ± 2.00 (65.20)"],
        ["KD + TMKD", "65.00, one seed (67.05)"],
        ["gain over KD", "+1.00, one seed (+1.85)"],
    ]
    finish(tables, cells["pair/kd_tmkd/seed0"], root, 63, 52)
    finish(tables, grid.teachers["pair"], root, 90, 91)
    results = tables.results.read_results(grid, root)
    assert tables.table.table(grid, results, {}, "last")[1:] == [  # differences 2 and 4: sd √2, t(0.975, 1) = 12.7062
        ["Teacher", "91.00"],
        ["KD", "51.00 ± 1.00"],
        ["KD + TMKD", "53.50 ± 2.12, 2 of 3 seeds"],
        ["gain over KD", "+3.00 [-9.71, +15.71], 2 of 3 seeds"],
    ]
    assert results.missing == {"pair/kd_tmkd/seed2": "new"}


def test_latex_escapes_what_it_must(tables) -> None:
    text = tables.render.latex([["", "a_b → c"], ["CAT-KD", "-1.50 [-3.00, +0.50] ± 2"]], "50 % & more").splitlines()
    assert text[4] == r" & a\_b $\rightarrow$ c \\"
    assert text[6] == r"CAT-KD & $-$1.50 {[}$-$3.00, +0.50] $\pm$ 2 \\"
    assert r"\caption{50 \% \& more}" in text


# What must not be mixed in


@pytest.fixture
def finished(tables, small, tmp_path):
    """A grid of which everything is done."""
    grid, root = tables.grid.read_grid(small), tmp_path / "runs"
    for cell in [*grid.teachers.values(), *grid.cells]:
        finish(tables, cell, root, 60, 50)
    return grid, root


def test_a_result_of_another_config_is_refused(tables, finished, small) -> None:
    _, root = finished
    change = {"overrides": {"students": {"model": {"init_args": {"temperature": 2}}}}}
    other = tables.grid.read_grid(write(small, **yaml.safe_load(small.read_text()), **change))
    with pytest.raises(SystemExit, match=r"pair/kd/seed0 holds a run of another config .*: remove it, give"):
        tables.results.read_results(other, root)


def test_two_runs_with_one_id_are_refused(tables, finished) -> None:
    grid, root = finished
    (root / "pair/kd/seed0").rename(root / "elsewhere")
    results = tables.results.read_results(grid, root)
    assert results.missing == {"pair/kd/seed0": "new"}
    assert results.excluded == {"elsewhere": "a copy of pair/kd/seed0"}
    finish(tables, grid.cells[0], root, 60, 50)
    with pytest.raises(SystemExit, match=r"two runs with the id pair/kd/seed0: .* remove one"):
        tables.results.read_results(grid, root)


def test_a_result_put_into_another_cells_folder_is_refused(tables, finished) -> None:
    grid, root = finished
    (root / "pair/kd/seed0/done.json").write_text((root / "pair/kd/seed1/done.json").read_text())
    with pytest.raises(SystemExit, match="is of the run pair/kd/seed1"):
        tables.results.read_results(grid, root)


def test_unfinished_and_foreign_runs_are_named_and_not_counted(tables, finished) -> None:
    grid, root = finished
    (root / "pair/kd/seed2/done.json").unlink()
    (root / "pair/mine").mkdir()
    (root / "pair/mine/metrics.csv").write_text("epoch,step\n")
    (root / "pair/kd/seed9").mkdir()
    (root / "pair/kd/seed9/cell.json").write_text(json.dumps({"id": "pair/kd/seed9"}))
    results = tables.results.read_results(grid, root)
    assert results.missing == {"pair/kd/seed2": "unfinished"}
    assert results.excluded == {"pair/mine": "a run that no grid has made", "pair/kd/seed9": "not a cell of this grid"}


def test_other_numbers_of_classes_are_refused(tables, finished) -> None:
    grid, root = finished
    finish(tables, grid.cells[1], root, 60, 50, classes=9)
    with pytest.raises(SystemExit, match=r"pair differ in their number of classes: .* has 10, pair/kd/seed1 has 9"):
        tables.results.read_results(grid, root)


def test_a_damaged_result_is_refused(tables, finished) -> None:
    grid, root = finished
    (root / "pair/kd/seed0/done.json").write_text("{")
    with pytest.raises(SystemExit, match=r"done.json cannot be read .*: remove the folder"):
        tables.results.read_results(grid, root)


BROKEN = ["", "{", "[]", "{}", '{"a": 1}', '{"id": 5, "hash": []}', "[" * 100_000]


@pytest.mark.parametrize("content", BROKEN)
def test_a_foreign_record_is_named_and_not_counted(tables, finished, content) -> None:
    grid, root = finished
    (root / "theirs").mkdir()
    (root / "theirs/cell.json").write_text(content)
    results = tables.results.read_results(grid, root)
    assert results.excluded == {"theirs": "its cell.json is damaged, or of something else"}
    assert len(results.done) == 7


@pytest.mark.parametrize("name", ["cell.json", "done.json"])
@pytest.mark.parametrize("content", BROKEN)
def test_a_record_of_ones_own_that_is_something_else(tables, finished, name, content) -> None:
    grid, root = finished
    path = root / "pair/kd/seed0" / name
    path.write_text(content)
    with pytest.raises(SystemExit, match=rf"{path} .*: remove the folder {path.parent}$"):
        tables.results.read_results(grid, root)


@pytest.mark.parametrize("keys", ["attempts", "metrics", "metrics best", "metrics last epoch", "record git", "record"])
@pytest.mark.parametrize("value", [None, "x"])
def test_a_result_that_lacks_something(tables, finished, keys, value) -> None:
    grid, root = finished
    path = root / "pair/kd/seed0/done.json"
    content = inner = json.loads(path.read_text())
    *above, last = keys.split()
    for key in above:
        inner = inner[key]
    del inner[last]
    if value is not None and keys != "record git":  # which may be anything
        inner[last] = value
    path.write_text(json.dumps(content))
    with pytest.raises(SystemExit, match=f"{path} is damaged or of another version: remove the folder {path.parent}"):
        tables.results.read_results(grid, root)


def test_a_result_without_a_number(tables, finished) -> None:
    grid, root = finished
    path = root / "pair/kd/seed0/done.json"
    content = json.loads(path.read_text())
    content["metrics"]["last"]["test/top1"] = float("nan")
    path.write_text(json.dumps(content))
    with pytest.raises(SystemExit, match=r"done\.json has no test/top1 of the last epoch: remove it"):
        tables.results.read_results(grid, root)


def test_places_that_take_no_tables_are_told_before_any_is_written(tables, finished, small, tmp_path, monkeypatch):
    _, root = finished
    (tmp_path / "out/provenance.md").mkdir(parents=True)
    (tmp_path / "file").write_text("in the way")
    for to, message in {
        "out": rf"{tmp_path}/out/provenance\.md is a folder: give the name of a file",
        "file/x": rf"{tmp_path}/file/x/table\.md cannot be written \({tmp_path}/file is a file, not a folder\)",
    }.items():
        monkeypatch.setattr(sys, "argv", ["tabulator.py", str(small), f"--runs={root}", f"--to={tmp_path / to}"])
        with pytest.raises(SystemExit, match=message):
            tables.tabulator.main()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["provenance.md"]


def test_the_command_writes_all_files_and_an_error_leaves_them(tables, finished, small, tmp_path, monkeypatch) -> None:
    _, root = finished
    monkeypatch.setattr(sys, "argv", ["tabulator.py", str(small), f"--runs={root}", f"--to={tmp_path / 'out'}"])
    tables.tabulator.main()
    table = (tmp_path / "out/table.md").read_text()
    assert "| KD | 60.00 ± 0.00 |" in table
    assert table.index("Best epoch") < table.index("Last epoch") < table.index("| KD | 50.00 ± 0.00 |")
    assert "gain over KD & +0.00 {[}+0.00, +0.00]" in (tmp_path / "out/table.tex").read_text()
    assert '"torch": "2"' in (tmp_path / "out/provenance.md").read_text()
    cells = json.loads((tmp_path / "out/results.json").read_text())
    assert len(cells) == 7
    assert cells[1]["config"]["model"]["init_args"]["distiller"] == "tmkd_lightning.distillers.KD"
    (root / "pair/kd/seed0/done.json").write_text("{")
    with pytest.raises(SystemExit, match="cannot be read"):
        tables.tabulator.main()
    assert (tmp_path / "out/table.md").read_text() == table


# Curves and hand-overs


def test_the_curve_is_the_last_attempts_without_a_line_that_was_cut_off(tables, tmp_path) -> None:
    def attempt(number: int, steps: range, end: str = "") -> None:
        (tmp_path / f"attempt_{number}.json").write_text("{}")
        (tmp_path / f"attempt_{number}").mkdir()
        lines = ["epoch,step,train/ce", *(f"{step // 4},{step},{number}" for step in steps)]
        (tmp_path / f"attempt_{number}/metrics.csv").write_text("\n".join(lines) + "\n" + end)

    for number in range(10):
        attempt(number, range(6))
    attempt(10, range(10), end="2,1")  # killed in the middle of a line; 10 comes after 9
    rows = tables.curve.whole(tmp_path)
    assert [(int(row["step"]), row["train/ce"]) for row in rows] == [(step, "10") for step in range(10)]
    tables.curve.write(tmp_path / "curve.csv", rows)
    assert tables.curve.read(tmp_path / "curve.csv") == rows


def test_a_slurm_script_gives_each_cell_a_task(tables, small, tmp_path) -> None:
    grid = tables.grid.read_grid(small)
    cells = [*grid.teachers.values(), *grid.cells]
    script = tmp_path / "grid.sh"
    script.write_text(tables.emit.as_slurm(small, Path("runs"), cells))
    (tmp_path / "python").write_text('#!/bin/bash\necho "$@"\n')  # says what it would run
    (tmp_path / "sbatch").write_text('#!/bin/bash\necho "$@" >> sbatch.log\necho 77\n')
    for name in ("python", "sbatch"):
        (tmp_path / name).chmod(0o755)

    def bash(*arguments: str, **environment: str) -> str:
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", **environment}
        command = ["bash", str(script), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout

    ran = bash("cells", SLURM_ARRAY_TASK_ID="4").split()
    assert ran[-2:] == ["--cells", grid.cells[4].id]
    assert bash("teachers", SLURM_ARRAY_TASK_ID="0").split()[-1] == "teachers/digits_teacher"
    bash()
    teachers, students = (tmp_path / "sbatch.log").read_text().splitlines()
    assert "--array=0-0" in teachers
    assert "--array=0-5 --dependency=afterok:77" in students
    script.write_text(tables.emit.as_slurm(small, Path("runs"), list(grid.cells)))  # no teacher to wait for
    (tmp_path / "sbatch.log").unlink()
    bash()
    assert (tmp_path / "sbatch.log").read_text().split()[2:] == ["--array=0-5", str(script), "cells"]
    with pytest.raises(SystemExit, match="--cells has left none"):
        tables.emit.as_slurm(small, Path("runs"), cells[:1])


def test_a_sweep_has_a_run_for_each_cell(tables, small) -> None:
    grid = tables.grid.read_grid(small)
    sweep = yaml.safe_load(tables.emit.as_wandb(small, Path("runs"), [*grid.teachers.values(), *grid.cells]))
    assert sweep["parameters"]["cells"]["values"] == [cell.id for cell in grid.cells]
    assert sweep["command"][-3:] == ["--wandb", "small", "${args}"]
