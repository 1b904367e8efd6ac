"""The tables of the study, from runs whose numbers are worked out by hand."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain, permutations
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from helpers.doc_commands import importing_from

RESULTS = Path(__file__).parents[2] / "examples" / "results"


@pytest.fixture(scope="module")
def report() -> Iterator[ModuleType]:
    with importing_from(RESULTS):
        import report

        yield report


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two finished methods: KD, which has a logit term, and SP, of which a seed is missing."""
    top1 = {
        "kd+plain": [60, 62, 64],
        "kd+seen": [61, 64, 67],  # +1, +2, +3
        "kd+feature": [60, 63, 64],
        "kd+generic": [58, 60, 62],
        "sp+plain": [50, 52, 54],
        "sp+logit": [55, 57, 59],
        "sp+seen": [56, 57],  # +6, +5 and +1, 0
    }
    (folder := tmp_path / "cub50").mkdir()
    for name, values in top1.items():
        for seed, value in enumerate(values):
            (folder / f"{name}_{seed}.json").write_text(json.dumps({"top1": value, "logged": {}, "shares": {}}))
    return folder


def test_the_own_test_is_of_later_seeds_and_corrected_for_its_sets_alone(report, tmp_path) -> None:
    """CIFAR-10's differences are 1, 2, 3, p 0.0742, which is doubled; those of birds 1, 5, 6: t = √7, p 0.118.

    With seeds 4 and 10, which the test has not, CIFAR-10's are 10, 1, 2, 3 and 10.
    """
    top1 = {"cifar10": ([60, 60, 62, 64], [70, 61, 64, 67]), "cub50": ([30, 30, 30, 30], [30, 31, 35, 36])}
    for name, kinds in top1.items():
        (folder := tmp_path / name).mkdir()
        for kind, value in zip(("plain", "feature"), (60, 70), strict=True):
            (folder / f"kd+{kind}_10.json").write_text(json.dumps({"top1": value}))
        for kind, values in zip(("plain", "feature"), kinds, strict=True):
            for seed, value in enumerate(values, start=4):
                (folder / f"kd+{kind}_{seed}.json").write_text(json.dumps({"top1": value}))
    table = report.own_test(tmp_path)
    assert table.loc["CIFAR-10"].tolist() == [
        "62.0 ± 2.0, 3 of 5 seeds",
        "64.0 ± 3.0, 3 of 5 seeds",
        "+2.0 [-0.5, +4.5], 3 of 5 seeds",
        "0.15",
    ]
    assert table.loc["birds", "p"] == "0.15"  # not below the other's
    assert report.all_tables(tmp_path).keys() == {"own test"}  # by itself, as whoever repeats it alone has it
    (tmp_path / "cub50" / "kd+plain_6.json").unlink()
    assert report.own_test(tmp_path)["p"].tolist() == ["", ""]  # of one set alone it would not be corrected


def drawn(path: Path) -> dict[str, Any]:
    """The numbers that a picture holds."""
    with Image.open(path) as image:
        return json.loads(image.info["Description"])


def test_gains_are_paired_by_seed(report, folder) -> None:
    """Differences 1, 2, 3: mean 2, standard error 1/√3, t of two degrees 4.303, so 2 ± 2.48."""
    corrected = {("cub50", "kd", "seen", "plain"): 0.25, ("cifar10", "kd", "feature", "plain"): 0.5}
    table = report.gains({"cub50": folder}, corrected, "logit")
    seen = "+ TMKD, student on views"
    assert table[seen].to_dict() == {
        "birds: KD": "+2.0 [-0.5, +4.5], 3 of 5 seeds, p 0.25",
        "birds: SP": "+0.5 [-5.9, +6.9], 2 of 5 seeds",
    }
    assert table.loc["birds: KD", "+ strong feature loss"] == "+0.3 [-1.1, +1.8], 3 of 5 seeds"
    assert table.loc["birds: SP", "+ TMKD of the paper"] == "missing"
    assert table.loc["birds: SP", "+ strong feature loss"] == ""  # not planned
    table = report.gains({"cub50": folder}, corrected, "plain")
    assert table[seen].to_dict() == {"birds: SP": "+5.5 [-0.9, +11.9], 2 of 5 seeds"}
    assert "+ TMKD, strong feature loss, no text loss" not in table


