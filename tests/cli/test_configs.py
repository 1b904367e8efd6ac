"""Every config under examples/ trains as it is, on fakes: image size, batches, root and pretrained flags differ."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningCLI

from helpers import fake_datasets
from helpers.methods import METHODS as EVERY
from helpers.methods import NUMBERED, slow_unless
from tmkd_lightning import PAPER, TMKDModule
from tmkd_lightning.cli.main import main as tmkd
from tmkd_lightning.distillers import Distiller
from tmkd_lightning.models import vgg13

EXAMPLES = Path(__file__).parents[2] / "examples"
TEACHERS = sorted(path.stem for path in EXAMPLES.glob("*_teacher_*.yaml"))
PAIRS = sorted(
    path.stem for path in EXAMPLES.glob("*_*_*.yaml") if "teacher" not in path.stem and "digits" not in path.stem
)
METHODS = sorted(path.stem for path in (EXAMPLES / "methods").glob("*.yaml"))
ABLATIONS = sorted(path.stem for path in (EXAMPLES / "ablations").glob("*.yaml"))
CLASSES = {"cub": 3, "cifar100": 3, "rafdb": 7, "dtd": 3, "dogs": 3}
HASHING = {"encoder": "tmkd_lightning.text.HashingTextEncoder", "cache_dir": "texts"}  # CLIP cannot be fetched in tests
TEXTS = [{"class_path": "tmkd_lightning.callbacks.PromptEmbeddings", "init_args": HASHING}]
SHORT = {
    "accelerator": "cpu",
    "max_epochs": 1,
    "log_every_n_steps": 1,
    "limit_train_batches": 2,
    "limit_val_batches": 1.0,
}
QUIET = {"enable_progress_bar": False, "enable_model_summary": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """All five benchmarks in miniature, and, once asked for, their teachers."""
    folder = tmp_path_factory.mktemp("configs")
    for name in CLASSES:
        getattr(fake_datasets, f"make_{name}")(folder / "data" / name)
    return folder


@pytest.fixture
def run(folder, monkeypatch) -> Callable[..., None]:
    monkeypatch.chdir(folder)
    fake_datasets.trust_cifar100(monkeypatch, folder / "data/cifar100/cifar-100-python")

    def run(config: str, *overlays: str) -> None:
        given = yaml.safe_load((EXAMPLES / f"{config}.yaml").read_text())["model"]["init_args"]
        teacher = given.get("teacher_checkpoint")
        if teacher is not None and not Path(teacher).exists():
            run(Path(teacher).parent.name)
        tmkd(["fit", *arguments(folder, config, *(EXAMPLES / f"{overlay}.yaml" for overlay in overlays))])

    return run


def arguments(folder: Path, config: str, *overlays: Path) -> list[str]:
    """The config, what is laid over it, and what is small, last."""
    dataset, path = config.split("_")[0], EXAMPLES / f"{config}.yaml"
    networks = {
        role: {"init_args": {"weights": None}}
        for role, network in yaml.safe_load(path.read_text())["model"]["init_args"].items()
        if role in ("student", "network") and "Pretrained" in network["class_path"]
    }
    data = {
        "root": f"data/{dataset}",
        "batch_size": 3,
        "num_workers": 0,
        "image_size": 64 if "resnet" in config else 32,
    }
    small = {
        "trainer": {**SHORT, **QUIET, **({} if "teacher" in config else {"callbacks+": TEXTS})},
        "model": {"init_args": networks},
        "data": {"init_args": {**data, **({"val_fraction": 0.4} if dataset != "dtd" else {})}},
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(small))
    return [f"--config={name}" for name in (path, *overlays, folder / "small.yaml")]


def test_there_is_a_config_for_every_cell() -> None:
    assert len([name for name in PAIRS if name.startswith("cub")]) == 5
    assert {name.split("_")[0] for name in PAIRS} == set(CLASSES)
    assert {name.removesuffix("_tmkd") for name in METHODS} == {*EVERY, *NUMBERED, "student"}


QUICK = ("cub_vgg13_vgg8", "cub_resnet50_resnet18", "cifar100_wrn40_2_wrn40_1")  # the others differ in their data


@pytest.mark.parametrize("config", slow_unless(PAIRS, QUICK.__contains__))
def test_pair(run, config) -> None:
    """The student learns from the teacher that the teacher's config left, both with as many classes as the data."""
    run(config)
    (path,) = Path("runs", config, "tmkd").rglob("best.ckpt")
    state = torch.load(path, weights_only=True)["state_dict"]
    head = [value for key, value in state.items() if key.startswith("student.")][-1]
    assert len(head) == CLASSES[config.split("_")[0]]


