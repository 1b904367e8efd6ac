"""Grids, and the tables made of their cells: the numbers worked out by hand."""

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from helpers.tiny import TABLES
from tmkd_lightning.cli.main import main as tmkd

EXAMPLES = TABLES.parent
GRIDS = sorted(path for path in TABLES.glob("*.yaml") if path.stem not in ("paper", "sweep"))


def write(path: Path, **content: Any) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def small(tmp_path) -> Path:
    return write(
        tmp_path / "small.yaml",
        seeds=[0, 1, 2],
        pairs=[{"name": "pair", "title": "Big → small", "config": "digits_tmkd", "teacher": "digits_teacher"}],
        methods=["kd", "kd_tmkd"],
    )


def students(grid) -> dict[str, Any]:
    return {cell.id: cell for cell in grid.cells if cell.pair != "teachers"}


def finish(cell, root: Path, best: float, last: float) -> None:
    """Leaves what a finished cell leaves."""
    folder = root / cell.id
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cell.json").write_text(json.dumps({"id": cell.id, "hash": cell.hash, "folder": str(folder)}))
    rest = {"epoch": 1, "test/top5": 0.9, "test/recall": 0.5}
    metrics = {"best": {"test/top1": best / 100, **rest}, "last": {"test/top1": last / 100, **rest}}
    (folder / "done.json").write_text(json.dumps(metrics))


# Grids


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_shipped_grids_are_read(tables, path) -> None:
    grid = tables.grid.read_grid(path)
    cells = students(grid)
    assert len(cells) == len(grid.pairs) * len(grid.methods) * len(grid.seeds)
    assert len({cell.hash for cell in cells.values()}) == len(cells)
    for cell in cells.values():
        assert cell.config["seed_everything"] == cell.config["data"]["init_args"]["seed"] == cell.seed


def test_the_papers_numbers_stand_beside_cells_that_exist(tables) -> None:
    paper = yaml.safe_load((TABLES / "paper.yaml").read_text())
    for name, pairs in paper.items():
        grid = tables.grid.read_grid(TABLES / f"{name}.yaml")
        assert set(pairs) == set(grid.pairs)
        for methods in pairs.values():
            assert set(methods) - {"teacher"} <= {method.name for method in grid.methods}
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
    assert [known[name] == cell.hash for name, cell in students(five).items() if name in known] == [True] * 3
    assert len(two.cells) - len(students(two)) == 2  # five pairs, two teachers


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
    assert [method.title for method in grid.methods] == ["RKD + TMKD, a", "RKD + TMKD, b", "mine, a", "mine, b"]
    (callback,) = grid.cells[0].config["trainer"]["callbacks"]  # without the two that name a folder
    assert callback["class_path"] == "tmkd_lightning.callbacks.PromptEmbeddings"


def test_a_hash_depends_on_config_seed_and_teacher_and_not_on_where_the_data_are(tables, small) -> None:
    content = yaml.safe_load(small.read_text())

    def first(**change: Any) -> str:
        return next(iter(students(tables.grid.read_grid(write(small, **{**content, **change}))).values())).hash

    hashes = [first()]
    hashes.append(first(seeds=[1]))
    hashes.append(first(overrides={"students": {"model": {"init_args": {"temperature": 2}}}}))
    hashes.append(first(overrides={"teachers": {"trainer": {"max_epochs": 9}}}))
    assert len(set(hashes)) == 4
    assert first(overrides={"all": {"data": {"init_args": {"root": "x", "num_workers": 2}}}}) == hashes[0]


@pytest.mark.parametrize(
    ("base", "overlay"), [("digits_tmkd", "methods/cat_kd"), ("cub_resnet50_vgg8", "ablations/views_rgb_edge")]
)
def test_configs_are_merged_as_the_command_line_does(tables, base, overlay, capsys, tmp_path, monkeypatch) -> None:
    files = [EXAMPLES / f"{name}.yaml" for name in (base, overlay)]
    merged = tmp_path / "merged.yaml"
    merged.write_text(yaml.safe_dump(tables.grid.merge(*map(tables.grid.read_yaml, files))))

    def resolved(*configs: Path) -> Any:
        with pytest.raises(SystemExit):
            tmkd(["fit", *(f"--config={path}" for path in configs), "--print_config"])
        return yaml.safe_load(capsys.readouterr().out)

    assert resolved(merged) == resolved(*files)


def test_a_class_that_is_replaced_loses_its_arguments(tables) -> None:
    merge = tables.grid.merge
    assert merge({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}, "b": [4]}) == {"a": {"x": 1, "y": 3}, "b": [4]}
    assert merge({"class_path": "A", "init_args": {"x": 1}}, {"class_path": "B"}) == {"class_path": "B"}


