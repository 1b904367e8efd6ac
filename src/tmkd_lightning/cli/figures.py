"""``tmkd figures``: figures of trained runs."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.utilities.seed import max_seed_value
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from torch.utils._pytree import tree_leaves

from tmkd_lightning.callbacks import StepSeeds
from tmkd_lightning.callbacks.progress_lines import without_terminal
from tmkd_lightning.callbacks.validation_batches import spread_over
from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.figures import FIGURES, CollectedOutputs, OutputCollector, join_figures, plot_all, save_figures
from tmkd_lightning.figures.curves import History, read_history, run_folder, run_name
from tmkd_lightning.figures.drawing import FORMATS, NothingToPlotError, check_choice, check_files, check_matplotlib
from tmkd_lightning.modules.base import BaseModule
from tmkd_lightning.modules.loading import load_datamodule, load_module, read_teacher
from tmkd_lightning.text.class_names import ClassList, find_class_names, learned_classes, resolve_class_names
from tmkd_lightning.utils.checkpoint_reading import read_checkpoint
from tmkd_lightning.utils.messages import printable
from tmkd_lightning.utils.replaced_methods import replaced_methods


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
    first, *others = ([ClassList(f"run {run}", its.names) for its in learned_classes(modules[run])] for run in modules)
    for second in others:
        if first and second and not any(one.same(other) for one, other in itertools.product(first, second)):
            differences = first[0].against(second[0])
            raise ValueError(f"the runs have learned other classes: {differences}; compare runs on the same data")
    networks = {name: one.extractor for name, one in modules.items()}
    if module.teacher is None and isinstance(teacher, str):
        raise ValueError(f"run {title} has no teacher, so {teacher} has no place: name a second run with against")
    if module.teacher is None or teacher is False:
        return networks
    remedy = "name their file with teacher, or leave it out with teacher=false"
    if reason := read_teacher(module, None if teacher is True else teacher, remedy):
        print(f"no teacher of run {printable(title)} is drawn: {reason}")
        return networks
    return {title: module.extractor, "teacher": module.teacher.extractor, **networks}


class FinishedRun:
    """The run that saved a checkpoint: its name and seed, its datamodule, and its metrics."""

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint, self.folder = checkpoint, run_folder(checkpoint)
        content = read_checkpoint(checkpoint)
        self._data = content.get("datamodule_hyper_parameters") or {}
        self._step = content.get("global_step", "unknown")
        seed = (content.get("callbacks") or {}).get(StepSeeds().state_key, {}).get("seed")
        self.seed: int | None = seed if seed is not None and seed <= max_seed_value else None  # above it: no seed given

    @property
    def source(self) -> str:
        """Run, checkpoint, step and seed, for captions."""
        seed = "unknown" if self.seed is None else self.seed
        return f"run {run_name(self.folder)}, checkpoint {self.checkpoint.name} (step {self._step}), seed {seed}"

    def data(self) -> LightningDataModule:
        """Builds the datamodule of the run."""
        if "_class_path" not in self._data:
            raise ValueError(f"{self.checkpoint} does not name its data: name them with data")
        return load_datamodule(self._data, self.checkpoint, "name another with data")

    def history(self, run: Path | None = None) -> History:
        """Reads the metrics that the run logged to its folder, or to `run`."""
        place = self.folder if run is None else run
        if place.is_dir() and not [*place.glob("metrics.csv"), *place.glob("version_*/metrics.csv")]:
            raise NothingToPlotError(
                f"no metrics.csv in {place} or its version_<n>: train with Lightning's CSVLogger, or name it with run"
            )
        return read_history(place)


def collect(
    module: BaseModule,
    networks: Mapping[str, Extractor],
    data: LightningDataModule,
    split: Literal["val", "test"] = "val",
    examples: int = 4,
    batches: int | None = None,
    accelerator: str = "auto",
) -> CollectedOutputs:
    """Runs networks on `batches` batches of a split (None: all) through Lightning's loop, with its hooks and checks."""
    names = resolve_class_names(module.num_classes, known=find_class_names(module, data))
    collector = OutputCollector(networks, names, examples)

    def update(trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any) -> None:
        collector.update(*module.preprocess_labelled(batch))

    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        limit_val_batches=batches,
        limit_test_batches=batches,
        callbacks=[LambdaCallback(on_validation_batch_end=update, on_test_batch_end=update), *without_terminal()],
    )
    name = f"{split}_dataloader"
    loaders = getattr(data, name)

    def first_loader() -> Any:
        loader = next(iter(tree_leaves(loaders())), None)
        return loader if batches is None else spread_over(loader, batches) or loader

    with replaced_methods(data, **{name: first_loader}):
        {"val": trainer.validate, "test": trainer.test}[split](module, datamodule=data, verbose=False)
    return collector.compute()
