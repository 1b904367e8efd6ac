"""``tmkd figures``: figures of trained runs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningDataModule

from tmkd_lightning.cli.collect import collect
from tmkd_lightning.cli.finished import FinishedRun
from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.figures import FIGURES, CollectedOutputs, History, join_figures, plot_all, save_figures
from tmkd_lightning.figures.curves import run_name
from tmkd_lightning.figures.drawing import FORMATS, check_choice, check_files, check_matplotlib
from tmkd_lightning.models import load_weights
from tmkd_lightning.modules.loading import describe_order, load_module, teacher_order
from tmkd_lightning.text.class_names import ClassList, learned_classes
from tmkd_lightning.utils.messages import printable


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
    """Draws figures of a trained run: views, CAMs, t-SNE, logits and curves.

    Args:
        checkpoint: of the run, made by tmkd.
        output: folder for the files; those of the same names are replaced.
        which: names of figures, such as ``views,cam``; by default all that the run has data for.
        against: checkpoint of a second run to compare with.
        teacher: file with the teacher's weights, by default the one that the run names; false leaves the teacher out.
        data: datamodule by class_path; by default the one that the run was trained on.
        split: whose images to use, val or test.
        examples: number of images in views and CAMs, one of each class.
        batches: number of batches of images, from all over the split; by default all.
        run: folder with the run's metrics.csv, or that file; by default where the checkpoint lies.
        page: file for all figures on one page, .png or .pdf.
        formats: of the files, png and pdf by default.
        seed: of t-SNE.
        accelerator: Lightning's, such as cpu.
    """
    names = [name.strip() for name in which.split(",")] if isinstance(which, str) else which
    check_choice("figure", names or (), FIGURES)
    kinds = FORMATS if formats is None else formats
    files = {name: [Path(output).expanduser() / f"{name}.{kind}" for kind in kinds] for name in names or FIGURES}
    pages = [] if page is None else [Path(page).expanduser()]
    check_matplotlib()
    check_files([*itertools.chain(*files.values()), *pages])

    paths = [Path(path).expanduser() for path in (checkpoint, against) if path]
    loaded: list[Any] = [load_module(path) for path in paths]  # checks the checkpoints too
    finished = [FinishedRun(path) for path in paths]
    titles = [run_name(one.folder) for one in finished]
    if len(set(titles)) < len(titles):  # two checkpoints of one run
        titles = [f"{title} {one.checkpoint.stem}" for title, one in zip(titles, finished, strict=True)]

    def outputs() -> CollectedOutputs:
        networks = _networks(dict(zip(titles, loaded, strict=True)), teacher)
        return collect(loaded[0], networks, data or finished[0].data(), split, examples, batches, accelerator)

    def histories() -> dict[str, History]:
        folders = [Path(run).expanduser() if run else None, None]
        return {title: one.history(folder) for title, one, folder in zip(titles, finished, folders, strict=False)}

    figures = plot_all(
        outputs,
        loaded[0].views,
        histories,
        names or FIGURES,
        seed=seed,
        source=f"From {', against '.join(one.source for one in finished)}",
        split={"val": "validation", "test": "test"}[split],
        on_skip=None if names else lambda reason: print(printable(reason)),
    )
    if not figures:
        raise ValueError(f"there is nothing to draw of {checkpoint}, for the reasons above")
    saved = {path: figure for name, figure in figures.items() for path in files[name]}
    saved |= {path: join_figures(list(figures.values())) for path in pages}
    save_figures(saved)
    print("\n".join(map(printable, saved)))


def _networks(modules: Mapping[str, Any], teacher: bool | str) -> dict[str, Extractor]:
    """The networks of runs of the same classes, with the first one's teacher if there are weights for it."""
    title, module = next(iter(modules.items()))
    first, *others = (
        [ClassList(f"run {name}", one.names) for one in learned_classes(each)] for name, each in modules.items()
    )
    for second in others:
        if first and second and not any(one.same(other) for one, other in itertools.product(first, second)):
            differences = first[0].against(second[0])
            raise ValueError(f"the runs have learned other classes: {differences}; compare runs on the same data")
    networks = {name: one.extractor for name, one in modules.items()}
    if module.teacher is None and isinstance(teacher, str):
        raise ValueError(f"run {title} has no teacher, so {teacher} has no place: name a second run with against")
    if module.teacher is None or teacher is False:
        return networks
    weights = module.teacher_checkpoint if teacher is True else teacher
    if weights is None:  # a teacher that is built again would be another one
        print(f"no teacher is drawn: run {printable(title)} names no file with its weights; name one with teacher")
        return networks
    path = Path(weights).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights of the teacher at {weights}: name their file with teacher, or leave it out with teacher=false"
        )
    extractor: Extractor = module.teacher.extractor
    rows = teacher_order(module, path, data=None)  # of the classes as the run knew them
    key = module.teacher_key if weights == module.teacher_checkpoint else None
    load_weights(extractor, path, replace_head=False, key=key)
    if rows is not None:
        print(describe_order(str(path), rows))
        extractor.reorder_classes(rows)
    return {title: module.extractor, "teacher": extractor, **networks}
