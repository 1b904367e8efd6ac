"""Every block, command, link and name in the documentation: run, parsed, or looked up."""

import ast
import doctest
import importlib
import inspect
import re
import shutil
from fractions import Fraction
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from PIL import Image
from torchvision.models import resnet18

from helpers import fake_datasets
from helpers.doc_commands import CHECKS, build, check, check_verb, forgetting_modules, importing_from
from helpers.doc_pages import PAGES, ROOT, Block, blocks, commands, headings, links, rows, spans
from helpers.replaced_trainer import replace_trainer
from helpers.tiny import Net
from test_layers import RANK
from tmkd_lightning import ClassifierModule, TMKDModule
from tmkd_lightning.callbacks import TeacherAccuracyCheck
from tmkd_lightning.cli import main as cli
from tmkd_lightning.export import export_student
from tmkd_lightning.views import edge_view, high_frequency_view

pytestmark = pytest.mark.filterwarnings("ignore")  # pages show mistakes, and run twice in one folder

EXAMPLES = ROOT / "examples"
PACKAGE = ROOT / "src/tmkd_lightning"
FOLDERS = [ROOT, PACKAGE, EXAMPLES, ROOT / "tests"]
TUTORIAL = ROOT / "docs/tutorial.md"
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
DEFAULTS = {  # arguments of the equations
    parameter.name: parameter.default
    for part in (TMKDModule, edge_view, high_frequency_view)
    for parameter in inspect.signature(part).parameters.values()
} | {"logit_weight": 1}  # None stands for it, except beside KD and TeKAP
READS_ON = {"docs/export.md"}  # pages whose Python blocks continue the one before
REASONS = {  # why a block is not run
    "citation": "BibTeX",
    "cluster": "needs a scheduler or a server",
    "diff": "is applied by tests/integration/test_existing_project.py, which runs what it makes",
    "download": "downloads weights",
    "environment": "changes the reader's shell or repository",
    "layout": "folders and files",
    "long": "a benchmark",
    "notebook": "is run by tests/examples/test_notebook.py, which holds the page to its script",
    "output": "what a command prints or writes",
    "sketch": "code that leaves things out",
}
QUICK: dict[str, Any] = {
    "accelerator": "cpu",
    "num_sanity_val_steps": 0,
    **{f"limit_{stage}_batches": 1 for stage in ("train", "val", "test", "predict")},
    **dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False),
}


