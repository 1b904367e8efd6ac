"""``tmkd figures``: figures of finished runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal

from jsonargparse import auto_cli
from lightning.pytorch import LightningDataModule

from tmkd_lightning.cli.collect import collect
from tmkd_lightning.cli.finished import FinishedRun
from tmkd_lightning.cli.parser import Parser
from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.figures import FIGURES, Material, check_names, drawings, figure_of, page_of, render
from tmkd_lightning.figures import write as write_files
from tmkd_lightning.figures.curves import History
from tmkd_lightning.figures.drawing import check_matplotlib
from tmkd_lightning.figures.run import run_folder, run_name
from tmkd_lightning.figures.save import check_format
from tmkd_lightning.models import load_weights
from tmkd_lightning.modules.loading import load_module
from tmkd_lightning.modules.teacher_classes import describe_order, teacher_order
from tmkd_lightning.text.class_names import ClassList, learned_classes
from tmkd_lightning.utils.files import check_writable
from tmkd_lightning.utils.messages import printable

_SPLITS = {"val": "validation", "test": "test"}


def draw(
    checkpoint: str,
    output: str = "figures",
    which: list[str] | str | None = None,
    against: str | None = None,
    teacher: bool | str = True,
    data: LightningDataModule | None = None,
    split: Literal["val", "test"] = "val",
    examples: int = 4,
    batches: int | None = None,
    run: str | None = None,
    page: str | None = None,
    formats: list[str] | None = None,
    seed: int = 0,
    accelerator: str = "auto",
) -> None:
    """Draws figures of a finished run: views, attention, embedding, logits and curves.

    Args:
        checkpoint: of the run, made by tmkd.
        output: folder for the files; those of the same names are replaced.
        which: names of figures, such as ``views,attention``; by default all that the run has something for.
        against: checkpoint of a second run to set beside the first.
        teacher: file with the teacher's weights, by default the one that the run names; false leaves the teacher out.
        data: datamodule by class_path; by default the one that the run was trained on.
        split: whose images to show, val or test.
        examples: how many images to show in views and attention, one of each class.
        batches: how many batches of images to look at, from all over the split; by default all.
        run: folder with the run's metrics.csv, or that file; by default where the checkpoint lies.
        page: file for all figures on one page, .png or .pdf.
        formats: of the files, png and pdf by default.
        seed: of t-SNE.
        accelerator: Lightning's, such as cpu.

    Raises:
        ValueError: a name that there is not, a file that does not fit, or nothing to draw.
        OSError: a file cannot be written; then none has been.
    """
    names = [name.strip() for name in which.split(",")] if isinstance(which, str) else which
    kinds = ["png", "pdf"] if formats is None else formats
    folder, page = Path(output).expanduser(), None if page is None else os.path.expanduser(page)
    _check(names, kinds, folder, page)
    paths = [Path(path).expanduser() for path in (checkpoint, against) if path]
    runs = dict(zip(_titles(paths), map(load_module, paths), strict=True))
    module: Any = next(iter(runs.values()))  # with views
    finished = dict(zip(runs, map(FinishedRun, paths), strict=True))
    first = next(iter(finished.values()))
    material = Material(
        look=lambda: collect(
            module, _networks(runs, paths, teacher), data or first.data(), split, examples, batches, accelerator
        ),
        views=module.views,
        histories=lambda: _histories(finished, run),
        seed=seed,
    )
    made = drawings(material, names or FIGURES, left_out=None if names else lambda text: print(printable(text)))
    if not made:
        raise ValueError(f"there is nothing to draw of {checkpoint}, for the reasons above")
    source = f"From {', against '.join(one.source for one in finished.values())}"
    of_images = f"{source}; images shown are {_SPLITS[split]} images."
    files: dict[Path, bytes] = {}
    for name, drawing in made.items():
        figure = figure_of(drawing, f"{source}." if name == "curves" else of_images)
        files |= {folder / f"{name}.{kind}": render(figure, kind) for kind in kinds}
    if page is not None:
        files[Path(page)] = render(page_of(list(made.values()), of_images), _kind(page))
    write_files(files)
    print("\n".join(map(printable, files)))


def figures_command(args: Sequence[str]) -> None:
    """Runs the verb on command-line arguments."""
    auto_cli(draw, args=list(args), as_positional=False, prog="tmkd figures", parser_class=Parser)


def _check(names: list[str] | None, kinds: list[str], output: Path, page: str | None) -> None:
    """Refuses what can be refused before anything is read or computed."""
    if names is not None:
        check_names(names)
    for kind in [*kinds, *([] if page is None else [_kind(page)])]:
        check_format(kind)
    check_matplotlib()
    places = [output / f"{name}.{kind}" for name in names or FIGURES for kind in kinds]
    for place in [*places, *([] if page is None else [Path(page)])]:
        check_writable(place)


def _kind(page: str) -> str:
    return Path(page).suffix.removeprefix(".")


def _titles(checkpoints: Sequence[Path]) -> list[str]:
    """What figures call the runs: the names of their folders, with that of the checkpoint where these are the same."""
    names = [run_name(run_folder(path)) for path in checkpoints]
    if len(set(names)) == len(names):
        return names
    return [f"{name} {path.stem}" for name, path in zip(names, checkpoints, strict=True)]


def _networks(runs: Mapping[str, Any], paths: Sequence[Path], teacher: bool | str) -> dict[str, Extractor]:
    """The networks of the runs, and the first one's teacher behind it, if there are weights for it."""
    for one, path in zip(runs.values(), paths, strict=True):
        _check_finite(one.extractor, path)
    (title, module), *others = runs.items()
    for name, other in others:
        _check_same_classes({title: module, name: other})
    shown: dict[str, Extractor] = {title: module.extractor}
    if module.teacher is None and isinstance(teacher, str):
        raise ValueError(f"run {title} has no teacher, so {teacher} has no place: name a second run with against")
    if module.teacher is not None and teacher is not False:
        weights = module.teacher_checkpoint if teacher is True else teacher
        if weights is None:  # what is built anew would be another teacher
            print(f"no teacher is shown: run {printable(title)} names no file with its weights; name one with teacher")
        else:
            shown["teacher"] = _teacher(module, weights)
    return shown | {name: other.extractor for name, other in others}