@pytest.mark.parametrize("column", ["teacher", "record.precision", "record.vectors", "record.photos"])
def test_students_of_two_teachers_or_precisions_are_no_pairs(report, folder, column) -> None:
    """Of the same one they are, and so are those of old runs, which do not say whose they are."""

    def say(name: str, value: str) -> None:
        key, *keys = column.split(".")
        file = folder / f"{name}.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {key: {keys[0]: value} if keys else value}))

    for name in ("kd+plain_0", "kd+seen_0", "kd+seen_1", "kd+feature_2"):
        say(name, "a")
    table = report.gains({"cub50": folder}, {}, "logit")
    assert table.loc["birds: KD", "+ TMKD, student on views"].startswith("+2.0 ")
    say("kd+plain_2", "b")
    with pytest.raises(ValueError, match=rf"seeds \[2\] of .*/kd\+feature and .*/kd\+plain differ in {column}"):
        report.gains({"cub50": folder}, {}, "logit")
    with pytest.raises(ValueError, match="differ in"):
        report.p_values(folder)
    tried = folder.parent / "tuning"
    tried.mkdir()
    for run, of in {"plain_0": "kd+plain_2", "strong_0": "kd+feature_2"}.items():
        (tried / f"{run}.json").write_text((folder / f"{of}.json").read_text())
    with pytest.raises(ValueError, match="differ in"):
        report.tuning(tried)


def test_a_run_of_another_seed_and_one_without_a_number_are_none(report, folder) -> None:
    run = {"top1": 60, "seed": 0}
    (folder / "kd+plain_3.json").write_text(json.dumps(run))
    with pytest.raises(ValueError, match=r"kd\+plain with seeds \[3\] are runs of other seeds"):
        report.methods(folder)
    for lacking in ({}, [], {"top1": None}, {"top1": float("nan")}, {"top1": "62"}):
        (folder / "kd+plain_3.json").write_text(json.dumps(lacking))
        with pytest.raises(ValueError, match=r"kd\+plain_3.json holds no finished run"):
            report.methods(folder)


def test_p_values_are_those_of_students_t(report, folder) -> None:
    """Of two degrees of freedom, p = 1 - t / √(t² + 2): t is 2√3 and 1 here. Of two seeds, or equal gains, none is."""
    found = report.p_values(folder)
    assert found == pytest.approx(
        {("kd", "seen", "plain"): 1 - 12**0.5 / 14**0.5, ("kd", "feature", "plain"): 1 - 3**-0.5}
    )
    for seed, value in enumerate([59, 61, 63]):
        (folder / f"kd+feature_{seed}.json").write_text(json.dumps({"top1": value}))
    assert found.keys() - report.p_values(folder).keys() == {("kd", "feature", "plain")}


def test_holm_steps_down(report) -> None:
    """Times 4, 3, 2, 1 in the order of the p-values, never below the one before, at most 1."""
    corrected = report.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.9})
    assert corrected == pytest.approx({"a": 0.04, "c": 0.09, "b": 0.09, "d": 0.9})
    assert report.holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


def test_a_method_and_its_kinds(report, folder) -> None:
    table = report.methods(folder)
    assert table.loc["KD", "as published"] == "62.0 ± 2.0, 3 of 5 seeds"
    assert table.loc["KD", "+ KD's loss"] == ""
    assert table.loc["SP", "+ KD's loss"] == "57.0 ± 2.0, 3 of 5 seeds"
    assert table.loc["SP", "+ TMKD of the paper"] == "missing"
    assert table.loc["SP", "+ TMKD"] == ""  # not planned
    (folder / "sp+tmkd_0.json").write_text('{"top1": 58}')
    assert report.methods(folder).loc["SP", "+ TMKD"] == "58.0, one seed"  # what has run is shown


def test_teachers_of_later_seeds_have_a_row_of_their_own(report, tmp_path) -> None:
    for name, rgb in {"rgb": 80, "rgb_10": 82, "rgb_5": 81, "views": 79}.items():
        top1 = {"rgb": rgb, "edge": 70, "others": {"rgb": rgb, "grey": 60, "any view": 90}}
        (tmp_path / f"teacher_{name}.json").write_text(json.dumps({"top1": top1}))
    table = report.teachers(tmp_path)
    assert table.loc["plain images"].tolist() == ["80.0", "70.0", "60.0"]
    assert table["rgb"].to_dict() == {
        "plain images": "80.0",
        "plain images, for seeds from 5": "81.0",
        "plain images, for seeds from 10": "82.0",
        "its views": "79.0",
    }


def test_controls_are_those_that_a_set_has(report, folder) -> None:
    table = report.controls(folder)
    assert table.loc["KD, student on noise and blur, target RGB", "gain over KD"] == "-2.0 [-2.0, -2.0], 3 of 5 seeds"
    assert table.loc["student alone", "top-1"] == "missing"
    assert "student alone, twice as long" not in table.index
    for seed, weight in enumerate((0.25, 0.5)):
        paper = {"top1": 60, "logged": {"fusion/rgb": weight, "fusion/edge": 1 - weight, "train/ce": 1.0}}
        (folder / f"kd+paper_{seed}.json").write_text(json.dumps(paper))
    found = report.controls(folder).loc["KD + TMKD of the paper"]
    assert found["gain over KD"] == "-1.0 [-13.7, +11.7], 2 of 5 seeds"  # 0 and -2: 1 · 12.71 about -1
    assert found["weights of the views"] == "rgb 0.38, edge 0.62"
    folder = folder.rename(folder.with_name("cifar10"))
    assert report.controls(folder).loc["student alone, twice as long", "top-1"] == "missing"


