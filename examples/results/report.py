"""The tables of docs/results.md from the runs that the study has left, finished or not.

    python examples/results/report.py

Prints those of the published runs, or of another folder that the study wrote its runs to. With `--write`, they are put
into that page, in place of those between its markers, and its picture is drawn.
"""

from __future__ import annotations

import argparse
import re
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import picture
from conditions import LOGIT_TERMS, METHODS, TEACHERS, VIEWS
from scipy import stats
from sets import SETS
from train import read_run

sys.path.append(str(Path(__file__).resolve().parents[1] / "tables"))  # means, gains and titles are those of the grids
from grid import TITLES
from tabulator import format_differences, format_mean, interval

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "results.md"
PICTURE = PAGE.parent / "images" / "gains.png"
SEEDS, TUNING_SEEDS = 5, 2
OWN_TEST = slice(5, 9)  # its seeds, 9 among them as labels are; the gain was found with those before
COLUMNS = {
    "as published": "plain",
    "+ KD's loss": "logit",
    "+ TMKD of the paper": "paper",
    "+ TMKD": "tmkd",
    "+ TMKD, student on views": "seen",
    "+ noise and blur": "generic",
    "+ strong feature loss": "feature",
    "+ TMKD, strong feature loss, no text loss": "tmkd_feature",
}
CLAIMED = {title: kind for title, kind in COLUMNS.items() if kind in ("paper", "seen", "feature", "tmkd_feature")}
DRAWN = ("paper", "seen", "feature")  # of the claims
PICTURED = {"cifar10": "CIFAR-10", "cub50": "birds"}
SET_TITLES = {**PICTURED, "cub50_pretrained": "birds, student from ImageNet"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", default=HERE, help="what was the study's --output")
    parser.add_argument("--write", action="store_true", help="into docs/results.md")
    options = parser.parse_args()
    try:
        tables = all_tables(options.results)
        page = fill(PAGE.read_text("utf-8"), tables) if options.write else ""
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if not tables:
        parser.error(f"{options.results} has no folder of a set with kd+plain_0.json, which all gains need")
    if options.write:
        picture.write(intervals(options.results), PICTURE)
        PAGE.write_text(page, "utf-8")
    else:
        print("\n\n".join(f"{name}\n\n{table}" for name, table in tables.items()))


def all_tables(results: Path = HERE) -> dict[str, str]:
    """Every table by its name."""
    folders = {name: results / name for name in SETS if (results / name / "kd+plain_0.json").exists()}
    corrected = holm({(name, *key): p for name, folder in folders.items() for key, p in p_values(folder).items()})
    over = {base: gains(folders, corrected, base).to_markdown(disable_numparse=True) for base in ("logit", "plain")}
    tables = {"gains": over["logit"], "gains over published": over["plain"]} if folders else {}
    for name, folder in folders.items():
        measured = all((folder / f"teacher_{teacher}.json").exists() for teacher in TEACHERS)
        frames = {"teachers": teachers(folder)} if measured else {}
        frames |= {
            "methods": methods(folder),
            "controls": controls(folder),
            "gradients": gradients(folder),
        }
        tables |= {f"{name} {title}": frame.to_markdown(disable_numparse=True) for title, frame in frames.items()}
    if any((results / name / f"kd+feature_{OWN_TEST.start}.json").exists() for name in PICTURED):
        tables["own test"] = own_test(results).to_markdown(disable_numparse=True)
    if (results / "cifar10" / "tuning" / "plain_0.json").exists():
        tables["tuning"] = tuning(results / "cifar10" / "tuning").to_markdown(disable_numparse=True)
    return tables


def fill(page: str, tables: dict[str, str]) -> str:
    """Puts each table between its markers; the page must have the markers of all tables, and of no others."""
    if lacking := set(re.findall("<!-- ([\\w ]+) -->", page)) - {"end"} - set(tables):
        raise ValueError(
            f"the page has the tables {sorted(lacking)}, of which there are no runs: it is written as a whole"
        )
    for name, table in tables.items():
        place = re.compile(rf"(<!-- {re.escape(name)} -->\n)(?:(?!<!-- ).)*(<!-- end -->)", re.DOTALL)
        page, places = place.subn(lambda found, table=table: f"{found[1]}\n{table}\n\n{found[2]}", page)
        if places != 1:
            raise ValueError(f"the page has {places} places for the table {name!r}, where one is wanted")
    return page


def runs(folder: Path, name: str) -> pd.DataFrame:
    """A row for each finished seed: what the run has left, with ``top1`` in % and a column for each logged value."""
    seeds = sorted(
        int(seed) for file in folder.glob(f"{name}_*.json") if (seed := file.stem[len(name) + 1 :]).isdigit()
    )
    found = {seed: read_run(folder / f"{name}_{seed}.json") for seed in seeds}
    if others := [seed for seed, run in found.items() if run.get("seed", seed) != seed]:
        raise ValueError(f"the files of {folder / name} with seeds {others} are runs of other seeds")
    frame = pd.json_normalize(list(found.values()))
    frame = frame.set_axis(list(found)) if found else pd.DataFrame(columns=["top1"], dtype=float)
    frame.attrs["name"] = f"{folder}/{name}"
    return frame


def differences(found: pd.DataFrame, base: pd.DataFrame) -> pd.Series:
    """Of equal seeds, in points; those of two teachers, precisions, texts or photos are refused, if the runs say so."""
    for column in _SHARED & set(found) & set(base):
        both = pd.concat([found[column], base[column]], axis=1).dropna()
        if seeds := both.index[both.nunique(axis=1) > 1].tolist():
            raise ValueError(
                f"seeds {seeds} of {found.attrs['name']} and {base.attrs['name']} differ in {column}, so that "
                "they are no pairs: remove one of them, and run it again as the other was"
            )
    return (found["top1"] - base["top1"]).dropna()


_SHARED = {"teacher", "record.precision", "record.vectors", "record.photos"}


def has_place(folder: Path, name: str) -> bool:
    """Whether a condition has its place in the tables of a set: it is planned there, or has run."""
    planned = {condition.name for condition in SETS[folder.name].conditions}
    return name in planned or len(runs(folder, name)) > 0


def compared(folder: Path) -> list[str]:
    """The methods that a set has runs of."""
    return [name for name in METHODS if any(folder.glob(f"{name}+*_0.json"))]


def teachers(folder: Path) -> pd.DataFrame:
    """Top-1 of each teacher on each view, of the mean of the three, and where any of them is right.

    A file that ends in a seed is of another teacher, that of the students from this seed on.
    """
    rows = {}
    for file in sorted(folder.glob("teacher_*.json"), key=lambda file: (file.stem.split("_")[1], len(file.stem))):
        _, name, *seeds = file.stem.split("_")
        top1 = read_run(file)["top1"]
        others = {view: value for view, value in top1.pop("others").items() if view not in (*VIEWS, *_SUMMARY)}
        title = {"rgb": "plain images", "views": "its views"}[name]
        rows[", for seeds from ".join([title, *seeds])] = top1 | others
    return pd.DataFrame(rows).T.map("{:.1f}".format).rename_axis("teacher trained on")


_SUMMARY = ("mean of views", "any view")


def methods(folder: Path) -> pd.DataFrame:
    """A row for each method, a column for each of its kinds."""
    rows = {}
    for name in compared(folder):
        kinds = {title: f"{name}+{kind}" for title, kind in COLUMNS.items() if has_place(folder, f"{name}+{kind}")}
        rows[TITLES[name]] = {title: mean(runs(folder, run)) for title, run in kinds.items()}
    table = pd.DataFrame(rows).T.reindex(columns=list(COLUMNS)).astype(object).fillna("").rename_axis("method")
    return _filled(table)


def bases(name: str) -> tuple[str, ...]:
    """The kinds that a claim for a method is held against: as published, and with KD's loss if it has not its own."""
    return ("plain",) if name in LOGIT_TERMS else ("plain", "logit")


def p_values(folder: Path) -> dict[tuple[str, str, str], float]:
    """Of Student's t on the differences of equal seeds, by method, claimed kind and kind that it is held against."""
    found = {}
    for name, kind in product(compared(folder), CLAIMED.values()):
        claimed = runs(folder, f"{name}+{kind}")
        for base in bases(name):
            gained = differences(claimed, runs(folder, f"{name}+{base}"))
            if testable(gained):
                found[name, kind, base] = float(stats.ttest_1samp(gained, 0).pvalue)
    return found


def testable(gained: pd.Series) -> bool:
    """Whether differences are enough for a t-test: of two seeds, it would hang on how top-1 is rounded."""
    return len(gained) > 2 and gained.std() > 0


def holm(p_values: dict[Any, float]) -> dict[Any, float]:
    """p-values corrected for all comparisons by Holm's step-down procedure."""
    corrected, largest = {}, 0.0
    for place, (key, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p))
        corrected[key] = largest
    return corrected