def _teacher(module: Any, weights: str) -> Extractor:
    extractor: Extractor = module.teacher.extractor
    path = Path(weights).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights of the teacher at {weights}: name their file with teacher, or leave it out with teacher=false"
        )
    rows = teacher_order(module, path, data=None)  # those that the run knew
    key = module.teacher_key if weights == module.teacher_checkpoint else None
    load_weights(extractor, path, replace_head=False, key=key)
    if rows is not None:
        print(describe_order(str(path), rows))
        extractor.reorder_classes(rows)
    _check_finite(extractor, path)
    return extractor


def _check_same_classes(runs: Mapping[str, Any]) -> None:
    """Refuses two runs of other classes; the first one's are held against the data by itself."""
    (_, first), (_, second) = [(title, learned_classes(module)) for title, module in runs.items()]
    pairs = list(product(first, second))
    if pairs and not any(one.same(other) for one, other in pairs):
        one, other = (ClassList(f"run {title}", pair.names) for title, pair in zip(runs, pairs[0], strict=True))
        raise ValueError(f"the runs have learned other classes: {one.against(other)}; compare runs on the same data")


def _check_finite(extractor: Extractor, path: Path) -> None:
    """Names the file of a network that was lost while it was trained; its curves can still be drawn."""
    tensors = extractor.state_dict().items()
    bad = [name for name, value in tensors if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise ValueError(
            f"{path} holds weights that are not finite, {bad[0]} for one: was its training stopped by an error? Take "
            "an earlier checkpoint, or draw its curves alone"
        )


def _histories(finished: Mapping[str, FinishedRun], run: str | None) -> dict[str, History]:
    (title, first), *others = finished.items()
    return {title: first.history(Path(run).expanduser() if run else None)} | {
        name: other.history() for name, other in others
    }