# What the pages take for granted


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """The folder in which a reader sits: the clone's examples, photos, benchmarks, and finished runs."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "examples").symlink_to(EXAMPLES)
    (folder / "tests").symlink_to(ROOT / "tests")
    for split in ("train", "val", "test", "new"):
        for label, name in enumerate(["cat", "crow", "dog"] if split != "new" else [""]):
            place = folder / "photos" / split / name
            place.mkdir(parents=True)
            for index in range(2):
                Image.new("RGB", (40, 32), fake_datasets.colour(label)).save(place / f"{index}.png")
    kinds = {name: name for name in ("cifar100", "rafdb", "dtd")} | {"cub200": "cub", "stanford_dogs": "dogs"}
    for name, kind in kinds.items():
        getattr(fake_datasets, f"make_{kind}")(folder / "data" / name)
    shutil.copytree(folder / "photos/new", folder / "data/leaves/images")
    lines = [f"{index}.png,{name},{split}" for split in ("train", "test") for index, name in enumerate(["oak", "elm"])]
    (folder / "data/leaves/list.csv").write_text("\n".join(lines))
    for block in blocks(TUTORIAL.read_text()):  # other pages lay their own over the tutorial's configs
        if block.name:
            (folder / block.name).write_text(block.code)
    shutil.copy(folder / "tmkd.yaml", folder / "student.yaml")  # which `tmkd new` writes
    return folder


@pytest.fixture(scope="module")
def runs(world) -> Path:
    """The tutorial's teacher and student, trained for one batch; and a student exported in each format."""
    trainer = {name: value for name, value in QUICK.items() if name not in ("logger", "enable_checkpointing")}
    data = {"init_args": {"image_size": 32, "batch_size": 2, "num_workers": 0}}
    (world / "small.yaml").write_text(yaml.safe_dump({"trainer": {**trainer, "max_epochs": 1}, "data": data}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        hurry(patch, world)
        for config in ("teacher.yaml", "tmkd.yaml"):
            cli.main(["fit", "--config", config, "--config", "small.yaml"])
        data = ["--data", "tmkd_lightning.data.ImageFolderDataModule", "--data.root", "photos"]
        cli.main(["embed", "--output", "texts.npz", *data, "--encoder", "tmkd_lightning.text.HashingTextEncoder"])
        network = ClassifierModule(Net(), class_names=["cat", "crow", "dog"])
        for file, kind in (("student.onnx", "onnx"), ("student.pt2", "torch_export")):
            export_student(network, file, format=kind, image_size=224)
        network = ClassifierModule(resnet18(num_classes=3))
        export_student(network, "student.safetensors", format="state_dict", image_size=32)
        trainer = Trainer(**QUICK)
        trainer.strategy.connect(network)
        trainer.save_checkpoint("last.ckpt")
    return world


@pytest.fixture
def here(runs, tmp_path, monkeypatch) -> Path:
    """That folder, for one page: what the page writes is seen by no other. Nothing is fetched, nothing is long."""
    for path in runs.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    hurry(monkeypatch, runs)
    replace_trainer(monkeypatch, partial(Trainer, **QUICK))
    fake_datasets.trust_cifar100(monkeypatch, runs / "data/cifar100/cifar-100-python")
    with forgetting_modules():
        yield tmp_path


def hurry(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Leaves out what takes time and decides nothing here."""
    patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    patch.setattr(TeacherAccuracyCheck.__init__, "__defaults__", (1,))  # batches
    patch.setattr(torch.nn.init, "kaiming_normal_", lambda weight, **options: weight)  # ResNets draw theirs twice


# Blocks


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_blocks_of(page, here) -> None:
    """From top to bottom, as they are read: configs are built, Python is run, commands are parsed."""
    namespace: dict[str, Any] = {}
    for block in blocks(page.read_text(), page.name):
        if str(page.relative_to(ROOT)) not in READS_ON:
            namespace = {}
        hold(block, namespace)


def hold(block: Block, namespace: dict[str, Any]) -> None:
    """Holds one block to what it says."""
    try:
        assert block.reason is None or block.reason in REASONS, f"unknown reason {block.reason!r}"
        if block.language == "bash":
            for words in commands(block.code):
                if block.reason is None or words[0] in CHECKS:  # what is not run can still be spelt right
                    check(words)
        elif block.reason is None:
            {"python": run_python, "yaml": read_yaml}[block.language](block, namespace)
    except (Exception, SystemExit) as error:
        error.add_note(f"in the block at {block.where}")
        raise


def read_yaml(block: Block, namespace: dict[str, Any]) -> None:
    """As a config, by itself if it is whole, else laid over the page's or the tutorial's; or as a grid of runs."""
    assert block.name, "the first line must be a comment with the name of the file"
    replace(block.name, block.code)
    content = yaml.safe_load(block.code)
    if "pairs" in content:
        with importing_from(EXAMPLES / "tables"):
            assert importlib.import_module("grid").read_grid(Path(block.name)).cells
        return
    base = "teacher.yaml" if "ClassifierModule" in block.code else "tmkd.yaml"
    build(*([] if {"model", "data"} <= content.keys() else [base]), block.name)


def run_python(block: Block, namespace: dict[str, Any]) -> None:
    """Imports a block that is a file, executes any other; then runs the tests and examples in it."""
    if block.name:
        replace(block.name, block.code)
        namespace.update(vars(importlib.import_module(block.name.removesuffix(".py"))))
    else:
        exec(compile(block.code, block.where, "exec"), namespace)
    for name, test in [item for item in namespace.items() if item[0].startswith("test_")]:
        test(*([Path.cwd()] if "tmp_path" in inspect.signature(test).parameters else []))
        del namespace[name]
    for name, part in list(namespace.items()):
        if ">>>" in block.code and inspect.isfunction(part):
            assert not doctest.DocTestRunner().run(doctest.DocTestFinder().find(part, name, globs=namespace)[0]).failed


def replace(name: str, text: str) -> None:
    """Writes a file where a link to another page's may be."""
    Path(name).unlink(missing_ok=True)
    Path(name).write_text(text)


def test_the_tutorials_runs_leave_what_it_says(runs) -> None:
    files = [row[0].strip("`") for row in rows(TUTORIAL.read_text(), "## 1. The quickstart, step by step")]
    assert len(files) == 5
    assert [file for run in ("teacher", "tmkd") for file in files if not (runs / "runs" / run / file).is_file()] == []


def test_no_fence_and_no_marker_is_overlooked() -> None:
    texts = [page.read_text() for page in PAGES]
    found = [block for text in texts for block in blocks(text)]
    assert sum(text.count("```") for text in texts) == 2 * len(found)
    assert sum(text.count("\n<!-- not run: ") for text in texts) == sum(block.reason is not None for block in found)
    assert {block.reason for block in found} == {None, *REASONS}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("```\nwhat is it?\n```", "KeyError"),
        ("<!-- not run: no time -->\n```python\n```", "unknown reason 'no time'"),
        ("```python\ndef test_it():\n    assert 1 == 2\n```", "AssertionError"),
        ('```python\ndef f():\n    """\n    >>> 1 + 1\n    3\n    """\n```', "failed"),
        ("```yaml\nmodel: {}\n```", "name of the file"),
        ("```yaml\n# a.yaml\nmodel: {init_args: {temprature: 1}}\n```", "temprature"),
        ("```bash\nls\n```", "'ls' is no command"),
        ("```bash\ntmkd fit --config examples/digits_kd.yaml --model.temperatur 2\n```", "temperatur"),
        ("```bash\ntmkd export --checkpoint a.ckpt --out b\n```", "--out"),
        ("<!-- not run: cluster -->\n```bash\nsbatch a && make tests\n```", "tests"),
        ("```bash\npython examples/benchmarks/views.py --photo a\n```", "--photo"),
        ("```bash\npip install '.[plots]'\n```", "no extra"),
    ],
)
def test_a_block_that_is_wrong_is_found(here, capsys, text, error) -> None:
    (block,) = blocks(text)
    with pytest.raises((Exception, SystemExit)) as caught:
        hold(block, {})
    assert error in f"{caught.type.__name__} {caught.value} {capsys.readouterr()}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_in_sentences_of(page, here) -> None:
    for span in spans(page.read_text()):
        words = span.split()
        if words[0] in CHECKS and words[1:] and "<" not in span:
            whole = "..." not in span and (words[0] != "tmkd" or len(words) > 3)
            (check if whole else check_verb)(commands(span)[0])


# Names


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_and_names_of(page) -> None:
    """Pages, headings and pictures that are linked to are there; files, configs and Python names that stand in
    backticks, and Python names anywhere, too."""
    text = page.read_text()
    for link in links(text):
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not heading or heading in headings(target.read_text()), f"{page.name} links to {link}"
    for name in set(re.findall(r"\btmkd_lightning(?:\.\w+)+", text)):
        resolve_name(name)
    written = {block.name for other in PAGES for block in blocks(other.read_text())}
    files = r"(examples|tests|src|docs|methods|ablations)/[\w/.-]*|[\w/]+\.(py|toml|svg)|[A-Z]+\.md|mkdocs\.yml"
    for span in spans(text):
        if re.fullmatch(files, span) and span not in written:
            places = [folder / f"{span}{end}" for folder in FOLDERS for end in ("", ".yaml")]
            assert any(place.exists() for place in places), f"{page.name} names {span}"


def test_every_public_name_is_on_the_page_of_the_api() -> None:
    """Under whatever path; a function that is called like its file needs the longer one, or the file is shown."""
    page = (ROOT / "docs/api.md").read_text()
    documented = {id(resolve_name(path)) for path in re.findall(r"^::: ([\w.]+)$", page, re.M)}
    packages = [
        importlib.import_module(".".join(file.parent.relative_to(ROOT / "src").parts))
        for file in PACKAGE.rglob("__init__.py")
        if "__all__" in file.read_text()
    ]
    assert len(packages) > 10
    for package in packages:
        missing = [name for name in package.__all__ if id(getattr(package, name)) not in documented]
        assert not missing, f"{package.__name__} exports {missing}, which docs/api.md lacks"


def test_every_equation_has_its_file_its_defaults_and_its_test() -> None:
    page = (ROOT / "docs/method.md").read_text()
    equations = {row[0] or row[1]: row for row in rows(page, "## Equation by equation")}
    tested = {row[0]: row[-1] for row in rows(page, "## Where each is tested")}
    assert list(equations) == list(tested)
    for name, (*_, where, defaults) in equations.items():
        for file, *names in (part.split(": ") for part in where.split("; ")):
            words = set(re.findall(r"\w+", " ".join(names)))
            assert words <= defined(PACKAGE / file.strip("`")), f"{name}: {file} lacks one of {names}"
        for argument, value in re.findall(r"`(\w+)`(?: [τλ])? ([\d./]+|\"\w+\")(?![\w/])", defaults):
            expected = value.strip('"') if '"' in value else pytest.approx(float(Fraction(value)))
            assert DEFAULTS[argument] == expected, f"{name}: {argument} is not {value}"
        assert re.search(r"\[(paper|lineage|choice)", " ".join(equations[name])), f"{name} has no origin"
        tests = re.findall(r"`([\w/]+\.py)::(\w+)`", tested[name])
        assert tests, f"{name} names no test"
        for file, test in tests:
            assert test in defined(ROOT / "tests" / file), f"{name}: {file} has no {test}"


def defined(file: Path) -> set[str]:
    """Names of the functions, classes, methods and constants of a file."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    assigned = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return assigned | {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def test_the_picture_and_the_navigation_name_the_files_that_there_are() -> None:
    files = re.findall(r'class="file"[^>]*>([^<]+)<', (ROOT / "docs/images/data_flow.svg").read_text())
    assert len(files) == 10
    assert [file for file in files if not (PACKAGE / file).exists()] == []
    pages = set(re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M))
    assert pages == {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}


def test_the_tree_has_every_package_at_its_level_and_names_files_that_exist() -> None:
    tree = re.search(r"^level .*?```", (ROOT / "CONTRIBUTING.md").read_text(), re.M | re.S)[0]
    levels = {name: int(level) for level, name in re.findall(r"^ +(\d) +(\w+)/", tree, re.M)}
    assert levels == {name: rank for name, rank in RANK.items() if not name.startswith("__")}
    for file in re.findall(r"\w+\.py", tree):
        assert list(PACKAGE.rglob(file)), file