def gains(folders: dict[str, Path], corrected: dict[tuple[str, str, str, str], float], over: str) -> pd.DataFrame:
    """What is claimed of each method of each set, over it as published (`plain`) or with KD's loss (`logit`).

    A method whose own loss is KD's is the same in both, and stands in the second.
    """
    rows = {}
    for (name, folder), method in product(folders.items(), METHODS):
        base = bases(method)[-1] if over == "logit" else "plain"
        if method not in compared(folder) or (over == "plain" and method in LOGIT_TERMS):
            continue
        row = rows[f"{SET_TITLES[name]}: {TITLES[method]}"] = dict.fromkeys(CLAIMED, "")
        for title, kind in CLAIMED.items():
            if has_place(folder, f"{method}+{kind}"):
                p = corrected.get((name, method, kind, base))
                found = gain(runs(folder, f"{method}+{kind}"), runs(folder, f"{method}+{base}"))
                row[title] = found if p is None else f"{found}, p {p:.2g}"
    return _filled(pd.DataFrame(rows).T.rename_axis("gain of"))


def _filled(table: pd.DataFrame) -> pd.DataFrame:
    """The columns in which there is anything."""
    return table.loc[:, (table != "").any()]


def intervals(results: Path = HERE) -> picture.Gains:
    """What is drawn: each claim over the method with KD's loss; of two seeds or more, to a hundredth of a point."""
    found: picture.Gains = {}
    for name, title in PICTURED.items():
        for method in compared(results / name):
            row = found.setdefault(title, {}).setdefault(TITLES[method], {})
            base = runs(results / name, f"{method}+{bases(method)[-1]}")
            for claim, kind in CLAIMED.items():
                gained = differences(runs(results / name, f"{method}+{kind}"), base)
                if kind in DRAWN and len(gained) > 1:
                    row[claim] = [round(number, 2) for number in interval(gained)]
    return found