OTHER = {"name": "other", "config": "digits_tmkd", "teacher": {"name": "digits_teacher", "config": "digits_student"}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": [0, 0]}, "seeds must be a list of different whole numbers"),
        ({"methods": ["kd", "kd"]}, "'kd' stands there twice"),
        ({"methods": ["kdd"]}, r"no config .*methods/kdd.yaml"),
        ({"methods": [{"name": "kd", "fils": []}]}, r"methods: \['fils'\] not understood"),
        ({"methods": ["kd", {"name": "kd_tmkd", "base": "rkd"}]}, "the base 'rkd' of 'kd_tmkd' is no other method"),
        ({"pairs": [{"title": "none"}]}, r"pairs: \['config'\] missing"),
        ({"pairs": ["digits_kd", "teachers"]}, "'teachers' stands there twice, or is not a name for a folder"),
        ({"pairs": [{"config": "digits_kd", "teacher": "digits_teacher"}, OTHER]}, "two different teachers are called"),
        ({"metrics": ["top2"]}, "metrics must be a list of some of"),
        ({"sedes": [0]}, r"\['sedes'\] not understood"),
    ],
)
def test_a_misspelt_grid_names_what_is_wrong(tables, small, change, message) -> None:
    with pytest.raises(SystemExit, match=message):
        tables.grid.read_grid(write(small, **{**yaml.safe_load(small.read_text()), **change}))


# Numbers


def test_mean_deviation_and_paired_interval_by_hand(tables) -> None:
    base, better = pd.Series({0: 60.0, 1: 64.0, 2: 62.0}), pd.Series({0: 63.0, 1: 65.0, 2: 64.0})
    mean, gain = tables.tabulator.format_mean, tables.tabulator.format_gain
    assert mean(base, 3) == "62.00 ± 2.00"
    assert mean(base, 2) == "62.00 ± 2.00, 3 seeds"
    # differences 3, 1, 2: standard deviation 1, and t(0.975, 2) / √3 = 4.302653 / 1.732051 = 2.484138
    assert gain(better, base, 3, digits=4) == "+2.0000 [-0.4841, +4.4841]"
    assert gain(better[[0, 1]], base[[1, 2]], 3) == "+1.00, one seed"  # pairs equal seeds alone
    assert gain(better[[0]], base[[1]], 3) == gain(better, None, 3) == mean(None, 3) == "missing"


def test_the_table_of_finished_and_missing_cells(tables, small, tmp_path, monkeypatch) -> None:
    """And the files that the tabulator writes of it."""
    root, out = tmp_path / "runs", tmp_path / "out"
    grid = tables.grid.read_grid(small)
    cells = students(grid)
    for seed, (best, last) in enumerate([(60, 50), (64, 51), (62, 52)]):
        finish(cells[f"pair/kd/seed{seed}"], root, best, last)
    for seed, (best, last) in enumerate([(63, 52), (65, 55)]):
        finish(cells[f"pair/kd_tmkd/seed{seed}"], root, best, last)
    finish(grid.teachers["pair"], root, 90, 91)
    results = tables.tabulator.read_results(grid, root)
    paper = {"pair": {"kd": {"top1": 65.2}, "kd_tmkd": {"top1": 67.05}, "teacher": {"top1": 70.0}}}
    frame = tables.tabulator.table(grid, results[results.which == "last"], paper)
    assert list(frame.columns) == ["", "Big → small"]
    assert frame.to_numpy().tolist() == [  # differences 2 and 4: sd √2, t(0.975, 1) = 12.7062
        ["Teacher", "91.00, one seed (70.00)"],
        ["KD", "51.00 ± 1.00 (65.20)"],
        ["KD + TMKD", "53.50 ± 2.12, 2 of 3 seeds (67.05)"],
        ["KD + TMKD: gain over KD", "+3.00 [-9.71, +15.71], 2 of 3 seeds (+1.85)"],
    ]
    monkeypatch.setattr(sys, "argv", ["tabulator.py", str(small), f"--runs={root}", f"--to={out}"])
    tables.tabulator.main()
    text = (out / "table.md").read_text()
    assert text.index("## Best epoch") < text.index("62.00 ± 2.00") < text.index("## Last epoch")
    assert "Missing, 1 of 7 runs:\n\n- pair/kd_tmkd/seed2" in text
    latex = (out / "table.tex").read_text().splitlines()
    assert r" & Big $\rightarrow$ small \\" in latex
    assert r"KD + TMKD: gain over KD & +3.00 [$-$9.71, +15.71], 2 of 3 seeds \\" in latex
    assert r"Test top-1 in \%: mean $\pm$ standard" in latex[2]
    results = pd.read_csv(out / "results.csv")
    assert len(results) == 12
    kd = results[(results.method == "kd") & (results.which == "best")]
    assert kd[["seed", "epoch", "top1", "top5"]].to_numpy().tolist() == [[0, 1, 60, 90], [1, 1, 64, 90], [2, 1, 62, 90]]