@pytest.mark.parametrize("method", [name for name in METHODS if name.endswith("_tmkd")])
def test_an_overlay_with_tmkd_is_the_plain_one_without_its_zeros(method) -> None:
    plain, ours = (
        yaml.safe_load((EXAMPLES / "methods" / f"{name}.yaml").read_text())["model"]["init_args"]
        for name in (method.removesuffix("_tmkd"), method)
    )
    assert plain == {**ours, "views": ["rgb"], "feature_weight": 0, "logit_weight": 0, "text_weight": 0}


@pytest.mark.parametrize("method", [name for name in METHODS if name != "student"])
def test_an_overlay_makes_the_method_of_its_name(method) -> None:
    """With the arguments that are written there, which need not be the defaults."""
    written = yaml.safe_load((EXAMPLES / "methods" / f"{method}.yaml").read_text())["model"]["init_args"]["distiller"]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--distiller", type=Distiller)
    made = parser.instantiate(parser.parse_object({"distiller": written})).distiller
    assert made.method_name == (EVERY | NUMBERED)[method.removesuffix("_tmkd")]().method_name


def is_quick(name: str) -> bool:
    """The others take the same way through the command line, and train in tests of their own."""
    return name in ("kd", "cat_kd", "crd", "student", "kd_tmkd")


@pytest.mark.parametrize("method", slow_unless(METHODS, is_quick))
def test_method(run, method) -> None:
    run("cub_vgg13_vgg8", f"methods/{method}")
    metrics = Path("runs/cub_vgg13_vgg8", method, "version_0/metrics.csv").read_text().splitlines()[0].split(",")
    terms = {name.removeprefix("train/") for name in metrics if name.startswith("train/")}
    own = {method.removesuffix("_tmkd")} - {"student"}
    with_logits = any(EVERY[term]().is_logit_term for term in own & EVERY.keys())
    added = {"feature", "text", "fusion"} | (set() if with_logits else {"logit"})
    assert terms - {"loss", "loss_step", "loss_epoch"} == {"ce"} | own | (added if method.endswith("_tmkd") else set())


def test_the_papers_overlay_is_the_papers_settings() -> None:
    written = yaml.safe_load((EXAMPLES / "ablations" / "paper.yaml").read_text())["model"]["init_args"]
    assert written == {name: list(value) if isinstance(value, tuple) else value for name, value in PAPER.items()}


FIRST = ("paper", "fusion_distillation", "fusion_mean", "losses_logit", "views_rgb")  # the others are like one of them


@pytest.mark.parametrize("ablation", slow_unless(ABLATIONS, FIRST.__contains__))
def test_ablation(run, ablation) -> None:
    run("cub_vgg13_vgg8", "methods/cat_kd_tmkd", f"ablations/{ablation}")
    (path,) = Path("runs/cub_vgg13_vgg8", ablation).rglob("best.ckpt")
    module = TMKDModule.load_from_checkpoint(path, weights_only=True)
    views = {"rgb", "edge", "high_frequency"}
    if ablation.startswith("views_"):
        views = {view for view in views if view in ablation}
    assert set(module.views.names) == views
    trained_as_published = ablation in ("paper", "fusion_distillation")
    assert module.fusion_objective == ("distillation" if trained_as_published else "label")
    kept = {"feature" in ablation, "text" in ablation} if ablation.startswith("losses_") else {True}
    assert {len(module.distiller.parts) == 3, module.text_alignment is not None} == kept


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of jsonargparse, about how Lightning calls it
@pytest.mark.parametrize("config", slow_unless(PAIRS, QUICK.__contains__))
def test_stock_command_line(folder, monkeypatch, config) -> None:
    """Lightning's own class takes the same files, in subclass mode."""
    monkeypatch.chdir(folder)
    cli = LightningCLI(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        run=False,
        args=arguments(folder, config, EXAMPLES / "methods/cat_kd_tmkd.yaml"),
    )
    assert isinstance(cli.model, TMKDModule)
    if config == "cub_vgg13_vgg8":
        torch.save(vgg13(num_classes=3).state_dict(), "vgg13.pt")
        cli.model.teacher_checkpoint = "vgg13.pt"
        cli.trainer.fit(cli.model, cli.datamodule)
        assert cli.model.num_classes == CLASSES["cub"]