def controls(folder: Path) -> pd.DataFrame:
    """What else was run, beside KD, and where its fusion went."""
    plain, rows = runs(folder, "kd+plain"), {}
    for title, name in {
        "student alone": "alone",
        "student alone, twice as long": "alone_twice_as_long",
        "KD": "kd+plain",
        "KD, student on noise and blur, target RGB": "kd+generic",
        "KD + TMKD of the paper": "kd+paper",
        "KD + TMKD": "kd+tmkd",
        "KD + TMKD, no text loss": "kd+tmkd_no_text",
        "KD + TMKD, student on views": "kd+seen",
        "the same, no text loss": "kd+seen_no_text",
        "the same, texts of other classes": "kd+seen@permuted",
        "the same, texts turned at random": "kd+seen@random",
        "RKD + TMKD, student on views, no text loss": "rkd+seen_no_text",
    }.items():
        if not has_place(folder, name):
            continue
        found = runs(folder, name)
        seconds = f"{found['cpu_seconds'].median():.0f}" if "cpu_seconds" in found else ""
        rows[title] = {"top-1": mean(found), "gain over KD": gain(found, plain), "CPU seconds": seconds}
        rows[title]["weights of the views"] = means(found, "logged.fusion/")
    rows["KD"]["gain over KD"] = ""
    return pd.DataFrame(rows).T.rename_axis("run")


def gradients(folder: Path) -> pd.DataFrame:
    """The share of each term in the lengths of the gradients."""
    names = {
        TITLES[method] + title: f"{method}+{kind}" for method in compared(folder) for title, kind in _PULLS.items()
    }
    found = {title: runs(folder, name) for title, name in names.items()}
    rows = {title: means(one, "shares.") for title, one in found.items() if len(one)}
    return pd.DataFrame({"share of the gradient": rows}).rename_axis("run")


_PULLS = {
    "": "plain",
    " + KD's loss": "logit",
    " + TMKD": "tmkd",
    " + TMKD, student on views": "seen",
    " + strong feature loss": "feature",
}


def own_test(results: Path) -> pd.DataFrame:
    """KD with the strong feature loss over KD, with seeds that it was not found with, corrected for the sets alone."""
    rows, found = {}, {}
    for name, title in PICTURED.items():
        plain, strong = (runs(results / name, f"kd+{kind}").loc[OWN_TEST] for kind in ("plain", "feature"))
        gained = differences(strong, plain)
        if testable(gained):
            found[title] = float(stats.ttest_1samp(gained, 0).pvalue)
        rows[title] = {"KD": mean(plain), "+ strong feature loss": mean(strong), "gain": gain(strong, plain), "p": ""}
    if found.keys() == rows.keys():  # corrected for both
        for title, p in holm(found).items():
            rows[title]["p"] = f"{p:.2g}"
    return pd.DataFrame(rows).T.rename_axis("set")


def tuning(folder: Path) -> pd.DataFrame:
    """All that was tried on held-out training images, the best first."""
    names = sorted(file.stem.rsplit("_", 1)[0] for file in folder.glob("*_0.json"))
    found = {name: runs(folder, name) for name in names}
    rows = {}
    for name, one in sorted(found.items(), key=lambda item: -item[1]["top1"].mean()):
        over_kd = differences(one, runs(folder, "plain_4x" if name.endswith("_4x") else "plain"))
        rows[name] = {
            "top-1": format_mean(one["top1"], TUNING_SEEDS, digits=1),
            "gain over KD": f"{over_kd.mean():+.1f}" if len(over_kd) else "",
            "weights of the views": means(one, "logged.fusion/"),
        }
    return pd.DataFrame(rows).T.rename_axis("tried")


def mean(found: pd.DataFrame) -> str:
    return format_mean(found["top1"], SEEDS, digits=1)


def gain(found: pd.DataFrame, base: pd.DataFrame) -> str:
    gained = differences(found, base)
    return format_differences(gained, SEEDS, digits=1)


def means(found: pd.DataFrame, prefix: str) -> str:
    """Means over seeds of the columns with a prefix."""
    columns = found.filter(like=prefix).mean()
    return ", ".join(f"{name.removeprefix(prefix)} {value:.2f}" for name, value in columns.items())


if __name__ == "__main__":
    main()
