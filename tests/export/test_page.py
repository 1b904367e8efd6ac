"""The page of a run: its numbers, its texts, how it looks in a browser, and what Weights & Biases gets of it."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from dataclasses import replace
from importlib.resources import files
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule
from PIL import Image
from sklearn.metrics import confusion_matrix
from torch.utils.data import DataLoader

from helpers.browser import BROWSER, open_pages
from helpers.tiny import Net, tmkd_module
from tmkd_lightning import ClassifierModule, Extractor, TMKDModule
from tmkd_lightning.data import ImageFolderDataModule
from tmkd_lightning.export import RunPage, collect_page, log_page, report, write_page
from tmkd_lightning.export import page as page_module
from tmkd_lightning.export.page import MATRIX_CLASSES, PAIRS, gains, to_html
from tmkd_lightning.figures import History

HOSTILE = ["<script>alert(1)</script>", '" onerror="alert(2)', "{{ 7 * 7 }} & co\u202e", *map(str, range(3, 100))]


@pytest.fixture(autouse=True, scope="module")
def short() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "_SECONDS", 0.0)
        patch.setattr(report, "_RUNS", 2)
        yield


class Noise(LightningDataModule):
    """Test images of coloured noise, of as many classes as there are names."""

    def __init__(self, classes: int, size: int = 12, images: int = 120) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.class_names = HOSTILE[:classes]
        self.images = torch.rand(images, 3, size, size, generator=generator)
        self.images *= torch.rand(images, 3, 1, 1, generator=generator)
        self.labels = torch.randint(classes, (images,), generator=generator)

    def test_dataloader(self) -> Any:
        return DataLoader(list(zip(self.images, self.labels, strict=True)), batch_size=50)


def distilled(classes: int) -> TMKDModule:
    torch.manual_seed(5)
    networks = Net(num_classes=classes), Net(4, num_classes=classes)
    module = tmkd_module(*networks, views=["rgb", "edge"], fusion="mean", text_weight=0)
    for extractor in (module.extractor, module.teacher.extractor):  # so that they answer variously
        extractor.network.fc.weight.data *= 30
    return module


def collect(module: Any, data: Any, **options: Any) -> RunPage:
    history = History({"rgb": {0: 0.5, 1: 0.4}}, {0: 0.2, 1: 0.3})
    options = {"mistakes": 6, "histories": lambda: {"<run>": history}, "source": "From <run>", **options}
    return collect_page(module, image_size=12, batch_sizes=[1], data=data, accelerator="cpu", **options)


@pytest.fixture(scope="module")
def few() -> RunPage:
    """Three classes, small images."""
    return collect(distilled(3), Noise(3))


@pytest.fixture(scope="module")
def many() -> RunPage:
    """More classes than a matrix has room for, and photos in files of unpleasant names."""
    page = collect(distilled(MATRIX_CLASSES + 1), Noise(MATRIX_CLASSES + 1, size=100, images=60))
    return replace(page, files=[f"a b/{index}<img src=x onerror=alert(3)>{'long' * 30}.jpg" for index in range(60)])


@pytest.fixture(scope="module")
def few_html(few) -> str:
    return to_html(few)


@pytest.fixture(scope="module")
def many_html(many) -> str:
    return to_html(many)


def table(page: str, caption: str) -> list[list[str]]:
    """The texts of the cells of the table with this caption."""
    (found,) = [one for one in re.findall(r"<table.*?</table>", page, re.DOTALL) if caption in one]
    rows = re.findall(r"<tr>(.*?)</tr>", found, re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[html.unescape(re.sub("<[^>]*>", "", cell)).strip() for cell in row] for row in cells]


def test_the_numbers_are_those_of_the_report(few, tmp_path) -> None:
    _, written = report.write_report(few.report, tmp_path / "report")
    stored = json.loads(written.read_text())
    page = write_page(few, tmp_path / "run.html", "a run").read_text()
    assert table(page, "Size, work, latency and accuracy") == report.table_rows(stored)
    student, teacher = stored["networks"]["student"], stored["networks"]["teacher"]
    tiles = [re.sub("<[^>]*>", "|", tile).split("|") for tile in re.findall(r"<li><span.*?</li>", page)]
    shown = {texts[0]: texts[1:] for texts in ([text for text in tile if text] for tile in tiles)}
    points = 100 * (student["accuracy"]["top1"] - teacher["accuracy"]["top1"])
    assert shown["top-1"] == [
        f"{student['accuracy']['top1']:.1%}",
        f"{points:+.1f} points",
        f"teacher: {teacher['accuracy']['top1']:.1%}",
    ]
    assert shown["parameters"] == [f"{4 * 27 + 8 + 12 + 3}", "2× fewer", f"teacher: {8 * 27 + 16 + 24 + 3}"]
    wrong = round((1 - student["accuracy"]["top1"]) * stored["data"]["test_images"])
    assert f"The student has {wrong} of 120 test images wrong" in page


def test_numbers_are_compared_in_words() -> None:
    network = {"network": "Net", "macs": 9, "bytes": 8, "latency": [], "accuracy": None}
    for ours, theirs, macs, words in (
        (1_000, 304_400, 9, ["304× fewer", "the same"]),
        (3_000, 1_000, 0, ["3× more", None]),
        (995, 1_000, 18, ["the same", "2× fewer"]),
    ):
        networks = {
            "teacher": {**network, "parameters": theirs, "macs": macs},
            "student": {**network, "parameters": ours},
        }
        found = gains({"networks": networks, "ratio": None})
        assert [one.words for one in found if one.name in ("parameters", "MACs")] == words


def test_the_confusion_matrix_and_who_is_right(few_html) -> None:
    """By scikit-learn, from logits that were asked for here."""
    data = Noise(3)
    module = distilled(3)
    with torch.no_grad():
        answers = {
            role: Extractor(network.network.eval())(data.images).logits.argmax(1)
            for role, network in (("student", module.extractor), ("teacher", module.teacher.extractor))
        }
    page = few_html
    shown = [[int(cell) for cell in row[1:]] for row in table(page, "Confusion matrix")[1:]]
    assert shown == confusion_matrix(data.labels, answers["student"]).tolist()
    right = {role: one == data.labels for role, one in answers.items()}
    both = [[(right["student"] == a) & (right["teacher"] == b) for b in (True, False)] for a in (True, False)]
    expected = [[int(cell.sum()) for cell in row] for row in both]
    assert len({count for row in expected for count in row}) == 4
    assert [[int(cell) for cell in row[1:]] for row in table(page, "have right and wrong")[1:]] == expected
    assert f"and the teacher {expected[1][0]} of these right" in page


def test_many_classes_have_pairs_instead(many, many_html) -> None:
    page = many_html
    assert "Confusion matrix" not in page
    data, (_, *rows) = Noise(MATRIX_CLASSES + 1, 100, 60), table(page, "confuses most often, of 21 classes")
    counts = confusion_matrix(data.labels, many.predictions.answers["student"], labels=range(MATRIX_CLASSES + 1))
    teachers = confusion_matrix(data.labels, many.predictions.answers["teacher"], labels=range(MATRIX_CLASSES + 1))
    totals = counts.sum(1)
    np.fill_diagonal(counts, 0)
    assert len(rows) == min(PAIRS, (counts > 0).sum())
    assert [int(row[2]) for row in rows] == sorted(counts[counts > 0], reverse=True)[:PAIRS]
    names = [name.replace("\u202e", "\\u202e") for name in many.class_names]
    for truth, answer, images, share, by_teacher in rows:
        place = names.index(truth), names.index(answer)
        assert (int(images), int(by_teacher)) == (counts[place], teachers[place])
        assert share == f"{100 * counts[place] / totals[place[0]]:.0f} %"


def test_every_mistake_has_its_image_and_both_opinions(few, few_html) -> None:
    page = few_html
    cards = re.findall(r"<li>\s*<img.*?</li>", page, re.DOTALL)
    assert len(cards) == 6
    images = Noise(3).images
    for card, one in zip(cards, few.predictions.mistakes, strict=True):
        content = base64.b64decode(re.search(r'src="data:image/png;base64,([^"]*)"', card)[1])
        pixels = torch.from_numpy(np.asarray(Image.open(io.BytesIO(content))).copy()).permute(2, 0, 1)
        assert pixels.equal((images[one.index] * 255).round().to(torch.uint8))
        shown = re.findall(r"([\d.]+) %</span></span>\s*<span class=\"bar", card)
        assert shown == [f"{100 * one.opinions[role].probability:.1f}" for role in ("student", "teacher")]
        assert f"test image {one.index}<" in card
        assert card.count("✗") == 1 + (one.opinions["teacher"].answer != one.truth)


def test_nothing_from_outside_is_markup(few, many, tmp_path) -> None:
    for page in (few, many):
        text = to_html(replace(page, report={"checkpoint": "<b>.ckpt", **page.report}), "<i>run</i>")
        for tag in ("<script", "<img src=x", "<b>.ckpt", "<i>run", "<run>", 'alt="" onerror'):
            assert tag not in text
        assert "{{ 7 * 7 }} &amp; co\\u202e" in text  # and no template of ours, nor a mark that turns the line round
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
        assert {link[:10] for link in re.findall(r'(?:src|href)="([^"#]*)', text)} == {"", "data:image"}
        assert not re.findall(r"(?:src|href)=[^\"]", re.sub("&lt;.*?&gt;", "", text))
        assert "url(" not in text
        assert "@import" not in text


def test_what_is_missing_is_said_in_its_place(tmp_path, monkeypatch) -> None:
    module = distilled(3)
    page = to_html(collect(module, None, histories=None))
    assert page.count("Not measured: no data were given.") == 2  # confusions and mistakes
    assert page.count("Not drawn: no data were given.") == 2  # views and class activation maps
    assert "Not drawn: no metrics of the training were given." in page
    assert "<img" not in page
    page = to_html(collect(module, Noise(3), no_teacher="its <file> is gone"))
    assert "The teacher&#39;s opinion is missing: its &lt;file&gt; is gone." in page
    assert "The teacher&#39;s answers are missing: its &lt;file&gt; is gone." in page
    assert page.count('<span class="bar"') == 6  # the student's alone
    monkeypatch.setattr(page_module, "check_matplotlib", _no_matplotlib)
    page = to_html(collect(ClassifierModule(Net()), Noise(3)))
    assert page.count("Not drawn: figures need matplotlib") == 3
    assert "<dt>network</dt>" in page
    assert "teacher" not in re.sub("<style.*?</style>", "", page, flags=re.DOTALL).replace("of the teacher", "")


def test_a_number_of_examples_that_figures_cannot_be_made_of() -> None:
    with pytest.raises(ValueError, match="examples must be a whole number, at least 1, got 0"):
        collect(ClassifierModule(Net()), None, examples=0)


def _no_matplotlib() -> None:
    raise ModuleNotFoundError("figures need matplotlib: pip install matplotlib")


def test_files_of_test_images_are_named_as_they_lie_in_their_folder(tmp_path, monkeypatch) -> None:
    for split in ("train", "test"):
        for label, name in enumerate(("a", "b", "c")):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(2):
                Image.new("RGB", (12, 12), tuple(90 * (one == label) for one in range(3))).save(
                    tmp_path / split / name / f"{index}.png"
                )
    data = ImageFolderDataModule(str(tmp_path), image_size=12, num_workers=0, batch_size=4)
    page = collect(ClassifierModule(Net()), data)
    assert page.files == [f"test/{name}/{index}.png" for name in "abc" for index in range(2)]
    for one in page.predictions.mistakes:
        assert page.files[one.index].split("/")[1] == "abc"[one.truth]
    monkeypatch.setattr(data, "test_dataloader", lambda: data._loader(data._datasets["test"], sampler=range(5, -1, -1)))
    assert collect(ClassifierModule(Net()), data).files is None  # another order: which is which is not known


def test_a_page_takes_its_name_once_it_is_whole(few, tmp_path) -> None:
    path = write_page(few, tmp_path / "new" / "run.html")
    before = path.read_text()
    with pytest.raises(ValueError, match="num_classes"):
        write_page(replace(few, class_names=["one"]), path)
    assert path.read_text() == before
    with pytest.raises(IsADirectoryError, match="new is a folder: give the name of a file"):
        write_page(few, tmp_path / "new")
    assert [one.name for one in path.parent.iterdir()] == ["run.html"]


# How it looks


def colours(block: str) -> dict[str, np.ndarray]:
    found = re.findall(r"--(\w+): #(\w{6});", block)
    return {name: np.array([int(value[place : place + 2], 16) for place in (0, 2, 4)]) for name, value in found}


def contrast(one: np.ndarray, other: np.ndarray) -> float:
    """Of WCAG 2, from 1 to 21."""

    def luminance(colour: np.ndarray) -> float:
        part = colour / 255
        return np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_both_looks_and_the_print_have_enough_contrast() -> None:
    template = (files("tmkd_lightning.export") / "page.html").read_text("utf-8")
    looks = [colours(block) for block in re.findall(r":root \{(.*?)\}", template, re.DOTALL)]
    assert [len(look) for look in looks] == [10, 10, 10]  # light, dark, print
    assert contrast(np.zeros(3), np.full(3, 255)) == pytest.approx(21)
    for look in looks:
        for text in ("ink", "soft", "accent", "bad", "good"):
            assert min(contrast(look[text], look[ground]) for ground in ("ground", "card")) >= 4.5
        for shade, most in (("shade", 0.45), ("miss", 1.0)):  # of the cells of the matrix
            assert contrast(look["ink"], most * look[shade] + (1 - most) * look["card"]) >= 4.5


@pytest.mark.skipif(BROWSER is None, reason="there is no chromium here to open the page in")
def test_a_browser_shows_it_whole_on_a_phone_and_on_a_desk_and_asks_nobody(few_html, many_html, tmp_path) -> None:
    seen = open_pages([few_html, many_html], [400, 1200], tmp_path)
    assert seen.console == []
    assert [frame["width"] for frame in seen.frames] == [400, 1200, 400, 1200]
    for frame in seen.frames:
        assert (frame["scrolls"], frame["outside"]) == (False, [])
        assert (frame["images"], frame["broken"], frame["nameless"]) == (6 + 3, 0, 0)  # mistakes and figures
        assert (frame["requests"], frame["scripts"]) == ([], 0)
        assert "<script>alert(1)</script>" in frame["text"]


@pytest.mark.skipif(BROWSER is None, reason="there is no chromium here to open the page in")
def test_the_browser_would_notice(few_html, tmp_path) -> None:
    """A request, a broken image and something too wide, each put into a page on purpose."""
    broken = (
        '<p style="width: 500px">wide</p><img src="data:image/png;base64,AAAA"><img src="http://127.0.0.1:9/a.png">'
    )
    seen = open_pages([few_html.replace("<footer>", f"{broken}<footer>")], [400], tmp_path)
    (frame,) = seen.frames
    assert (frame["images"], frame["broken"], frame["nameless"]) == (6 + 3 + 2, 2, 2)
    assert frame["scrolls"]
    assert any("wide" in one for one in frame["outside"])
    assert any("Content Security Policy" in line for line in seen.console)


# Weights & Biases


def test_weights_and_biases_get_the_same(few, many) -> None:
    logged: list[dict[str, Any]] = []
    for page in (few, many, replace(many, predictions=None, files=None, figures={"cam": "no maps"})):
        log_page(page, SimpleNamespace(log=logged.append))
    first, second, third = logged
    figures = {"report/curves", "report/views", "report/cam"}
    assert set(first) == {"report/networks", "report/mistakes", "report/confusion_matrix", *figures}
    assert set(second) == {"report/networks", "report/mistakes", "report/confusions", *figures}
    assert set(third) == {"report/networks"}
    assert [["", *first["report/networks"].columns[1:]], *first["report/networks"].data] == report.table_rows(
        few.report
    )
    rows = first["report/mistakes"].data
    for row, one in zip(rows, few.predictions.mistakes, strict=True):
        student, teacher = one.opinions["student"], one.opinions["teacher"]
        names = few.class_names
        assert np.array_equal(np.asarray(row[0].image), one.image.permute(1, 2, 0))
        assert row[1:5] == [names[one.truth], names[student.answer], student.probability, student.of_truth]
        assert row[5:] == [names[teacher.answer], teacher.probability, teacher.of_truth, one.index]
    assert second["report/mistakes"].columns[-1] == "file"
    chart = first["report/confusion_matrix"].table.data
    counts = {(truth, answer): count for truth, answer, count in chart}
    expected = few.predictions.confusion_matrix("student", 3)
    assert counts == {
        (a, b): int(expected[i, j]) for i, a in enumerate(few.class_names) for j, b in enumerate(few.class_names)
    }
    assert second["report/confusions"].data[0][2] == many.predictions.confusions("student", 1)[0].images