def test_tables_are_filled_in_between_their_markers(report) -> None:
    page = "<!-- not run: x -->a\n\n<!-- one -->\n\n<!-- end -->\n\nb\n\n<!-- two -->\n\nold\n\n<!-- end -->\n\nc"
    filled = "<!-- not run: x -->a\n\n<!-- one -->\n\n1\n\n<!-- end -->\n\nb\n\n<!-- two -->\n\n2\n\n<!-- end -->\n\nc"
    assert report.fill(page, {"one": "1", "two": "2"}) == filled
    with pytest.raises(ValueError, match=r"the tables \['two'\], of which there are no runs"):
        report.fill(filled, {"one": "1"})
    with pytest.raises(ValueError, match="0 places for the table 'one'"):  # without its end, it ends at no other's
        report.fill(page.replace("<!-- end -->", "", 1), {"one": "1", "two": "2"})
    with pytest.raises(ValueError, match="0 places for the table 'three'"):
        report.fill(page, {"one": "1", "two": "2", "three": "3"})


def test_the_page_holds_what_the_runs_say(report) -> None:
    """Whoever adds a run writes the tables anew: `python examples/results/report.py --write`."""
    page = report.PAGE.read_text()
    assert report.fill(page, report.all_tables()) == page
    assert drawn(report.PICTURE) == report.intervals()
    planned = [report.SEEDS * len(chosen.conditions) for chosen in report.SETS.values()]
    assert "{} runs on CIFAR-10, {} on birds and {} of the student from ImageNet".format(*planned) in page


@pytest.mark.parametrize("name", ["README.md", "docs/results.md"])
def test_gains_in_the_text_are_those_of_runs(report, name) -> None:
    """What was written before further seeds ran has another interval, or p.

    Whether a number stands beside the right words, the test cannot tell: it is that of some condition over another.
    """
    text = (RESULTS.parents[1] / name).read_text().partition("## The first study")[0]
    folders = [RESULTS / chosen for chosen in report.SETS]
    written = re.findall(r"[+-]\d+\.\d \[[+-]\d+\.\d, [+-]\d+\.\d\]", text)
    assert written
    pairs = [gains_of_pairs(folder, first_seed) for folder in folders for first_seed in (0, report.OWN_TEST.start)]
    assert set(written) <= set(chain(*pairs))
    p_values = {(folder, key): p for folder in folders for key, p in report.p_values(folder).items()}
    written = [p for pair in re.findall(r"\bp (?:is )?(\d[\d.]*\d|1)(?: and (\d\.\d+))?", text) for p in pair if p]
    assert written
    forms = {
        key: p
        for key, p in p_values.items()
        if key[1][1] in ("paper", "seen") and key[1][2] == report.bases(key[1][0])[-1]
    }
    corrected = {f"{p:.2g}" for family in (p_values, forms) for p in report.holm(family).values()}
    assert set(written) <= corrected | set(report.own_test(RESULTS)["p"])


def gains_of_pairs(folder: Path, first_seed: int) -> Iterator[str]:
    """Of any condition over any other with which it shares two seeds, from one on."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for file in folder.glob("*_*.json"):
        name, _, seed = file.stem.rpartition("_")
        if not name.startswith("teacher") and int(seed) >= first_seed:
            found[name][seed] = json.loads(file.read_text())["top1"]
    quantiles = [stats.t.ppf(0.975, freedom) for freedom in range(1, 20)]
    for one, other in permutations(found.values(), 2):
        differences = [one[seed] - other[seed] for seed in one.keys() & other.keys()]
        if len(differences) > 1:
            mean, half = np.mean(differences), np.std(differences, ddof=1) / len(differences) ** 0.5
            half *= quantiles[len(differences) - 2]
            yield f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"


def test_the_picture_has_gains_over_kds_loss(report, folder, tmp_path_factory) -> None:
    """As in the tables above: 2 ± 2.48 of three seeds, 0.5 ± 12.71 / 2 of two, over KD and over SP with KD's loss."""
    results = tmp_path_factory.mktemp("results")
    folder.rename(results / "cifar10")
    found = report.intervals(results)
    assert found == {
        "CIFAR-10": {
            "KD": {
                "+ TMKD, student on views": [2.0, -0.48, 4.48],
                "+ strong feature loss": [0.33, -1.1, 1.77],
            },
            "SP": {"+ TMKD, student on views": [0.5, -5.85, 6.85]},
        }
    }
    report.picture.write(found, path := results / "gains.png")
    assert drawn(path) == found
    axis = report.picture.draw(found).axes[0]
    means, rows = axis.lines[1].get_data()  # of the first kind; before it, the line at no gain
    assert (list(means), list(rows)) == ([2.0, 0.5], [-0.11, 0.89])
