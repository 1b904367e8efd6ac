"""The page of a run: one HTML file with numbers, curves, confusions, mistakes, views and class activation maps."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import LightningDataModule
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from tmkd_lightning.data import ImageDataModule
from tmkd_lightning.data.image_files import ImageFiles
from tmkd_lightning.export.predictions import PredictionCollector, Predictions
from tmkd_lightning.export.report import compare, network_values, table_notes, table_rows
from tmkd_lightning.figures import CollectedOutputs, History, NothingToPlotError, OutputCollector, plot_all
from tmkd_lightning.figures.drawing import Figure, check_matplotlib, styled
from tmkd_lightning.modules.base import BaseModule
from tmkd_lightning.text.class_names import find_class_names, resolve_class_names
from tmkd_lightning.utils.files import atomic_write, check_writable
from tmkd_lightning.utils.messages import printable
from tmkd_lightning.utils.validation import check_count

MATRIX_CLASSES = 20  # as many fit on a sheet of paper; of more, the pairs that are confused most often are listed
PAIRS = 20
SHOWN = ("curves", "views", "cam")
_THUMBNAIL, _SMALL = 192, 64  # longest side in pixels of an image on the page; below the second, pixels stay squares


@dataclass(frozen=True)
class RunPage:
    """What the page of a run shows.

    Args:
        report: of `compare`.
        class_names: K names.
        predictions: of the student, or the network, and of its teacher; None where there are no test images.
        figures: by name, each a figure, or the reason why there is none.
        files: names of the test images by their place in the split, where they are files.
    """

    report: dict[str, Any]
    class_names: Sequence[str]
    predictions: Predictions | None
    figures: Mapping[str, Figure | str]
    files: Sequence[str] | None = None

    @property
    def role(self) -> str:
        """Whose answers the page is about: ``student``, or ``network`` where there is no teacher."""
        return list(self.report["networks"])[-1]


def collect_page(
    module: BaseModule,
    *,
    image_size: int,
    batch_sizes: Sequence[int] = (1, 32),
    data: LightningDataModule | None = None,
    accelerator: str = "auto",
    histories: Callable[[], Mapping[str, History]] | None = None,
    source: str = "From a module in Python",
    mistakes: int = 24,
    examples: int = 4,
    no_data: str = "no data were given",
    no_teacher: str | None = None,
) -> RunPage:
    """Measures a module as `compare` does, and keeps of the same pass over the test images what a page shows.

    Args:
        module: a TMKDModule, whose teacher has its weights, or a ClassifierModule.
        image_size: side of the images in pixels.
        batch_sizes: numbers of images at once to measure the latency of, each at least 1.
        data: datamodule with a test split; without one the page has sizes and latencies alone.
        accelerator: Lightning's, such as ``cpu``.
        histories: gives what runs logged, by their names, for the curves; see `figures.read_history`.
        source: run, checkpoint and seed, for the captions of figures.
        mistakes: number of mistakes to show, the most confident first.
        examples: number of images in views and class activation maps, one of each class; at least 1.
        no_data: why there are none.
        no_teacher: why the teacher does not have its weights; its opinion is then left out.

    Example:
        >>> from tempfile import mkdtemp
        >>> from torchvision.models import resnet18
        >>> from tmkd_lightning import ClassifierModule
        >>> page = collect_page(ClassifierModule(resnet18(num_classes=3)), image_size=32, batch_sizes=[1])
        >>> page.role, page.predictions, page.figures["views"]
        ('network', None, 'no data were given')
        >>> write_page(page, Path(mkdtemp()) / "run.html").name
        'run.html'
    """
    collector = PredictionCollector(mistakes, check_count("examples", examples))
    report = compare(
        module,
        image_size=image_size,
        batch_sizes=batch_sizes,
        data=data,
        accelerator=accelerator,
        no_data=no_data,
        no_teacher=no_teacher,
        collector=collector,
    )
    networks = {"network" if module.teacher is None else "student": module.extractor}
    reason = next(reversed(report["networks"].values()))["not_measured"]
    predictions = collector.compute() if reason is None else None
    if module.teacher is not None and no_teacher is None:
        networks["teacher"] = module.teacher.extractor
    names = resolve_class_names(module.num_classes, known=find_class_names(module, data))

    def collect() -> CollectedOutputs:
        if predictions is None:
            raise NothingToPlotError(reason)
        outputs = OutputCollector(networks, names, examples)
        images, labels = predictions.example_images, predictions.example_labels
        outputs.update(images.to(module.device), labels.to(module.device))
        return outputs.compute()

    def read_histories() -> Mapping[str, History]:
        if histories is None:
            raise NothingToPlotError("no metrics of the training were given")
        return histories()

    figures = _draw(collect, module.views, read_histories, source)
    return RunPage(report, names, predictions, figures, None if predictions is None else _file_names(data, predictions))


def _draw(collect: Any, views: Any, histories: Any, source: str) -> dict[str, Figure | str]:
    """Each figure, or why there is none."""
    try:
        check_matplotlib()
    except ModuleNotFoundError as error:
        return dict.fromkeys(SHOWN, str(error))
    found: dict[str, Figure | str] = {}
    for name in SHOWN:
        try:
            found |= plot_all(collect, views, histories, [name], source=source, split="test")
        except NothingToPlotError as error:
            found[name] = str(error)
    return found


def _file_names(data: LightningDataModule | None, predictions: Predictions) -> list[str] | None:
    """Paths of the test images of a datamodule of ours, below its root; None if they came in another order."""
    samples = data.samples("test") if isinstance(data, ImageDataModule) else None
    if not isinstance(samples, ImageFiles) or samples.labels != predictions.truths.tolist():
        return None
    root = getattr(data, "root", None)
    paths = [path for path, _ in samples.files]
    return [str(path.relative_to(root) if root and path.is_relative_to(root) else path) for path in paths]


def write_page(page: RunPage, output: str | Path, title: str = "Report") -> Path:
    """Writes a page to one HTML file, which needs neither network nor scripts; returns its path.

    Args:
        page: of `collect_page`.
        output: file to write; it takes its name once it is complete.
        title: of the page, such as the name of the run.
    """
    path = Path(output).expanduser()
    check_writable(path)
    content = to_html(page, title).encode()
    with atomic_write(path) as file:
        file.write(content)
    return path


def to_html(page: RunPage, title: str = "Report") -> str:
    """Writes a page as HTML; texts from outside, such as the names of classes and files, are escaped."""
    from jinja2 import Environment, StrictUndefined  # only needed here
    from markupsafe import Markup

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else printable(value),
    )
    template = (files(__package__) / "page.html").read_text("utf-8")
    measured = page.predictions
    return environment.from_string(template).render(
        title=title,
        role=page.role,
        names=page.class_names,
        report=page.report,
        rows=table_rows(page.report),
        notes=table_notes(page.report),
        gains=gains(page.report),
        reason=page.report["networks"][page.role]["not_measured"],
        no_teacher=page.report["networks"].get("teacher", {}).get("not_measured"),
        agreement=None if measured is None else agreement(measured, page.role),
        matrix=_matrix(page),
        pairs=[] if measured is None else measured.confusions(page.role, PAIRS),
        opinions=_opinions_on_pairs(page),
        predictions=measured,
        thumbnails=[] if measured is None else [picture(one.image) for one in measured.mistakes],
        files=page.files,
        figures={name: one if isinstance(one, str) else figure_picture(one) for name, one in page.figures.items()},
        source=lambda image: Markup(data_uri(image)),
    )


class Gain(NamedTuple):
    """One of the numbers at the top: the student's, the teacher's, and how they compare, in words."""

    name: str
    value: str
    teacher: str | None
    words: str | None


def gains(report: Mapping[str, Any]) -> list[Gain]:
    """The numbers at the top of a page, as the report's table has them.

    Example:
        >>> network = {"network": "Net", "parameters": 50, "macs": 9, "bytes": 8, "latency": [], "accuracy": None}
        >>> report = {"networks": {"teacher": network | {"parameters": 200}, "student": network}, "ratio": None}
        >>> gains(report)[0]
        Gain(name='parameters', value='50', teacher='200', words='4× fewer')
    """
    networks = report["networks"]
    role = list(networks)[-1]
    values = {each: network_values(one) for each, one in networks.items()}
    cells = {
        name: dict(zip(networks, (cell.split(" (")[0] for cell in row), strict=False))  # without quartiles
        for name, *row in table_rows(report)[1:]
    }
    latency = next((name for name in values[role] if name.startswith("latency")), "latency")
    words = {"top-1": None, "parameters": ("fewer", "more"), "MACs": ("fewer", "more"), latency: ("faster", "slower")}
    found = []
    for name, less_and_more in words.items():
        if name in values[role]:
            ours, theirs = values[role][name], values.get("teacher", {}).get(name)
            compared = None if theirs is None else _compare(ours, theirs, less_and_more)
            found.append(Gain(name, cells[name][role], cells[name].get("teacher"), compared))
    return found


def _compare(ours: float, theirs: float, less_and_more: tuple[str, str] | None) -> str | None:
    """How the student's value compares to the teacher's: in points, or by a factor; None where there is no factor."""
    if less_and_more is None:
        return f"{100 * (ours - theirs):+.1f} points"
    if not min(ours, theirs):
        return None
    factor = max(ours, theirs) / min(ours, theirs)
    number = f"{factor:.2g}" if factor < 99.5 else f"{factor:,.0f}"  # else 304 would be 3e+02
    return "the same" if number == "1" else f"{number}× {less_and_more[ours > theirs]}"


def agreement(predictions: Predictions, role: str) -> list[list[int]] | None:
    """Counts of images: rows for student right and wrong, columns for teacher right and wrong; None without teacher.

    Example:
        >>> import torch
        >>> answers = {"student": torch.tensor([0, 0, 1]), "teacher": torch.tensor([0, 1, 1])}
        >>> agreement(Predictions(torch.tensor([0, 1, 1]), answers, [], torch.empty(0), torch.empty(0)), "student")
        [[2, 0], [1, 0]]
    """
    if "teacher" not in predictions.answers:
        return None
    ours, theirs = predictions.wrong(role), predictions.wrong("teacher")
    return [[int(((ours == a) & (theirs == b)).sum()) for b in (False, True)] for a in (False, True)]


def _matrix(page: RunPage) -> list[list[tuple[int, int]]] | None:
    """Count, and share of its row in percent, of each cell of the confusion matrix; None for too many classes."""
    if page.predictions is None or len(page.class_names) > MATRIX_CLASSES:
        return None
    matrix = page.predictions.confusion_matrix(page.role, len(page.class_names))
    shares = (100 * matrix / matrix.sum(1, keepdim=True).clamp(min=1)).round().long()
    return [list(zip(*row, strict=True)) for row in zip(matrix.tolist(), shares.tolist(), strict=True)]


def _opinions_on_pairs(page: RunPage) -> dict[tuple[int, int], int]:
    """How many images of each pair that the student confuses the teacher confuses likewise."""
    predictions = page.predictions
    if predictions is None or "teacher" not in predictions.answers:
        return {}
    theirs = predictions.answers["teacher"]
    pairs = [(one.truth, one.answer) for one in predictions.confusions(page.role, PAIRS)]
    return {pair: int(((predictions.truths == pair[0]) & (theirs == pair[1])).sum()) for pair in pairs}


def picture(image: Tensor) -> Image.Image:
    """A uint8 image ``(3, H, W)`` as a thumbnail."""
    thumbnail = to_pil_image(image)
    thumbnail.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
    return thumbnail


class FigurePicture(NamedTuple):
    """A figure as an image, and its caption as text."""

    image: Image.Image
    caption: str


@styled()
def figure_picture(figure: Figure) -> FigurePicture:
    """Renders a figure without its caption, which a page writes below it."""
    content, visible = io.BytesIO(), [text for text in figure.texts if text.get_visible()]
    for text in visible:
        text.set_visible(False)
    figure.savefig(content, format="png", dpi=160, bbox_inches="tight", pad_inches=0.05)
    for text in visible:
        text.set_visible(True)
    return FigurePicture(Image.open(content).convert("RGB"), " ".join(figure.get_supxlabel().split()))


def data_uri(image: Image.Image) -> str:
    """An image inside an address: as PNG where it is small or a figure, as JPEG where it is a photo."""
    content = io.BytesIO()
    photo = _SMALL < max(image.size) <= _THUMBNAIL
    image.save(content, format="JPEG" if photo else "PNG", **({"quality": 85} if photo else {"optimize": True}))
    return f"data:image/{'jpeg' if photo else 'png'};base64,{base64.b64encode(content.getvalue()).decode()}"
